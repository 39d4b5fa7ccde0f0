"""The client's side: one HTTP/2 connection, its calls, its limits and its end.

Next on the path: `call.py`; the model's side is `back.py`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from typing import Any, Final, Protocol

import orjson
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    PingReceived,
    PriorityUpdated,
    RemoteSettingsChanged,
    RequestReceived,
    StreamReset,
    TrailersReceived,
    UnknownFrameReceived,
)
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes

from logger.grpc import methods
from logger.grpc.back import Back
from logger.grpc.call import Call, ClientLink, identity, kept
from logger.grpc.status import DEADLINE, EXHAUSTED, UNAVAILABLE, trailers
from logger.heads import Fields
from logger.hold import Hold
from logger.lane import Tally
from logger.outlet import Turn
from logger.settings import ProxySettings
from logger.tap import Seen

log = logging.getLogger(__name__)

_LONGEST_ID: Final = 256
_LINGER_S: Final = 1.0
"""How long a client may take to close after the goodbye; a call that crossed it is told that it was not served."""
_BURST: Final = 1_000
_PER_S: Final = 200.0
"""Frames beyond a call's own that a client may send: pings, settings, priorities, empty content, resets at once."""


class Host(Protocol):
    """What the connections of a listener share."""

    settings: ProxySettings
    capture: int
    tally: Tally
    turn: Turn
    connections: set[Any]
    hold: Hold | None
    chosen: Callable[[bytes], bool] | None

    def new_id(self) -> bytes:
        """Give a correlation id that nobody else has."""

    def offer(self, seen: Seen) -> bool:
        """Hand an exchange to the outbox."""


