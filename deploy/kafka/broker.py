"""One Apache Kafka node in KRaft mode, on loopback, with its data in a folder that outlives it.

The folder holds `server.properties`, `data/`, `broker.json` (pid, start time and address while it runs), `server.log`
and a lock. The same folder comes up again with everything that was in it.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import signal
import socket
import subprocess
import time
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Final

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from deploy.errors import ProcessFailed, UserError
from deploy.supervisor import tail

log = logging.getLogger(__name__)

LOOPBACK: Final = "127.0.0.1"
_JVM: Final = ("-Xms128m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Djava.awt.headless=true")
_LOG4J: Final = "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"
_NAME: Final = "broker"
_started: Final[dict[int, subprocess.Popen[bytes]]] = {}
"""Brokers that this process started. They may outlive it; while it lives, it has to reap them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A broker that runs."""

    pid: int
    started: int
    """Start time of the process in kernel ticks: with it, a pid that another program took over is recognised."""
    bootstrap: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerSettings:
    """Where and with what a broker runs."""

    folder: Path
    java: Path
    class_path: str
    port: int = 0
    """Client port on loopback; 0 takes a free one, and keeps it for this folder."""
    ready_s: float = 60.0
    """How long the start may take before it counts as failed."""


def running(folder: Path) -> Running | None:
    """Tell which broker serves this folder, if one does; a stale file left by a crash does not count."""
    try:
        fields = json.loads((folder / "broker.json").read_text(encoding="utf-8"))
        found = Running(**fields)
    except (OSError, ValueError, TypeError):
        return None
    return found if _start_ticks(found.pid) == found.started else None


def start(settings: BrokerSettings, environment: Mapping[str, str]) -> Running:
    """Start a broker and wait until it answers; when one already serves this folder, give that one.

    Raises:
        ProcessFailed: it did not come up; the detail holds the end of Kafka's own log.
        UserError: another start of the same folder is under way.
    """
    settings.folder.mkdir(parents=True, exist_ok=True)
    with (settings.folder / "lock").open("w") as lock:
        _take(lock, settings.folder)
        already = running(settings.folder)
        if already is not None:
            return already
        return _start(settings, environment)


def stop(folder: Path, grace_s: float = 30.0) -> bool:
    """Stop the broker of this folder, cleanly if it can; say whether there was one."""
    found = running(folder)
    if found is None:
        (folder / "broker.json").unlink(missing_ok=True)
        return False
    os.kill(found.pid, signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    while _start_ticks(found.pid) == found.started:
        if time.monotonic() > deadline:
            log.warning("Kafka (pid %d) did not stop in %.0f s and was killed", found.pid, grace_s)
            os.kill(found.pid, signal.SIGKILL)
            deadline = time.monotonic() + grace_s
        _reap(found.pid)
        time.sleep(0.05)
    (folder / "broker.json").unlink(missing_ok=True)
    return True


def _start(settings: BrokerSettings, environment: Mapping[str, str]) -> Running:
    client, controller = _ports(settings)
    bootstrap = f"{LOOPBACK}:{client}"
    properties = settings.folder / "server.properties"
    properties.write_text(_properties(settings.folder / "data", client, controller), encoding="utf-8")
    output = settings.folder / "server.log"
    output.write_bytes(b"")
    java = (str(settings.java), *_JVM, _LOG4J, "-cp", settings.class_path)
    if not (settings.folder / "data" / "meta.properties").exists():
        _format(java, properties, output, environment)
    with output.open("ab") as sink:
        process = subprocess.Popen(  # noqa: S603 - our own class path and properties
            (*java, "kafka.Kafka", str(properties)), stdin=subprocess.DEVNULL, stdout=sink, stderr=sink,
            env=dict(environment), start_new_session=True,
        )  # fmt: skip
    _wait(process, bootstrap, output, settings.ready_s)
    _started[process.pid] = process
    found = Running(pid=process.pid, started=_start_ticks(process.pid) or 0, bootstrap=bootstrap)
    draft = settings.folder / "broker.tmp"
    draft.write_text(json.dumps(asdict(found)), encoding="utf-8")
    draft.replace(settings.folder / "broker.json")
    return found


def _format(java: tuple[str, ...], properties: Path, output: Path, environment: Mapping[str, str]) -> None:
    cluster = urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    words = ("kafka.tools.StorageTool", "format", "--standalone", "-t", cluster, "-c", str(properties))
    with output.open("ab") as sink:
        code = subprocess.call((*java, *words), stdout=sink, stderr=sink, env=dict(environment))  # noqa: S603 - as above
    if code != 0:
        raise ProcessFailed(_NAME, f"its data folder could not be formatted\n{tail(output)}")


def _wait(process: subprocess.Popen[bytes], bootstrap: str, output: Path, ready_s: float) -> None:
    deadline = time.monotonic() + ready_s
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    while True:
        with suppress(KafkaException):
            if admin.list_topics(timeout=0.5).brokers:
                return
        if process.poll() is not None:
            raise ProcessFailed(_NAME, f"ended with code {process.returncode}\n{tail(output)}")
        if time.monotonic() > deadline:
            process.kill()
            process.wait()
            raise ProcessFailed(_NAME, f"did not answer in {ready_s:.0f} s\n{tail(output)}")


def _ports(settings: BrokerSettings) -> tuple[int, int]:
    """Give client and controller port: those of the last start, where they are free, so that clients find it again."""
    kept = settings.folder / "ports.json"
    if not settings.port and kept.exists():
        client, controller = json.loads(kept.read_text(encoding="utf-8"))
        if _free(client) and _free(controller):
            return client, controller
    if settings.port and not _free(settings.port):
        raise UserError(f"--port {settings.port}: already in use on {LOOPBACK}")
    # The node's quorum is itself at a fixed address, so the controller's port stays with the data, too.
    client = settings.port or free_port()
    controller = free_port()
    kept.write_text(json.dumps([client, controller]), encoding="utf-8")
    return client, controller


def free_port() -> int:
    """Give a TCP port on loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


def _free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
        return True


def _take(lock: IO[str], folder: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        raise UserError(f"{folder}: another start of this broker is under way") from exc


def _start_ticks(pid: int) -> int | None:
    """Give when a process started; None when it is gone or only waits to be reaped."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else int(fields[19])


def _reap(pid: int) -> None:
    if pid in _started and _started[pid].poll() is not None:
        del _started[pid]


def _properties(data: Path, client: int, controller: int) -> str:
    settings = {
        "process.roles": "broker,controller",
        "node.id": "1",
        "listeners": f"PLAINTEXT://{LOOPBACK}:{client},CONTROLLER://{LOOPBACK}:{controller}",
        "advertised.listeners": f"PLAINTEXT://{LOOPBACK}:{client},CONTROLLER://{LOOPBACK}:{controller}",
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "PLAINTEXT",
        "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
        "controller.quorum.bootstrap.servers": f"{LOOPBACK}:{controller}",
        "log.dirs": str(data),
        "auto.create.topics.enable": "false",
        "offsets.topic.replication.factor": "1",
        "offsets.topic.num.partitions": "1",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        "share.coordinator.state.topic.replication.factor": "1",
        "share.coordinator.state.topic.min.isr": "1",
        "group.initial.rebalance.delay.ms": "0",
        "group.min.session.timeout.ms": "1000",
        "message.max.bytes": str(64 << 20),
        "socket.request.max.bytes": str(128 << 20),
        "log.cleaner.dedupe.buffer.size": str(16 << 20),
        "log.index.size.max.bytes": str(1 << 20),
    }
    return "".join(f"{key}={value}\n" for key, value in settings.items())
