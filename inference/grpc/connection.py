"""A client's connection: its calls, from their heads on, and what ends them. Next on the path: `call.py`."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import orjson
from h2.errors import ErrorCodes
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes

from inference.errors import FULL
from inference.grpc.call import Call
from inference.grpc.heads import NO_GRPC, Wanted, ending
from inference.grpc.methods import Method, Methods
from inference.http2.fields import Head
from inference.http2.guest import STARVED, Guest
from inference.http2.outlet import Turn
from inference.http2.status import Code
from inference.places import Places
from inference.settings import ServerSettings

log = logging.getLogger(__name__)

STREAMS: Final = 256
"""Calls of a connection at a time, which its settings say: clients wait with more, or open another connection."""
_STREAM_WINDOW, _CONNECTION_WINDOW = 256 * 1024, 4 << 20
_HEAD_BYTES: Final = 32 * 1024
_HEAD_S: Final = 20.0
_KEEP_ALIVE: Final = {socket.TCP_KEEPIDLE: 60, socket.TCP_KEEPINTVL: 15, socket.TCP_KEEPCNT: 4}
_TURNED_AWAY: Final = 256
"""Connections beyond the limit that hear why they are not served. For one more, the one is cut that came first."""
_PROBES: Final = frozenset({
    b"/grpc.health.v1.Health/Check",
    b"/inference.GRPCInferenceService/ServerLive",
    b"/inference.GRPCInferenceService/ServerReady",
    b"/inference.GRPCInferenceService/ModelReady",
})  # fmt: skip
"""What those are answered all the same: a kubelet that hears nothing takes a busy process for a dead one."""
_IDLE_S: Final = 600.0
"""How long a connection without calls is kept: opening one anew costs a client little, and many of them cost us."""


@dataclass(slots=True, kw_only=True)
class Host:
    """What the connections of a server share."""

    methods: Methods
    settings: ServerSettings
    loop: asyncio.AbstractEventLoop
    waiting: Callable[[], int]
    """Counts the calls in progress, for who is refused."""
    turn: Turn = field(default_factory=Turn)
    connections: set[Connection] = field(default_factory=set)
    """All that are open; those among `places` are served."""
    places: Places[Connection] = field(init=False)
    late: dict[Connection, None] = field(default_factory=dict)
    """Those for which there is no place, in the order of their coming."""
    held: int = 0
    """Bytes of requests that no method has taken yet."""
    unread: int = 0
    """Calls and connections that were given up because nobody took their answers."""

    def __post_init__(self) -> None:
        self.places = Places(self.settings.connections)


class Connection(Guest[Call]):
    """One connection."""

    def __init__(self, host: Host) -> None:
        super().__init__(
            host.turn,
            {SettingCodes.MAX_CONCURRENT_STREAMS: STREAMS, SettingCodes.MAX_HEADER_LIST_SIZE: _HEAD_BYTES},
            stream_window=_STREAM_WINDOW,
            connection_window=_CONNECTION_WINDOW,
        )
        self.host = host
        self._most = STREAMS
        """Calls at a time; none where it is not served."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:  # noqa: D102 - asyncio's contract
        host = self.host
        host.connections.add(self)
        _watch(transport.get_extra_info("socket"))
        super().connection_made(transport)
        if not host.places.take(self, time.monotonic()):
            self._turn_away()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: D102, ARG002
        self.closed = True
        self.host.connections.discard(self)
        self.host.places.leave(self)
        self.host.late.pop(self, None)
        for call in list(self._calls.values()):
            call.client_reset(ErrorCodes.CANCEL)

    def finished(self, call: Call) -> None:
        """Take the news that a call is over."""
        del self._calls[call.stream]
        if not self._calls:
            self.freed()

    def stop(self) -> None:
        """Serve nothing any more: what still runs ends now."""
        for call in list(self._calls.values()):
            call.stop()
        self.close()

    def idle_s(self, now: float) -> float:
        """Say for how long no call has been running; 0 while one is."""
        return 0.0 if self._calls else now - self.idle_since

    def give_way(self) -> None:
        """Serve no further call: what crosses the goodbye is refused, and the client repeats it elsewhere."""
        self.close_when_idle()

    def sweep(self, now: float) -> None:
        """Give up on who was silent for too long."""
        settings = self.host.settings
        if self.reads_nothing(now, settings.body_timeout_s):
            self.host.unread += 1
            self.abort()
        elif self.gone_by is not None:
            if now > self.gone_by:
                self.leave(ErrorCodes.ENHANCE_YOUR_CALM, FULL)
                self.end()
        elif self.head_takes_too_long(now, _HEAD_S):
            self.say_goodbye(ErrorCodes.ENHANCE_YOUR_CALM, b"no whole head within %g s" % _HEAD_S)
            self.close()
        elif self._calls:
            starved = self.h2.inbound_flow_control_window < STARVED
            for call in list(self._calls.values()):
                call.sweep(now, starved=starved)
        elif now - self.idle_since > _IDLE_S:
            self.close_when_idle()

    def take_head(self, stream: int, head: Head, *, end: bool) -> None:
        """Begin a call, or refuse it."""
        if self.leaving or len(self._calls) >= self._most:
            if not self._most and not self.leaving:
                self._end_at_once(stream, head, end=end)
                return
            # RFC 9113 section 5.1.2: an error of this stream alone, and the client may repeat the call without a doubt.
            self.reset(stream, ErrorCodes.REFUSED_STREAM)
            self.extra()
            return
        wanted: Wanted | None = head.made
        if wanted is None:
            wanted = head.made = Wanted(head, self.host.methods)
        if wanted.method is None or not wanted.grpc:
            self._refuse(stream, wanted)
            return
        self._begin(stream, wanted, wanted.method, end=end)

    def _turn_away(self) -> None:
        """Serve nothing: whoever calls within a second hears why, then it ends.

        At once would be too soon: a client whose calls no goodbye has refused connects anew for them, again and again.
        """
        late = self.host.late
        if len(late) >= _TURNED_AWAY:
            first = next(iter(late))
            del late[first]
            first.abort()
        late[self] = None
        self._most = 0
        self.linger()

    def _begin(self, stream: int, wanted: Wanted, method: Method, *, end: bool) -> None:
        call = self._calls[stream] = Call(self, stream, wanted, method)
        if end:
            call.request_end(None)

    def _end_at_once(self, stream: int, head: Head, *, end: bool) -> None:
        """Tell a caller that this connection is one too many, unless it asks whether the process is well."""
        wanted: Wanted = head.made or Wanted(head, self.host.methods)
        if wanted.path in _PROBES and wanted.method is not None and wanted.grpc and not self._calls:
            self._begin(stream, wanted, wanted.method, end=end)
            return
        trailers = ending(Code.UNAVAILABLE, FULL, {"retry-after": "1"})
        self.head(stream, wanted.answer + trailers, end=True)
        self.reset(stream, ErrorCodes.NO_ERROR)
        self.extra()

    def _refuse(self, stream: int, wanted: Wanted) -> None:
        """Answer what is no call, or one of a method that is not here."""
        if wanted.grpc:
            text = f"unknown method {wanted.path.decode('latin-1')}"
            self.head(stream, wanted.answer + ending(Code.UNIMPLEMENTED, text, {}), end=True)
        else:
            self.head(stream, NO_GRPC, end=False)
            reason = "HTTP/2 is served for gRPC: expected POST and application/grpc"
            try:
                self.content(stream, orjson.dumps({"error": reason}), end=True)
            except ProtocolError:
                log.debug("no room for the reason of a refusal")
        self.reset(stream, ErrorCodes.NO_ERROR)


def _watch(sock: Any) -> None:  # noqa: ANN401 - the transport's own kind, or None where there is none
    """Have the system notice a client that has vanished: one that watches may have nothing to say for days."""
    if sock is None or sock.family not in {socket.AF_INET, socket.AF_INET6}:
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEP_ALIVE.items():
        sock.setsockopt(socket.IPPROTO_TCP, option, value)
