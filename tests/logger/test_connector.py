"""The way to a model that speaks TLS only: HTTP, gRPC and the batcher's, with authorities that are replaced."""

from __future__ import annotations

import argparse
import asyncio
import shutil
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import grpc
import httpx
import numpy as np
import pytest
import uvloop

from deploy.component import component_tls
from deploy.errors import UserError
from deploy.kafka.ports import free_port
from inference.protocol import v2
from inference.protocol.grpc_codec import decode_response, encode_request
from inference.protocol.grpc_messages import SERVICE
from inference.protocol.tensors import Tensor
from inference.protocol.v2 import InferRequest
from logger.connector import Connector
from logger.settings import ModelTls, ProxySettings
from tests.inference.serving import ECHO, ROOT, Server, eventually, predictor
from tests.secured import Authority

_BODY = {"instances": [[1.5, 2.5]]}
_MANY = 250_000
"""Rows of 4 MB: more than any buffer on the way holds."""


@pytest.fixture(name="authority")
def _authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "own")


@pytest.fixture(name="model")
def _model(authority: Authority, tmp_path: Path) -> Iterator[Server]:
    """Serve a model, encrypted."""
    certificate, key = authority.issue("predictor")
    (tmp_path / "model").mkdir()
    words = ("--runtime", ECHO, "--ssl_certfile", str(certificate), "--ssl_keyfile", str(key))
    with predictor(tmp_path / "model", tmp_path, *words) as server:
        yield server


def _logger(model: Server, folder: Path, *words: str) -> AbstractContextManager[tuple[str, Path]]:
    return _logging((model.url.rpartition(":")[2], model.grpc.rpartition(":")[2]), folder, *words)


@contextmanager
def _logging(ports: tuple[str, str], folder: Path, *words: str) -> Iterator[tuple[str, Path]]:
    """Run a logger without a sink in front of a model's ports of HTTP and gRPC; give its address and its log."""
    port, log = free_port(), folder / "logger.log"
    command = [
        sys.executable, "-m", "deploy.cli", "logger", "--host", "127.0.0.1", "--port", str(port),
        "--component-port", ports[0], "--grpc-component-port", ports[1], *words,
    ]  # fmt: skip
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        eventually(lambda: "logger ready" in log.read_text() or process.poll() is not None, "the ready line")
        assert process.poll() is None, log.read_text()
        yield f"127.0.0.1:{port}", log
    finally:
        process.terminate()
        process.wait(60)


@contextmanager
def _asking(authority: Authority) -> Iterator[tuple[str, str]]:
    """Serve HTTP and gRPC to whoever shows a certificate of this authority; give both ports."""
    certificate, key = authority.issue("asking")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=authority.file)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(certificate, key)
    web = ThreadingHTTPServer(("127.0.0.1", 0), _Echo)
    web.socket = context.wrap_socket(web.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=web.serve_forever, args=(0.05,))
    thread.start()
    credentials = grpc.ssl_server_credentials(
        [(key.read_bytes(), certificate.read_bytes())], authority.file.read_bytes(), require_client_auth=True
    )
    server = grpc.server(ThreadPoolExecutor(2), options=[("grpc.so_reuseport", 0)])
    echo = grpc.unary_unary_rpc_method_handler(lambda request, _context: request)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {"ModelInfer": echo}),))
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    try:
        yield str(web.server_address[1]), str(port)
    finally:
        server.stop(0).wait()
        web.shutdown()
        thread.join()
        web.server_close()


class _Echo(BaseHTTPRequestHandler):
    """Answers with what it was asked."""

    timeout = 60

    def do_POST(self) -> None:
        """Answer."""
        body = self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def _post(address: str) -> httpx.Response:
    return httpx.post(f"http://{address}/v1/models/m:predict", json=_BODY, timeout=60)


