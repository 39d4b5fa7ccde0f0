"""The clients' connections over HTTP: how many there may be, and how long one may say nothing. Used by `server.py`.

What is asked on them is uvicorn's to read, which bounds the time between requests alone, and waits for the first one,
and for the rest of one that has begun, for ever. Over gRPC, `inference/grpc/connection.py` has the same limits.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, cast

import orjson
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from inference.errors import FULL
from inference.joined import Joined
from inference.parting import Parting
from inference.places import Places
from inference.settings import ServerSettings

log = logging.getLogger(__name__)

_TURNED_AWAY: Final = 256
"""Connections beyond the limit that hear why they are not served; still more are cut."""
_SILENT_S: Final = 1.0
"""How long one of those may take to ask before it is told all the same."""
_LINGER_S: Final = 1.0
"""How long it may take to close: closed at once, with a request that nobody reads, it would lose the answer."""
_HEAD_S: Final = 20.0
_SWEEP_S: Final = 1.0


def _answer(status: bytes, reason: str, *fields: bytes) -> bytes:
    body = orjson.dumps({"error": reason})
    length = b"content-length: %d" % len(body)
    lines = (b"HTTP/1.1 " + status, b"content-type: application/json", length, b"connection: close", *fields)
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


_LATE: Final = _answer(b"503 Service Unavailable", FULL, b"retry-after: 1")
_SLOW: Final = _answer(b"408 Request Timeout", f"no whole head within {_HEAD_S:g} s")


class Visitor(HttpToolsProtocol):
    """One connection."""

    def __init__(self, *args: Any, door: Door, **kwargs: Any) -> None:  # noqa: ANN401 - uvicorn's
        super().__init__(*args, **kwargs)
        self._door = door
        self._since: tuple[object, float] | None = None
        """After which request it was first seen to owe one, or in which rest it was first seen, and when."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # noqa: D102 - as in uvicorn
        if transport.get_extra_info("sslcontext") is not None:
            transport = cast("asyncio.Transport", Parting(transport, self.loop))
        super().connection_made(Joined(transport, self.loop))  # type: ignore[arg-type] # uvicorn only calls it
        self._door.came(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: D102
        self._door.places.leave(self)
        super().connection_lost(exc)

    def sweep(self, now: float, silent_s: float) -> None:
        """Give up on a request that does not come. Asked again and again."""
        # Both are absent before the first request, whatever uvicorn's own types say.
        latest: Any = self.cycle
        scope: Any = self.scope
        resting = self.timeout_keep_alive_task
        if resting is not None:
            # It has sent nothing since its last answer, for which uvicorn has a limit.
            if self._since is None or self._since[0] is not resting:
                self._since = (resting, now)
            return
        if not (latest is None or latest.response_complete):
            self._since = None
            return
        if self._since is None or self._since[0] is not latest:
            self._since = (latest, now)
        begun = scope is not None and (latest is None or scope is not latest.scope)
        if now - self._since[1] > (_HEAD_S if begun else silent_s) and not self.transport.is_closing():
            if begun:
                self.transport.write(_SLOW)
            self.transport.close()

    def idle_s(self, now: float) -> float:
        """Say for how long nothing was asked, as far as sweeps have seen; 0 while something is."""
        resting: Any = self.timeout_keep_alive_task
        if resting is None and self.scope is not None:
            # Something has come since.
            return 0.0
        return now - self._since[1] if self._since is not None and self._since[0] is resting else 0.0

    def give_way(self) -> None:
        """Close, as servers may between requests; its client connects anew when it has one."""
        self.transport.close()


class Door:
    """What the connections of a server share. On the event loop."""

    def __init__(self, settings: ServerSettings) -> None:
        self._settings = settings
        self.places = Places[Visitor](settings.connections)
        self.late: set[Late] = set()
        """Those who are being told that there is no room."""
        self._timer: asyncio.TimerHandle | None = None

    @property
    def visitors(self) -> set[Visitor]:
        """Those who are served."""
        return self.places.taken

    def protocol(self, **given: Any) -> Visitor:  # noqa: ANN401 - uvicorn's
        """Make a connection; what uvicorn calls."""
        return Visitor(**given, door=self)

    def came(self, visitor: Visitor) -> None:
        """Let a client in, if there is room. Other processes of this predictor always are."""
        transport = visitor.transport
        if transport.get_extra_info("socket").family == socket.AF_UNIX:
            return
        if self.places.take(visitor, asyncio.get_running_loop().time()):
            return
        if len(self.late) >= _TURNED_AWAY:
            transport.abort()
        else:
            visitor.connections.discard(visitor)
            transport.set_protocol(Late(self, transport))

    def open(self) -> None:
        """Look at the connections from now on."""
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(_SWEEP_S, self._sweep, loop)

    def close(self) -> None:
        """Stop that."""
        if self._timer is not None:
            self._timer.cancel()

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = loop.call_later(_SWEEP_S, self._sweep, loop)
        now = loop.time()
        for visitor in list(self.visitors):
            visitor.sweep(now, self._settings.keep_alive_s)


class Late(asyncio.Protocol):
    """A connection that is not served: told why when it asks, or after a while."""

    def __init__(self, door: Door, transport: asyncio.Transport) -> None:
        self._door, self._transport = door, transport
        self._loop = asyncio.get_running_loop()
        self._told = False
        self._timer = self._loop.call_later(_SILENT_S, self._tell)
        door.late.add(self)

    def data_received(self, data: bytes) -> None:  # noqa: ARG002, D102 - asyncio's contract
        self._tell()

    def eof_received(self) -> bool:  # noqa: D102
        self._tell()
        return False

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002, D102
        self._timer.cancel()
        self._door.late.discard(self)

    def _tell(self) -> None:
        if self._told or self._transport.is_closing():
            return
        self._told = True
        self._timer.cancel()
        self._transport.write(_LATE)
        if self._transport.can_write_eof():
            self._transport.write_eof()
        else:
            # TLS has no half of an end; its own takes what still comes.
            self._transport.close()
        self._timer = self._loop.call_later(_LINGER_S, self._transport.abort)


class Attendance(Collector):
    """Shows how many connections there are, and how many were turned away, by protocol."""

    def __init__(self) -> None:
        self._counts: dict[str, Callable[[], tuple[int, int]]] = {}

    def add(self, protocol: str, count: Callable[[], tuple[int, int]]) -> None:
        """Show those of a protocol, too."""
        self._counts[protocol] = count

    def collect(self) -> Iterator[Metric]:
        """Count. Called by the registry."""
        found: Mapping[str, tuple[int, int]] = {name: count() for name, count in self._counts.items()}
        here = GaugeMetricFamily("sidelight_predictor_connections", "Clients' connections.", labels=("protocol",))
        away = CounterMetricFamily(
            "sidelight_predictor_connections_refused", "Connections that were one too many.", labels=("protocol",)
        )
        for name, (present, refused) in found.items():
            here.add_metric((name,), present)
            away.add_metric((name,), refused)
        yield here
        yield away
