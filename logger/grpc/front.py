"""The client's side: one HTTP/2 connection, its calls, its limits and its end.

Next on the path: `call.py`; the model's side is `back.py`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Any, Final, Protocol

import orjson
from h2.errors import ErrorCodes
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes

from inference.http2.fields import Head
from inference.http2.guest import STARVED
from inference.http2.outlet import Turn
from inference.http2.status import Code, trailers
from logger.connector import Connector
from logger.grpc import methods, patience
from logger.grpc.back import Back
from logger.grpc.call import Call, ClientLink, kept, refusal
from logger.hold import Hold
from logger.lane import Tally
from logger.settings import ProxySettings
from logger.tap import Seen
from logger.tracing import carried

log = logging.getLogger(__name__)

_LONGEST_ID: Final = 256


class Host(Protocol):
    """What the connections of a listener share."""

    settings: ProxySettings
    connector: Connector
    capture: int
    tally: Tally
    turn: Turn
    connections: set[Any]
    hold: Hold | None
    chosen: Callable[[bytes], bool] | None
    traced: bool

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
            {
                SettingCodes.MAX_CONCURRENT_STREAMS: settings.grpc_streams,
                SettingCodes.MAX_HEADER_LIST_SIZE: settings.max_head,
            },
        )
        self._lost = lost
        self._host, self.settings, self.capture, self.hold = host, settings, host.capture, host.hold
        self._fresh: list[Call] = []
        """Calls of this read. One that is reset in the same read costs the model nothing."""
        self._back: Back | None = None
        self._backs: set[Back] = set()
        self._connecting: set[asyncio.Task[None]] = set()
        self._served = 0
        self._away = ""
        """Why no call is served, if so."""

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

    def turn_away(self, status: int, reason: str) -> None:
        """Serve nothing, for there are too many connections: whoever calls within a second hears so, then it ends.

        At once would be too soon: a client whose calls no goodbye has refused connects anew for them, again and again.
        """
        self.refused(status)
        self._away = reason
        self.linger()

    def finished(self, call: Call) -> None:
        """Take the news that a call is over."""
        self._calls.pop(call.stream, None)
        if self._back is not None:
            self._back.freed(call, 0)
        if not self._calls:
            self.freed()

    def seen(self, seen: Seen) -> None:
        """Hand what was seen of a call to the outbox."""
        self.count(seen)
        self._host.offer(seen)

    def count(self, seen: Seen) -> None:
        """Count a call by its status."""
        self._host.tally.answered(seen.status)

    def refused(self, http_status: int) -> None:
        """Count a refusal, under the status that HTTP/1.1 has for it."""
        self._host.tally.refused(http_status)

    def sweep(self, now: float) -> None:
        """Give up on who was silent for too long."""
        settings = self.settings
        if self.reads_nothing(now, settings.send_s):
            self.abort()
        elif self.gone_by is not None:
            if now > self.gone_by:
                self.leave(ErrorCodes.ENHANCE_YOUR_CALM, self._away)
                self.end()
        elif self.head_takes_too_long(now, settings.head_s):
            self.refused(408)
            self.say_goodbye(ErrorCodes.ENHANCE_YOUR_CALM, b"no whole head within %g s" % settings.head_s)
            self.close()
        elif self._calls:
            self._turn.begin()
            starved = self.h2.inbound_flow_control_window < STARVED
            for call in list(self._calls.values()):
                http_status = patience.sweep(call, now, settings, starved=starved)
                if http_status:
                    self.refused(http_status)
            self._turn.end()
        elif now - self.idle_since > settings.idle_s:
            self.close_when_idle()

    def take_head(self, stream: int, head: Head, *, end: bool) -> None:
        """Begin a call, or refuse it."""
        found, settings = head.found, self.settings
        given = found.get(b"x-request-id") or found.get(b"ce-id")
        correlation = given if given and len(given) <= _LONGEST_ID else self._host.new_id()
        if self.leaving or len(self._calls) >= settings.grpc_streams:
            # RFC 9113 section 5.1.2: an error of this stream alone, and the client may repeat the call without a doubt.
            self.reset(stream, ErrorCodes.REFUSED_STREAM)
            self.extra()
            return
        if found.get(b":method") != b"POST" or not found.get(b"content-type", b"").startswith(b"application/grpc"):
            self._refuse(stream, 415, "HTTP/2 is served for gRPC: expected POST and application/grpc", correlation)
            return
        raw = found.get(b":path", b"")
        if self._away:
            self._end_at_once(stream, Code.UNAVAILABLE, self._away, correlation)
            self.extra()
            return
        if len(head.fields) > settings.max_headers:
            self._exhaust(stream, 431, f"expected at most {settings.max_headers} fields of metadata", correlation)
            return
        if len(raw) > settings.max_target:
            self._exhaust(stream, 414, f"expected a path of at most {settings.max_target} bytes", correlation)
            return
        path = raw.decode("latin-1")
        wanted = methods.logged(path, others=settings.grpc_log_other)
        chosen = self._host.chosen is None or self._host.chosen(correlation)
        seen = kept(head, path, correlation) if wanted and chosen else None
        if seen is not None and self._host.traced and b"traceparent" in found:
            head = Head(carried(list(head.fields), seen))
        call = self._calls[stream] = Call(self, stream, head, correlation, seen)
        self._fresh.append(call)
        if end:
            call.request_end(None)
        self._served += 1
        if self._served == settings.max_requests:
            self.close_when_idle()

    def _refuse(self, stream: int, status: int, reason: str, correlation: bytes) -> None:
        """Answer what is no gRPC."""
        own = [(b":status", b"%d" % status), (b"content-type", b"application/json")]
        self.head(stream, refusal(own, correlation), end=False)
        try:
            self.content(stream, orjson.dumps({"error": reason}), end=True)
        except ProtocolError as exc:
            log.debug("the reason for a refusal could not be sent: %s", exc)
        self.refused(status)
        self.reset(stream, ErrorCodes.NO_ERROR)

    def _exhaust(self, stream: int, http_status: int, reason: str, correlation: bytes) -> None:
        """Refuse a call for its size."""
        self.refused(http_status)
        self._end_at_once(stream, Code.RESOURCE_EXHAUSTED, reason, correlation)

    def _end_at_once(self, stream: int, code: int, reason: str, correlation: bytes) -> None:
        own = [(b":status", b"200"), (b"content-type", b"application/grpc"), *trailers(code, reason)]
        self.head(stream, refusal(own, correlation), end=True)
        self.reset(stream, ErrorCodes.NO_ERROR)

    def _place(self, calls: Iterable[Call]) -> None:
        """Give calls to the model's connection, and open one when there is none."""
        for call in calls:
            if call.over:
                continue
            back = self._back
            if back is None or back.closed or back.leaving:
                back = self._back = Back(self._turn, self.settings.max_head, self._again)
                self._backs = {other for other in self._backs if not other.closed} | {back}
                task = asyncio.get_running_loop().create_task(self._connect(back))
                self._connecting.add(task)
                task.add_done_callback(self._connecting.discard)
            back.take(call)

    def _again(self, calls: Iterable[Call]) -> None:
        """Give calls that the model has not seen to another connection, once."""
        for call in calls:
            if call.moved:
                call.refuse(Code.UNAVAILABLE, "the model takes no further calls")
            else:
                call.moved = True
                self._place((call,))

    async def _connect(self, back: Back) -> None:
        problem = ""
        try:
            await self._host.connector.grpc(lambda: back)
        except TimeoutError:
            problem = "the model did not take the connection in time"
        except OSError as exc:
            problem = f"the model cannot be reached: {exc.strerror or exc}"
        if problem:
            self._turn.begin()
            back.fail(problem)
            self._turn.end()
