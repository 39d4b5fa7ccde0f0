"""The predictor over TLS: HTTP and gRPC by one certificate, which may be replaced, and files that cannot be used."""

from __future__ import annotations

import re
import shutil
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import orjson
import pytest
from cryptography.hazmat.primitives import serialization

from deploy import environment
from inference.certificate import Certificate
from inference.protocol.grpc_codec import decode_response, encode_request
from inference.protocol.grpc_messages import SERVICE
from inference.protocol.tensors import Tensor
from inference.protocol.v2 import InferRequest
from inference.settings import CertificateFiles
from streams.errors import BadCredentials
from tests.inference.serving import ECHO, Server, eventually, predictor
from tests.secured import Authority

_FULL = {"error": "too many connections; retry later"}


class Secret:
    """The files of a certificate, as a pod has them, and whoever signed it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.certificate, self.key = folder / "tls.crt", folder / "tls.key"
        self.renew("first")

    def renew(self, name: str) -> None:
        """Replace both, by another authority's."""
        self.authority = Authority(self._folder, name)
        certificate, key = self.authority.issue("predictor")
        shutil.move(key, self.key)
        shutil.move(certificate, self.certificate)

    @property
    def words(self) -> tuple[str, ...]:
        """Name them to the predictor."""
        return "--ssl_certfile", str(self.certificate), "--ssl_keyfile", str(self.key)

    @property
    def files(self) -> CertificateFiles:
        """Name them in settings."""
        return CertificateFiles(certificate=self.certificate, key=self.key)


@pytest.fixture(name="secret")
def _secret(tmp_path: Path) -> Secret:
    return Secret(tmp_path)


@contextmanager
def _served(folder: Path, *words: str) -> Iterator[Server]:
    (folder / "model").mkdir()
    with predictor(folder / "model", folder, "--runtime", ECHO, *words) as server:
        yield server


def _client(server: Server, authority: Authority) -> httpx.Client:
    return httpx.Client(base_url=server.url, timeout=30, verify=ssl.create_default_context(cafile=authority.file))


def _trusted(server: Server, authority: Authority) -> bool:
    """Tell whether a new client of an authority gets an answer."""
    try:
        with _client(server, authority) as client:
            return client.get("/v2/health/ready").status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


def _infer(server: Server, authority: Authority) -> list[float]:
    """Ask over gRPC."""
    credentials = grpc.ssl_channel_credentials(authority.file.read_bytes())
    request = InferRequest(inputs=(Tensor.of("x", np.array([[1.5, 2.5]])),))
    with grpc.secure_channel(server.grpc, credentials) as channel:
        call = channel.unary_unary(f"/{SERVICE}/ModelInfer")
        answer: Any = call(encode_request("m", request, raw=True), timeout=30, wait_for_ready=True)
    return [float(each) for each in decode_response(answer).outputs[0].data.flat]