def _infer(address: str, rows: int = 1) -> int:
    """Ask over gRPC; give how many rows came back as they were sent."""
    sent = np.arange(2.0 * rows).reshape(rows, 2)
    request = InferRequest(inputs=(Tensor.of("x", sent),))
    with grpc.insecure_channel(address, [("grpc.max_receive_message_length", -1)]) as channel:
        call = channel.unary_unary(f"/{SERVICE}/ModelInfer")
        answer = decode_response(call(encode_request("m", request, raw=True), timeout=60, wait_for_ready=True))
    return int((answer.outputs[0].data == sent).all(axis=1).sum())


def _infer_echoed(address: str) -> bytes:
    """Ask over gRPC a model that answers with what it was asked."""
    with grpc.insecure_channel(address) as channel:
        answer: bytes = channel.unary_unary(f"/{SERVICE}/ModelInfer")(b"sent", timeout=60, wait_for_ready=True)
    return answer


def _give(authority: Authority, shown: Path, secret: Path) -> None:
    """Put a certificate of an authority, and its key, where the logger finds them."""
    certificate, key = authority.issue("logger")
    shutil.move(key, secret)
    shutil.move(certificate, shown)


def _infer_binary(address: str, rows: int) -> int:
    """Ask over HTTP; give the same."""
    sent = np.arange(2.0 * rows).reshape(rows, 2)
    request = InferRequest(inputs=(Tensor.of("x", sent),), parameters={"binary_data_output": True})
    body, length = v2.encode_request(request, binary=True)
    headers = {"inference-header-content-length": str(length), "content-type": "application/octet-stream"}
    answer = httpx.post(f"http://{address}/v2/models/m/infer", content=body, headers=headers, timeout=60)
    found = v2.decode_response(answer.content, int(answer.headers["inference-header-content-length"]))
    return int((found.outputs[0].data == sent).all(axis=1).sum())


def test_calls_reach_a_model_that_speaks_tls_only(model: Server, authority: Authority, tmp_path: Path) -> None:
    """Over HTTP, gRPC and the batcher; clients speak to the logger in the clear."""
    words = ("--component-ca-file", str(authority.file), "--component-server-name", "localhost")
    with _logger(model, tmp_path, *words) as (address, log):
        plain, rows = _post(address), [_infer(address, _MANY), _infer_binary(address, _MANY)]
        said = log.read_text()
    with _logger(model, tmp_path, *words, "--enable-batcher", "--max-latency", "50") as (address, _):
        joined = _post(address)

    assert plain.json() == joined.json() == {"predictions": [[1.5, 2.5]]}
    assert rows == [_MANY, _MANY]
    assert "by TLS" in said


def test_whoever_is_not_trusted_is_no_model(model: Server, authority: Authority, tmp_path: Path) -> None:
    """A strange authority is 503, over gRPC UNAVAILABLE, until its file is replaced; so is another name."""
    trusted = tmp_path / "ca.crt"
    shutil.copy(Authority(tmp_path, "stranger").file, trusted)
    words = ("--component-ca-file", str(trusted), "--component-server-name")
    with _logger(model, tmp_path, *words, "localhost") as (address, log):
        strange = _post(address)
        with pytest.raises(grpc.RpcError) as refused:
            _infer(address)
        trusted.write_bytes(b"no certificate")
        eventually(lambda: _post(address).status_code == 503 and "the old ones stay" in log.read_text(), "the mistake")
        shutil.copy(authority.file, trusted)
        eventually(lambda: _post(address).is_success, "the new authorities")
        rows = _infer(address)
        said = log.read_text()
    with _logger(model, tmp_path, *words, "elsewhere.example") as (address, _):
        misnamed = _post(address)

    assert [strange.status_code, misnamed.status_code] == [503, 503]
    assert "certificate verify failed" in strange.json()["error"].lower()
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    assert rows == 1
    assert "Traceback" not in said


