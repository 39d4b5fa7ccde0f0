"""The clients' connections over HTTP that are one too many: each hears so, and is sent away.

But for the questions that a kubelet asks on a connection of its own: unanswered, they would have a process that is
merely busy taken for a dead one, and restarted. Used by `inference/visitors.py`; `inference/grpc/connection.py` does so
over gRPC.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Final

import orjson
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from inference.errors import FULL

_MOST: Final = 256
"""Connections that are here at a time. For one more, the one goes that has been here longest: a probe asks at once."""
_SILENT_S: Final = 1.0
"""How long one may take to ask before it is told all the same."""
_LINGER_S: Final = 1.0
"""How long it may take to close: closed at once, with a request that nobody reads, it would lose the answer."""
_PROBE_S: Final = 10.0
"""How long a probe may take, from its asking to its end. Kubelets wait for a second, if they are not told otherwise."""
_LINE: Final = 2_048
"""Bytes that a request's first line may have here."""
_WHOLE: Final = 32 * 1024
"""Bytes that a probe's connection may bring in all, in place of the bounds that one which is served has for a head, a
body and what comes behind them: there is one request, and a probe needs hardly any."""
_PROBES: Final = re.compile(
    rb"(?:GET|HEAD) /(?:v2/health/(?:live|ready)|v1/models/[^/?: ]+|v2/models/[^/?: ]+(?:/versions/[^/?: ]+)?/ready)?"
    rb" HTTP/1\.[01]\r\n"
)


def answer(status: bytes, reason: str, *fields: bytes) -> bytes:
    """Write a whole answer that ends its connection."""
    body = orjson.dumps({"error": reason})
    length = b"content-length: %d" % len(body)
    lines = (b"HTTP/1.1 " + status, b"content-type: application/json", length, b"connection: close", *fields)
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


_FULL: Final = answer(b"503 Service Unavailable", FULL, b"retry-after: 1")


class Probe(HttpToolsProtocol):
    """A connection of one request."""

    def on_headers_complete(self) -> None:  # noqa: D102 - as in uvicorn
        super().on_headers_complete()
        self.cycle.keep_alive = False


class Latecomers:
    """All of them. On the event loop."""

    def __init__(self) -> None:
        self._here: dict[Late, None] = {}
        """In the order of their coming."""

    def came(self, transport: asyncio.Transport, probe: Callable[[], Probe]) -> None:
        """Take one over, which may become a probe's."""
        if len(self._here) >= _MOST:
            next(iter(self._here)).abort()
        transport.set_protocol(Late(self._here, transport, probe))


class Late(asyncio.Protocol):
    """One: told why it is not served when it asks, or after a while."""

    def __init__(self, here: dict[Late, None], transport: asyncio.Transport, probe: Callable[[], Probe]) -> None:
        self._here, self._transport, self._make = here, transport, probe
        self._loop = asyncio.get_running_loop()
        self._begun, self._given = b"", 0
        self._told = False
        self._probe: Probe | None = None
        self._timer = self._loop.call_later(_SILENT_S, self._tell)
        here[self] = None

    def data_received(self, data: bytes) -> None:  # noqa: D102 - asyncio's contract
        if self._probe is not None:
            self._give(self._probe, data)
        elif not self._told:
            self._begun += data
            if _PROBES.match(self._begun):
                self._answer()
            elif b"\n" in self._begun or len(self._begun) > _LINE:
                self._tell()

    def eof_received(self) -> bool:  # noqa: D102
        self._tell()
        return False

    def pause_writing(self) -> None:  # noqa: D102
        if self._probe is not None:
            self._probe.pause_writing()

    def resume_writing(self) -> None:  # noqa: D102
        if self._probe is not None:
            self._probe.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: D102
        self._timer.cancel()
        self._here.pop(self, None)
        if self._probe is not None:
            self._probe.connection_lost(exc)

    def abort(self) -> None:
        """Go, for another."""
        del self._here[self]
        self._transport.abort()

    def _answer(self) -> None:
        self._timer.cancel()
        self._timer = self._loop.call_later(_PROBE_S, self._transport.abort)
        self._probe = probe = self._make()
        probe.connection_made(self._transport)
        begun, self._begun = self._begun, b""
        self._give(probe, begun)

    def _give(self, probe: Probe, data: bytes) -> None:
        self._given += len(data)
        if self._given > _WHOLE:
            self._transport.abort()
        else:
            probe.data_received(data)

    def _tell(self) -> None:
        if self._probe is not None or self._told or self._transport.is_closing():
            return
        self._told = True
        self._timer.cancel()
        self._transport.write(_FULL)
        if self._transport.can_write_eof():
            self._transport.write_eof()
        else:
            # TLS has no half of an end; its own takes what still comes.
            self._transport.close()
        self._timer = self._loop.call_later(_LINGER_S, self._transport.abort)