def test_both_protocols_are_encrypted(secret: Secret, tmp_path: Path) -> None:
    """Who trusts the authority is answered over HTTP and gRPC; a stranger, and who speaks in the clear, is not."""
    with _served(tmp_path, *secret.words) as server:
        with _client(server, secret.authority) as client:
            body = {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP64", "data": [1.5, 2.5]}]}
            answer = client.post("/v2/models/m/infer", json=body)
        over_grpc = _infer(server, secret.authority)
        stranger = _trusted(server, Authority(tmp_path, "stranger"))
        with pytest.raises(httpx.TransportError):
            httpx.get(server.url.replace("https", "http") + "/v2/health/live", timeout=30)
        server.terminate()
        code = server.process.wait(60)

    assert server.url.startswith("https://")
    assert answer.json()["outputs"][0]["data"] == [1.5, 2.5]
    assert over_grpc == [1.5, 2.5]
    assert not stranger
    assert code == 0
    assert "Traceback" not in server.log.read_text()


def test_replaced_files_are_taken_up(secret: Secret, tmp_path: Path) -> None:
    """By HTTP and gRPC, without a restart; files that do not go together change nothing, and are told of."""
    with _served(tmp_path, *secret.words) as server:
        first = secret.authority
        with _client(server, first) as kept:
            kept.get("/v2/health/live")
            good = secret.key.read_bytes()
            secret.key.write_bytes(b"no key")
            eventually(lambda: "the old one stays" in server.log.read_text(), "the mistake is told")
            before = _trusted(server, first)
            secret.key.write_bytes(good)
            secret.renew("second")
            eventually(lambda: _trusted(server, secret.authority), "the new certificate")
            after = _trusted(server, first)
            again = kept.get("/v2/health/live").status_code
        over_grpc = _infer(server, secret.authority)

    assert (before, after) == (True, False)
    assert again == 200
    assert over_grpc == [1.5, 2.5]


def test_one_too_many_is_told_so_through_tls(secret: Secret, tmp_path: Path) -> None:
    """Whether it asks or not; nothing of that is an error of the server's, and there is room again."""
    context = ssl.create_default_context(cafile=secret.authority.file)
    with _served(tmp_path, *secret.words, "--max-connections", "1") as server:
        with _client(server, secret.authority) as inside:
            told, still = [], []
            for asking in (b"GET /v2 HTTP/1.1\r\nhost: x\r\n\r\n", b""):
                still.append(inside.get("/v2/health/live").status_code)
                told.append(_told(server, context, asking))
            still.append(inside.get("/v2/health/live").status_code)
        eventually(lambda: _trusted(server, secret.authority), "there is room again")

    for answer in told:
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 503 ")
        assert orjson.loads(body) == _FULL
    assert still == [200] * 3
    assert "Traceback" not in server.log.read_text()


def _told(server: Server, context: ssl.SSLContext, asking: bytes) -> bytes:
    url = httpx.URL(server.url)
    plain = socket.create_connection((url.host, url.port or 0), timeout=30)
    with plain, context.wrap_socket(plain, server_hostname="localhost") as connection:
        connection.sendall(asking)
        return b"".join(iter(lambda: connection.recv(65_536), b""))


def test_processes_that_share_a_port_share_the_certificate(secret: Secret, tmp_path: Path) -> None:
    """What they say to each other stays in the clear, on a socket of their own."""
    with _served(tmp_path, *secret.words, "--workers", "2") as server, _client(server, secret.authority) as client:
        # Ready is said by the first process; the others may still be starting.
        eventually(lambda: _up(client) == ["1", "1"], "each process answers the other")


def _up(client: httpx.Client) -> list[str]:
    return re.findall(r"^sidelight_predictor_process_up\{.*\} (\d)$", client.get("/metrics").text, re.MULTILINE)


def test_the_environment_may_name_the_files(secret: Secret, tmp_path: Path) -> None:
    """As KServe's controller does."""
    variables = environment.inherited() | {
        "KSERVE_TLS_CERT_FILE": str(secret.certificate), "KSERVE_TLS_KEY_FILE": str(secret.key),
    }  # fmt: skip
    (tmp_path / "model").mkdir()
    with predictor(tmp_path / "model", tmp_path, "--runtime", ECHO, variables=variables) as server:
        trusted = _trusted(server, secret.authority)

    assert trusted


def test_key_and_certificate_may_share_a_file(secret: Secret, tmp_path: Path) -> None:
    """Then the one file is all that is named."""
    both = tmp_path / "both.pem"
    both.write_bytes(secret.key.read_bytes() + secret.certificate.read_bytes())

    assert Certificate(CertificateFiles(certificate=both)).http.get_ca_certs() == []


@pytest.mark.parametrize(
    ("spoilt", "says"),
    [
        ("no certificate", "tls.crt: no such file or directory"),
        ("no key", "tls.key: no such file or directory"),
        ("text for a certificate", "tls.crt: expected PEM"),
        ("text for a key", "tls.key: expected PEM that belongs together"),
        ("another's key", "tls.key: expected PEM that belongs together: key_values_mismatch"),
        ("a locked key", "tls.key: expected PEM that belongs together"),
    ],
)
def test_files_that_cannot_be_used_are_named(secret: Secret, tmp_path: Path, spoilt: str, says: str) -> None:
    """Each mistake with its file, before anything is served; nobody is asked for a pass phrase."""
    _spoil(secret, tmp_path, spoilt)

    with pytest.raises(BadCredentials, match=says):
        Certificate(secret.files)


def _spoil(secret: Secret, folder: Path, how: str) -> None:
    match how:
        case "no certificate":
            secret.certificate.unlink()
        case "no key":
            secret.key.unlink()
        case "text for a certificate":
            secret.certificate.write_text("none")
        case "text for a key":
            secret.key.write_text("none")
        case "another's key":
            shutil.copy(Authority(folder, "other").issue("other")[1], secret.key)
        case "a locked key":
            key = serialization.load_pem_private_key(secret.key.read_bytes(), None)
            locked = serialization.BestAvailableEncryption(b"secret")
            secret.key.write_bytes(
                key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, locked)
            )