class Front(ClientLink):
    """One client connection.

    Args:
        host: what it shares with others.
        lost: who counts connections, and is told of its end.
    """

    def __init__(self, host: Host, lost: Callable[[Exception | None], None]) -> None:
        settings = host.settings
        super().__init__(
            host.turn,
            client_side=False,
            settings={
                SettingCodes.MAX_CONCURRENT_STREAMS: settings.grpc_streams,
                SettingCodes.MAX_HEADER_LIST_SIZE: settings.max_head,
            },
        )
        self._lost = lost
        self._host, self._settings, self.capture, self.hold = host, settings, host.capture, host.hold
        self._calls: dict[int, Call] = {}
        self._fresh: list[Call] = []
        """Calls of this read. One that is reset in the same read costs the model nothing."""
        self._back: Back | None = None
        self._backs: set[Back] = set()
        self._connecting: set[asyncio.Task[None]] = set()
        self._idle_since = time.monotonic()
        self._leaving = False
        self._gone_by: float | None = None
        self._patience, self._asked_at = float(_BURST), self._idle_since
        self.on |= {
            RequestReceived: self._request,
            DataReceived: self._data,
            TrailersReceived: self._trailers,
            StreamReset: self._reset,
            RemoteSettingsChanged: self._changed,
            ConnectionTerminated: self._goaway,
            PingReceived: self._extra,
            PriorityUpdated: self._extra,
            UnknownFrameReceived: self._extra,
        }

    def connection_made(self, transport: asyncio.BaseTransport) -> None:  # noqa: D102 - asyncio's contract
        self._host.connections.add(self)
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: D102
        self.closed = True
        self._lost(exc)
        self._host.connections.discard(self)
        self._turn.begin()
        for call in list(self._calls.values()):
            call.client_reset(ErrorCodes.CANCEL)
        for back in list(self._backs):
            back.goodbye()
        for task in self._connecting:
            task.cancel()
        self._turn.end()

    def read(self) -> None:
        """Begin the calls of this read."""
        if self._fresh:
            fresh, self._fresh = self._fresh, []
            self._place(fresh)

    def broken(self, problem: str) -> None:  # noqa: ARG002 - the client has its code, and there is nobody else to tell
        """Close: where the next frame would begin is unknown."""
        self._host.tally.refused(400)
        self._close()

    def finished(self, call: Call) -> None:
        """Take the news that a call is over."""
        self._calls.pop(call.stream, None)
        if self._back is not None:
            self._back.freed(call, 0)
        if not self._calls:
            self._idle_since = time.monotonic()
            if self._leaving:
                self._linger()

    def seen(self, seen: Seen) -> None:
        """Hand what was seen of a call to the outbox."""
        self.count(seen)
        self._host.offer(seen)

    def count(self, seen: Seen) -> None:
        """Count a call by its status."""
        self._host.tally.answered(seen.status)

    def close_when_idle(self) -> None:
        """Serve no further call, and close when the running ones are over."""
        if self._leaving or self.closed:
            return
        self._leaving = True
        self.say_goodbye(ErrorCodes.NO_ERROR)
        if not self._calls:
            self._linger()

    def sweep(self, now: float) -> None:
        """Give up on who was silent for too long."""
        settings = self._settings
        if self._gone_by is not None:
            if now > self._gone_by:
                self.end()
            return
        if not self._calls:
            if now - self._idle_since > settings.idle_s:
                self.close_when_idle()
            return
        self._turn.begin()
        for call in list(self._calls.values()):
            if now - call.heard > settings.answer_s:
                call.refuse(DEADLINE, f"nothing was heard for {settings.answer_s:g} s")
        self._turn.end()

    def _request(self, event: RequestReceived) -> None:
        stream, fields = event.stream_id, event.headers
        head = dict(fields)
        given = head.get(b"x-request-id") or head.get(b"ce-id")
        correlation = given if given and len(given) <= _LONGEST_ID else self._host.new_id()
        if self._leaving:
            self.reset(stream, ErrorCodes.REFUSED_STREAM)
            return
        if head.get(b":method") != b"POST" or not head.get(b"content-type", b"").startswith(b"application/grpc"):
            self._refuse(stream, 415, "HTTP/2 is served for gRPC: expected POST and application/grpc", correlation)
            return
        if len(fields) > self._settings.max_headers:
            own = trailers(EXHAUSTED, f"expected at most {self._settings.max_headers} fields of metadata")
            self._host.tally.refused(431)
            content = (b"content-type", b"application/grpc")
            self.headers(stream, [(b":status", b"200"), content, *own, identity(correlation)], end=True)
            self.reset(stream, ErrorCodes.NO_ERROR)
            return
        path = head.get(b":path", b"").decode("latin-1")
        wanted = methods.logged(path, others=self._settings.grpc_log_other)
        chosen = self._host.chosen is None or self._host.chosen(correlation)
        seen = kept(fields, path, correlation) if wanted and chosen else None
        call = self._calls[stream] = Call(self, stream, fields, correlation, seen)
        self._fresh.append(call)
        if event.stream_ended is not None:
            call.request_end(None)

    def _data(self, event: DataReceived) -> None:
        call = self._calls.get(event.stream_id)
        if call is None:
            self.taken(event.stream_id, event.flow_controlled_length)
        else:
            call.request_data(event.data, event.flow_controlled_length, end=event.stream_ended is not None)
        if not event.data and event.stream_ended is None:
            self._extra(event)

    def _trailers(self, event: TrailersReceived) -> None:
        call = self._calls.get(event.stream_id)
        if call is not None:
            call.request_end(event.headers)

    def _reset(self, event: StreamReset) -> None:
        call = self._calls.get(event.stream_id)
        if call is None:
            self._extra(event)
            return
        if call.rapid(time.monotonic()):
            self._extra(event)
        call.client_reset(int(event.error_code or 0))

    def _changed(self, event: RemoteSettingsChanged) -> None:
        self._settings_changed(event)
        self._extra(event)

    def _goaway(self, _event: ConnectionTerminated) -> None:
        # The client opens no further call, and closes when it has its answers.
        self._leaving = True
        if not self._calls:
            self._linger()

    def _extra(self, _event: object) -> None:
        """Count a frame that no honest client sends in such numbers."""
        now = time.monotonic()
        self._patience = min(float(_BURST), self._patience + (now - self._asked_at) * _PER_S) - 1
        self._asked_at = now
        if self._patience < 0 and not self.closed:
            self._host.tally.refused(429)
            self.say_goodbye(ErrorCodes.ENHANCE_YOUR_CALM)
            self._close()

    def _refuse(self, stream: int, status: int, reason: str, correlation: bytes) -> None:
        """Answer what is no gRPC."""
        fields: Fields = [(b":status", b"%d" % status), (b"content-type", b"application/json"), identity(correlation)]
        self.headers(stream, fields, end=False)
        try:
            self.content(stream, orjson.dumps({"error": reason}), end=True)
        except ProtocolError as exc:
            log.debug("the reason for a refusal could not be sent: %s", exc)
        self._host.tally.refused(status)
        self.reset(stream, ErrorCodes.NO_ERROR)

    def _place(self, calls: Iterable[Call]) -> None:
        """Give calls to the model's connection, and open one when there is none."""
        for call in calls:
            if call.over:
                continue
            back = self._back
            if back is None or back.closed or back.leaving:
                back = self._back = Back(self._turn, self._settings.max_head, self._again)
                self._backs = {other for other in self._backs if not other.closed} | {back}
                task = asyncio.get_running_loop().create_task(self._connect(back))
                self._connecting.add(task)
                task.add_done_callback(self._connecting.discard)
            back.take(call)

    def _again(self, calls: Iterable[Call]) -> None:
        """Give calls that the model has not seen to another connection, once."""
        for call in calls:
            if call.moved:
                call.refuse(UNAVAILABLE, "the model takes no further calls")
            else:
                call.moved = True
                self._place((call,))

    async def _connect(self, back: Back) -> None:
        settings = self._settings
        problem = ""
        try:
            async with asyncio.timeout(settings.connect_s):
                loop = asyncio.get_running_loop()
                if settings.upstream_socket and not settings.grpc_upstream_port:
                    await loop.create_unix_connection(lambda: back, settings.upstream_socket)
                else:
                    port = settings.grpc_upstream_port or settings.upstream_port
                    await loop.create_connection(lambda: back, settings.upstream_host, port)
        except TimeoutError:
            problem = "the model did not take the connection in time"
        except OSError as exc:
            problem = f"the model cannot be reached: {exc.strerror or exc}"
        if problem:
            self._turn.begin()
            back.fail(problem)
            self._turn.end()

    def _linger(self) -> None:
        self._gone_by = time.monotonic() + _LINGER_S

    def _close(self) -> None:
        """Close now; `connection_lost` tells the calls."""
        if not self.closed:
            self.closed = True
            self.end()