def test_a_model_that_asks_who_calls_is_shown_a_certificate(authority: Authority, tmp_path: Path) -> None:
    """Over HTTP and gRPC; a certificate that it does not take is replaced without a restart."""
    shown, secret = tmp_path / "tls.crt", tmp_path / "tls.key"
    words = (
        "--component-ca-file", str(authority.file), "--component-server-name", "localhost",
        "--component-cert-file", str(shown), "--component-key-file", str(secret),
    )  # fmt: skip
    _give(Authority(tmp_path, "stranger"), shown, secret)
    with _asking(authority) as ports, _logging(ports, tmp_path, *words) as (address, log):
        strange = _post(address)
        with pytest.raises(grpc.RpcError) as refused:
            _infer(address)
        _give(authority, shown, secret)
        eventually(lambda: _post(address).is_success, "the new certificate")
        answer, rows = _post(address), _infer_echoed(address)
        said = log.read_text()

    assert strange.status_code == 502
    assert "model closed the connection" in strange.json()["error"]
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    assert (answer.json(), rows) == (_BODY, b"sent")
    assert "Traceback" not in said


def test_a_model_that_hangs_up_amid_the_handshake_is_named() -> None:
    """The answer says what happened, and is no sentence without an end."""

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.transport.abort()

    async def ask() -> None:
        async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as server:
            settings = ProxySettings(upstream_port=server.sockets[0].getsockname()[1], upstream_tls=ModelTls())
            with pytest.raises(OSError, match=r"^it hung up amid the TLS handshake$"):
                await Connector(settings).http(asyncio.Protocol)

    asyncio.run(ask())
    uvloop.run(ask())


def test_files_that_cannot_be_used_end_the_start(tmp_path: Path) -> None:
    """With the argument and the file's name, before anything listens."""
    file = tmp_path / "ca.crt"
    for content, says in ((None, "no such file"), (b"no certificate", "expected PEM")):
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(UserError, match=f"--component-ca-file: {file}: {says}"):
            component_tls(_arguments(component_ca_file=str(file)))


def test_a_certificate_of_our_own_is_checked_at_the_start(authority: Authority, tmp_path: Path) -> None:
    """A key alone, files that are not there, and a key of another certificate: said with argument and file."""
    certificate, key = map(str, authority.issue("logger"))
    other = str(Authority(tmp_path, "stranger").issue("logger")[1])
    both, gone = tmp_path / "both.pem", str(tmp_path / "gone")
    both.write_bytes(Path(certificate).read_bytes() + Path(key).read_bytes())
    for shown, secret, says in (
        ("", key, f"--component-key-file {key}: a key needs its certificate"),
        (gone, key, f"--component-cert-file: {gone}: no such file"),
        (certificate, gone, f"--component-key-file: {gone}: no such file"),
        (key, key, f"--component-cert-file: {key}: expected PEM"),
        (certificate, other, f"--component-cert-file: {certificate} with {other}: .*key_values_mismatch"),
    ):
        with pytest.raises(UserError, match=says):
            component_tls(_arguments(component_cert_file=shown, component_key_file=secret))

    assert component_tls(_arguments(component_cert_file=str(both))) == ModelTls(cert_file=str(both))


@pytest.mark.parametrize("name", [".model", "a..b", "x" * 64])
def test_what_no_certificate_can_have_is_no_name(name: str) -> None:
    """Said at the start: no connection could be opened, and no answer would say why."""
    with pytest.raises(UserError, match=f"--component-server-name {name}: "):
        component_tls(_arguments(component_server_name=name))


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({}, None),
        ({"component_tls": True}, ModelTls()),
        ({"component_server_name": "model"}, ModelTls(server_name="model")),
    ],
)
def test_each_flag_turns_tls_on(given: dict[str, str | bool], found: ModelTls | None) -> None:
    """A name or an authority alone is no way to stay in the clear by mistake."""
    assert component_tls(_arguments(**given)) == found


def _arguments(**given: str | bool) -> argparse.Namespace:
    files = dict.fromkeys(("component_ca_file", "component_cert_file", "component_key_file"), "")
    return argparse.Namespace(**{"component_tls": False, "component_server_name": "", **files, **given})
