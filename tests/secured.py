"""An Apache Kafka that lets nobody in without a certificate or a password, and the authority that signs for it.

Two listeners: `sasl` speaks SASL_SSL (PLAIN, users alice and bob), `mutual` asks for a client certificate. The broker's
own listener stays open on loopback, to look at what arrived.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from confluent_kafka.admin import AdminClient
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from deploy import environment
from deploy.kafka import jars, java
from deploy.kafka.ports import free_port
from deploy.supervisor import end_with_parent

PASSWORDS = {"alice": "alice-secret-4711", "bob": "bob-secret-0815"}
_DEADLINE_S = 180.0
_LOOPBACK = ipaddress.ip_address("127.0.0.1")


class Authority:
    """A certificate authority of one test."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._name = folder, name
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = self._signed(self._subject, self._key, authority=True)
        self.file = folder / f"{name}.pem"
        self.file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def issue(self, name: str) -> tuple[Path, Path]:
        """Sign a certificate for loopback; give the files of certificate and key."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = self._signed(subject, key, authority=False)
        files = self._folder / f"{self._name}-{name}.crt", self._folder / f"{self._name}-{name}.key"
        files[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        files[1].write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return files

    def _signed(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, *, authority: bool) -> x509.Certificate:
        now = dt.datetime.now(dt.UTC)
        loopback = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(_LOOPBACK)])
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(hours=1))
            .not_valid_after(now + dt.timedelta(days=2))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(loopback, critical=False)
            .sign(self._key, hashes.SHA256())
        )


@dataclass(frozen=True, slots=True)
class Secured:
    """A running broker."""

    open: str
    sasl: str
    mutual: str
    authority: Authority


@contextmanager
def kafka(folder: Path) -> Iterator[Secured]:
    """Run a broker until the block ends."""
    authority = Authority(folder, "authority")
    certificate, key = authority.issue("broker")
    (folder / "broker.pem").write_bytes(key.read_bytes() + certificate.read_bytes())
    ports = {name: free_port() for name in ("OPEN", "SASL", "MUTUAL", "CONTROLLER")}
    (folder / "server.properties").write_text(_properties(folder, ports, authority))
    class_path = jars.class_path(environment.home() / "kafka", print)
    command = [str(java.find()), "-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", class_path]
    format_ = ["kafka.tools.StorageTool", "format", "--standalone", "-t", "MkU3OEVBNTcwNTJENDM2Qg", "-c"]
    with (folder / "server.log").open("wb") as log:
        subprocess.run(
            [*command, *format_, "server.properties"], cwd=folder, stdout=log, stderr=log, check=True
        )  # fmt: skip
        process = subprocess.Popen(
            [*command, "kafka.Kafka", "server.properties"], cwd=folder, stdout=log, stderr=log,
            preexec_fn=end_with_parent,  # noqa: PLW1509 - only a system call
        )  # fmt: skip
    try:
        names = {name: f"127.0.0.1:{port}" for name, port in ports.items()}
        _await(process, names["OPEN"], folder / "server.log")
        yield Secured(names["OPEN"], f"localhost:{ports['SASL']}", f"localhost:{ports['MUTUAL']}", authority)
    finally:
        process.kill()
        process.wait()


def _await(process: subprocess.Popen[bytes], bootstrap: str, log: Path) -> None:
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0, "reconnect.backoff.max.ms": 200})
    deadline = time.monotonic() + _DEADLINE_S
    while True:
        try:
            if admin.list_topics(timeout=1).brokers:
                return
        except Exception as exc:
            if process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"no broker:\n{log.read_text()[-3_000:]}") from exc


def _properties(folder: Path, ports: dict[str, int], authority: Authority) -> str:
    users = " ".join(f'user_{name}="{password}"' for name, password in PASSWORDS.items())
    login = "org.apache.kafka.common.security.plain.PlainLoginModule"
    hosts = {"OPEN": "127.0.0.1", "SASL": "localhost", "MUTUAL": "localhost", "CONTROLLER": "127.0.0.1"}
    listeners = ",".join(f"{name}://{hosts[name]}:{port}" for name, port in ports.items())
    found = {
        "process.roles": "broker,controller",
        "node.id": "1",
        "listeners": listeners,
        "advertised.listeners": listeners,
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "OPEN",
        "listener.security.protocol.map": "OPEN:PLAINTEXT,SASL:SASL_SSL,MUTUAL:SSL,CONTROLLER:PLAINTEXT",
        "controller.quorum.bootstrap.servers": f"127.0.0.1:{ports['CONTROLLER']}",
        "log.dirs": str(folder / "data"),
        "auto.create.topics.enable": "false",
        "offsets.topic.replication.factor": "1",
        "offsets.topic.num.partitions": "1",
        "group.initial.rebalance.delay.ms": "0",
        "log.cleaner.dedupe.buffer.size": str(16 << 20),
        "sasl.enabled.mechanisms": "PLAIN",
        "listener.name.sasl.plain.sasl.jaas.config": f"{login} required {users};",
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(folder / "broker.pem"),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(authority.file),
        "listener.name.mutual.ssl.client.auth": "required",
    }
    return "".join(f"{key}={value}\n" for key, value in found.items())
