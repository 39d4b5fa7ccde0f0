"""Answers readiness probes as Knative's queue-proxy does: the model container's own probe, run when somebody asks.

KServe hands the probe over in SERVING_READINESS_PROBE and has the kubelet ask the agent, with the header
`K-Network-Probe: queue`. The proxy sends such requests to a small server of its own process, here.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from logger.errors import BadProbe
from streams.addresses import bare, shown

_AGGRESSIVE_S: Final = 0.1
_AGAIN_S: Final = 0.05
_POLL_S: Final = 10.0
_MOST_HEAD: Final = 64 * 1024
_OK: Final = range(200, 400)
_STATUS_WORDS: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """How to find out whether the model is ready."""

    host: str
    port: int
    path: str = ""
    """Empty: a connection is enough."""
    tls: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)
    timeout_s: float = 1.0
    eager: bool = False
    """Knative's way with `periodSeconds: 0`: ask every 50 ms for 10 s, until it is ready often enough in a row."""
    successes: int = 1
    """How often in a row, when `eager`. Otherwise who asks counts, and failures too."""


def parse(text: str, default_port: int) -> Probe:
    """Read a container's probe, as JSON of Kubernetes.

    A port that has a name is taken for the model's, since nobody tells us the names.

    Raises:
        BadProbe: it is none, or of a kind that cannot be run from outside the container.
    """
    try:
        fields = orjson.loads(text)
    except orjson.JSONDecodeError as exc:
        raise BadProbe(f"expected JSON: {exc}") from exc
    if not isinstance(fields, dict):
        raise BadProbe(f"expected an object, got {text[:40]!r}")
    kinds = [name for name in ("httpGet", "tcpSocket", "grpc", "exec") if fields.get(name) is not None]
    if "exec" in kinds:
        raise BadProbe(
            "exec: a command in the model's container cannot be run from this one; use httpGet or tcpSocket there"
        )
    if len(kinds) != 1:
        raise BadProbe(f"expected one of httpGet, tcpSocket or grpc, got {', '.join(kinds) or 'none'}")
    action = fields[kinds[0]]
    if not isinstance(action, dict):
        raise BadProbe(f"{kinds[0]}: expected an object")
    period = _count(fields, "periodSeconds", 0)
    return Probe(
        host=bare(str(action.get("host") or "127.0.0.1")),
        port=_port(action, kinds[0], default_port),
        path=_path(action) if kinds[0] == "httpGet" else "",
        tls=kinds[0] == "httpGet" and str(action.get("scheme") or "HTTP").upper() == "HTTPS",
        headers=_headers(action) if kinds[0] == "httpGet" else {},
        timeout_s=_count(fields, "timeoutSeconds", 1) or 1.0,
        eager=period == 0,
        successes=max(1, _count(fields, "successThreshold", 1)),
    )


class Readiness:
    """Runs a probe; who asks meanwhile gets the same answer."""

    def __init__(self, probe: Probe) -> None:
        self._probe = probe
        self._running: asyncio.Task[str] | None = None
        self._server: asyncio.Server | None = None

    async def problem(self) -> str:
        """Run the probe; give what is wrong, empty when the model is ready."""
        if self._running is None:
            self._running = asyncio.get_running_loop().create_task(self._run())
            self._running.add_done_callback(self._over)
        return await asyncio.shield(self._running)

    async def listen(self) -> int:
        """Answer requests on a free port of the loopback; give it."""
        self._server = await asyncio.start_server(self._answer, "127.0.0.1", 0, limit=_MOST_HEAD)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    def close(self) -> None:
        """Stop answering."""
        if self._server is not None:
            self._server.close()

    def _over(self, _task: asyncio.Task[str]) -> None:
        self._running = None

    async def _run(self) -> str:
        if not self._probe.eager:
            return await _attempt(self._probe, self._probe.timeout_s)
        loop = asyncio.get_running_loop()
        deadline, successes = loop.time() + _POLL_S, 0
        while True:
            problem = await _attempt(self._probe, _AGGRESSIVE_S)
            successes = 0 if problem else successes + 1
            if successes >= self._probe.successes:
                return ""
            if loop.time() + _AGAIN_S > deadline:
                return problem or f"ready {successes} times in a row, expected {self._probe.successes}"
            await asyncio.sleep(_AGAIN_S)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            while True:
                await reader.readuntil(b"\r\n\r\n")
                problem = await self.problem()
                status = b"503 Service Unavailable" if problem else b"200 OK"
                body = orjson.dumps({"error": problem}) if problem else b"queue"
                kind = b"application/json" if problem else b"text/plain; charset=utf-8"
                head = b"HTTP/1.1 %b\r\ncontent-type: %b\r\ncontent-length: %d\r\n\r\n" % (status, kind, len(body))
                writer.write(head + body)
                await writer.drain()
        writer.close()


async def _attempt(probe: Probe, timeout_s: float) -> str:
    place = shown(probe.host, probe.port)
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_connection(
                probe.host, probe.port, ssl=_unchecked() if probe.tls else None
            )
            try:
                return await _ask(reader, writer, probe) if probe.path else ""
            finally:
                writer.close()
    except TimeoutError:
        return f"{place}: nothing within {timeout_s:g} s"
    except OSError as exc:
        return f"{place}: {(exc.strerror or str(exc)).lower()}"


async def _ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, probe: Probe) -> str:
    place = shown(probe.host, probe.port)
    headers = {"host": place, "user-agent": "kube-probe/sidelight", "accept": "*/*"}
    headers |= {name.lower(): value for name, value in probe.headers.items()} | {"connection": "close"}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    writer.write(f"GET {probe.path} HTTP/1.1\r\n{lines}\r\n".encode("latin-1", "replace"))
    await writer.drain()
    words = (await reader.readline()).split(maxsplit=_STATUS_WORDS)
    status = words[1] if len(words) >= _STATUS_WORDS and words[0].startswith(b"HTTP/1.") else b""
    if status.isdigit() and int(status) in _OK:
        return ""
    return f"GET {probe.path} at {place}: expected 200 to 399, got {status.decode() or 'no HTTP'}"


def _unchecked() -> ssl.SSLContext:
    # As the kubelet: a probe asks whether somebody answers, not who.
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _count(fields: Mapping[str, Any], name: str, default: int) -> int:
    value = fields.get(name, default)
    if type(value) is not int or value < 0:
        raise BadProbe(f"{name}: expected a whole number from 0 up, got {value!r}")
    return value


def _port(action: Mapping[str, Any], kind: str, default: int) -> int:
    value = action.get("port", default)
    if isinstance(value, str) and not value.isdigit():
        return default
    try:
        port = int(value)
    except (TypeError, ValueError):
        port = 0
    if not 0 < port < 1 << 16:
        raise BadProbe(f"{kind}.port: expected 1 to 65535, got {value!r}")
    return port


def _path(action: Mapping[str, Any]) -> str:
    path = str(action.get("path") or "/")
    if not path.isascii() or not path.isprintable() or " " in path:
        raise BadProbe(f"httpGet.path: expected printable ASCII without spaces, got {path!r}")
    return path if path.startswith("/") else "/" + path


def _headers(action: Mapping[str, Any]) -> dict[str, str]:
    found = {}
    for item in action.get("httpHeaders") or ():
        name, value = str(item.get("name", "")), str(item.get("value", ""))
        if not name or not f"{name}{value}".isprintable():
            raise BadProbe(f"httpGet.httpHeaders: expected printable names and values, got {name!r}")
        found[name] = value
    return found
