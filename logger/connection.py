"""The proxy's client side over HTTP/1.1: parses requests strictly, one exchange at a time per connection.

Over HTTP/2 it is `logger/grpc/front.py`. Next on the path: `logger/exchange.py`.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import httptools
import orjson

from inference.http2.outlet import Outlet
from logger.answers import refusal
from logger.exchange import STALL_QUEUE, Exchange
from logger.heads import Fields, Refusal, RequestHead, forwarded_line, head_size, judge, wants_only_h2c, without_upgrade
from logger.lane import RETRIED
from logger.tap import Seen

if TYPE_CHECKING:
    from logger.proxy import Proxy

SWEEP_S: Final = 0.5
"""How often connections are looked at."""
_LINGER_S: Final = 2.0
"""How long a client that still sends may read its answer before the connection goes, see `Connection._leave`."""
_MOST_QUEUED: Final = 32
_MOST_REFUSALS: Final = 256
"""Connections beyond the limit that are told so; still more are cut."""
_OVERHEAD: Final = 16
"""Bytes of chunk framing for one of content; the worst honest sender, a byte a chunk, needs five."""
_LONGEST_ID: Final = 256
_PROBE: Final = (b"k-network-probe", b"queue")


class Connection(Outlet):
    """One client connection. Requests that come before the last one's answer wait; reading pauses meanwhile."""

    def __init__(self, proxy: Proxy) -> None:
        super().__init__(proxy.turn)
        self._proxy = proxy
        self.capture, self.hold, self.chosen = proxy.capture, proxy.hold, proxy.chosen
        self.others, self.traced = proxy.settings.log_other, proxy.traced
        self.heard = time.monotonic()
        self.leaving = proxy.draining
        self._max_head, self._max_headers = proxy.settings.max_head, proxy.settings.max_headers
        self._max_body = proxy.settings.max_body or sys.maxsize
        self._parser = httptools.HttpRequestParser(self)
        self._current: Exchange | None = None
        self._latest: Exchange | None = None
        self._steps: deque[tuple[bool, Callable[[], None]]] = deque()
        """What waits for the running exchange's end: whether it begins the next one, and what to do."""
        self._queued = self._served = 0
        self._stepping = False
        self._stalls = 0
        self._deaf = False
        """Where the next request would begin is unknown, or it will not be served: nothing more is read."""
        self._began: float | None = None
        self._target = b""
        self._fields: Fields = []
        self._open = self._in_head = False
        """A message has begun and not ended; its head has not been accepted."""
        self._raw = -1
        """Bytes read of the open message beyond the read in which it began, -1 before that."""
        self._size = 0
        """Bytes of the latest read."""
        self._turned_down: RequestHead | None = None
        self._closing = False
        self._gone = 0.0
        """When a closing connection is cut."""
        self._pace: tuple[float, int] | None = None
        self._stuck: tuple[float, int] | None = None
        """Since when the client reads nothing, and how much is waiting for it."""
        self._address = ""
        self.forwarded = b""
        self.turned_away: Refusal | None = None
        """Why it is not let in: said when it is known which protocol it speaks, or when it says nothing."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:  # noqa: D102 - asyncio's contract
        self.transport = transport
        proxy, settings = self._proxy, self._proxy.settings
        proxy.connections.add(self)
        peer = transport.get_extra_info("peername")
        if peer and not isinstance(peer, str):
            self.forwarded = forwarded_line(peer[0])
        if len(proxy.connections) > settings.max_connections:
            self._turn_away(Refusal(503, "too many connections"))
        elif settings.max_per_address:
            self._address = str((peer or ("",))[0])
            proxy.addresses[self._address] += 1
            if proxy.addresses[self._address] > settings.max_per_address:
                self._turn_away(Refusal(429, "too many connections from this address"))

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: D102, ARG002
        proxy = self._proxy
        proxy.connections.discard(self)
        if self._address:
            proxy.addresses[self._address] -= 1
            if not proxy.addresses[self._address]:
                del proxy.addresses[self._address]
        self._closing = self._deaf = True
        self._steps.clear()
        if self._current is not None:
            self._current.client_lost()

    def head_begun(self) -> None:
        """Take the news that a head has begun, though nobody can tell yet of which protocol."""
        if self._began is None:
            self._began = time.monotonic()

    def give_way(self) -> bool:
        """Leave the connection to HTTP/2, but for its end; False when it is over already."""
        if self._deaf and self.turned_away is None:
            return False
        self._proxy.connections.discard(self)
        return True

    def data_received(self, data: bytes) -> None:  # noqa: D102
        while data:
            data = self._read(data)

    def _read(self, data: bytes) -> bytes:
        """Take what the client sent; give what is to be read instead of an offer that was turned down, and after it."""
        if self._deaf:
            self._send_away()
            return b""
        self.heard = time.monotonic()
        if self._began is None and self._current is None:
            self._began = self.heard
        self._size = len(data)
        turn = self._turn
        turn.open = True
        try:
            self._parser.feed_data(data)
            if self._open:
                self._weigh()
        except httptools.HttpParserUpgrade as exc:
            return self._turn_down_upgrade(data[exc.args[0] :])
        except httptools.HttpParserCallbackError as exc:
            if not isinstance(exc.__context__, _Refused):
                raise
        except httptools.HttpParserError as exc:
            self._refuse(Refusal(400, f"no HTTP/1.1 request: {exc}"))
        finally:
            turn.end()
        return b""

    def pause_writing(self) -> None:  # noqa: D102
        self._stuck = (time.monotonic(), self.transport.get_write_buffer_size())
        if self._current is not None:
            self._current.client_pressure(full=True)

    def resume_writing(self) -> None:  # noqa: D102
        self._stuck = None
        if self._current is not None:
            self._current.client_pressure(full=False)

    def stall(self, reason: int, *, on: bool) -> None:
        """Stop reading from the client, or go on when no other reason is left; called by the exchange, too."""
        before = self._stalls
        self._stalls = before | reason if on else before & ~reason
        if bool(before) != bool(self._stalls) and not self._closing:
            if before:
                self.transport.resume_reading()
            else:
                self.transport.pause_reading()

    def on_message_begin(self) -> None:  # noqa: D102 - httptools' contract
        self._target = b""
        self._open = self._in_head = True
        self._raw = -1

    def on_url(self, target: bytes) -> None:  # noqa: D102
        self._target += target

    def on_header(self, name: bytes, value: bytes) -> None:  # noqa: D102
        self._fields.append((name.lower(), value.strip(b" \t")))

    def on_headers_complete(self) -> None:  # noqa: D102
        parser = self._parser
        # What comes after the head is trailers, which go nowhere: whoever joined them to the head could be misled.
        fields, self._fields = self._fields, []
        if self._deaf:
            # The request before this one ended the connection.
            raise _Refused
        self._limit(fields)
        self._raw = -1
        head = RequestHead(parser.get_method(), self._target, parser.get_http_version(), fields)
        upgrade = parser.should_upgrade()
        if upgrade and head.method != b"CONNECT" and wants_only_h2c(head):
            self._turned_down = head
            return
        refusal_ = judge(head, upgrade=upgrade)
        if refusal_ is not None:
            self._stop(refusal_)
        length = head.first.get(b"content-length")
        if length is not None and int(length) > self._max_body:
            self._stop(Refusal(413, f"expected at most {self._max_body} bytes of content"))
        self._began = None
        self._in_head = False
        if self._current is None and not self._steps:
            self._begin(head)
        else:
            self._queue(head)

    def on_body(self, data: bytes) -> None:  # noqa: D102
        latest = self._latest
        if self._steps:
            self._steps.append((False, lambda: self._pass_on(data)))
        elif latest is not None and latest.received + len(data) <= self._max_body:
            latest.request_data(data)
        else:
            self._pass_on(data)

    def on_message_complete(self) -> None:  # noqa: D102
        self._open = False
        self._fields = []
        if self._turned_down is not None:
            return
        if self._steps:
            self._steps.append((False, self._end))
        elif self._latest is not None:
            self._latest.request_end()

    def finished(self, exchange: Exchange, *, close: bool) -> None:
        """Go on with the next request, or close; called by the exchange."""
        if exchange is not self._current:
            return
        self._current = None
        self._pace = None
        self.heard = time.monotonic()
        if close or self.leaving:
            self._leave(unread=not exchange.complete() or bool(self._steps))
        elif self._steps and not self._stepping:
            self._step()

    def seen(self, seen: Seen) -> None:
        """Hand an inference call to the outbox; called by the exchange."""
        self.count(seen)
        self._proxy.offer(seen)

    def count(self, seen: Seen) -> None:
        """Count an inference call by its status; called by the exchange."""
        self._proxy.tally.answered(seen.status)

    def retried(self) -> None:
        """Count a request that was sent again; called by the exchange."""
        self._proxy.tally.add(RETRIED)

    def sweep(self, now: float) -> None:
        """Give up on who was silent for too long."""
        settings, current = self._proxy.settings, self._current
        if self.turned_away is not None:
            if now - self.heard > SWEEP_S:
                self._send_away()
        elif self._closing:
            if now > self._gone:
                self.abort()
        elif self._stuck is not None and self._reads_nothing(now):
            self.abort()
        elif current is not None:
            if not self._keeps_pace(now, current):
                self._refuse(Refusal(408, f"expected at least {settings.min_rate} bytes of content a second"))
            else:
                current.sweep(now, settings, client_full=self._stuck is not None)
        elif self._began is not None and now - self._began > settings.head_s:
            self._refuse(Refusal(408, f"the request's head was not complete within {settings.head_s:g} s"))
        elif now - self.heard > settings.idle_s:
            self._leave(unread=False)

    def close_when_idle(self) -> None:
        """Close now, or as soon as the running exchange is over."""
        if self._current is None and self._began is None and not self._closing:
            self._leave(unread=False)

    def _begin(self, head: RequestHead) -> None:
        first, proxy = head.first, self._proxy
        pool = proxy.pool if proxy.route is None else proxy.route(head)
        if first.get(_PROBE[0]) == _PROBE[1] and head.method == b"GET":
            # The kubelet's question is whether the model is ready, so it is the model that answers it.
            head = RequestHead(head.method, head.target, head.version, [f for f in head.fields if f[0] != _PROBE[0]])
        given = first.get(b"x-request-id") or first.get(b"ce-id")
        correlation = given if given and len(given) <= _LONGEST_ID else proxy.new_id()
        length, chunked = first.get(b"content-length"), b"transfer-encoding" in first
        size = int(length) if length is not None else (None if chunked or head.method in _BODILESS else 0)
        # Section 10.1.1 of RFC 9110: without content, or from HTTP/1.0, the expectation means nothing.
        expect = b"expect" in first and bool(chunked or size) and head.version == "1.1"
        self._served += 1
        if self._served == proxy.settings.max_requests or (self._deaf and not self._queued):
            self.leaving = True
        close = head.version == "1.0" or (b"connection" in first and _closes(head))
        self._current = self._latest = Exchange(
            self, pool, head, correlation, size, chunked=chunked, close=close, expect=expect
        )
        self._current.start()

    def _pass_on(self, data: bytes) -> None:
        """Give the newest request a piece of its content."""
        latest, most = self._latest, self._max_body
        if latest is None:
            return
        if latest.received + len(data) > most and not latest.over:
            self._deaf = True
            self._proxy.tally.refused(413)
            latest.give_up(413, f"expected at most {most} bytes of content")
        latest.request_data(data)

    def _end(self) -> None:
        if self._latest is not None:
            self._latest.request_end()

    def _queue(self, head: RequestHead) -> None:
        """Let a pipelined request wait; reading pauses, so at most what one read brought in waits, and not all of it.

        RFC 9112 section 9.3.2: who pipelines has to be ready for a close before all is answered.
        """
        self._steps.append((True, lambda: self._begin(head)))
        self._queued += 1
        self.stall(STALL_QUEUE, on=True)
        if self._queued > _MOST_QUEUED:
            self._steps.pop()
            self._queued -= 1
            self._deaf = True
            raise _Refused

    def _step(self) -> None:
        """Begin the next request that waits, and give it what had already come for it."""
        self._stepping = True
        steps = self._steps
        while steps and self._current is None and not self._closing:
            self._queued -= 1
            steps.popleft()[1]()
            while steps and not steps[0][0]:
                steps.popleft()[1]()
        self._stepping = False
        if not steps and not self._closing:
            self.stall(STALL_QUEUE, on=False)

    def _limit(self, fields: Fields) -> None:
        """Refuse a head that is too large."""
        if len(self._target) > self._proxy.settings.max_target:
            self._stop(Refusal(414, f"expected a request target of at most {self._proxy.settings.max_target} bytes"))
        most = self._max_head
        if len(fields) > self._max_headers or (
            (self._raw >= 0 or self._size > most) and head_size(self._target, fields) > most
        ):
            self._stop(self._large())

    def _weigh(self) -> None:
        """Bound what an open message makes us read without being content: its head, chunk extensions, trailers."""
        if self._raw < 0:
            # The read in which it began may have brought other requests, too.
            self._raw = 0
            return
        self._raw += self._size
        content = 0 if self._in_head or self._latest is None else self._latest.received
        if self._raw - content > self._max_head + _OVERHEAD * content or len(self._fields) > self._max_headers:
            self._refuse_size()

    def _refuse_size(self) -> None:
        if self._in_head and len(self._target) > self._proxy.settings.max_target:
            self._refuse(Refusal(414, f"expected a request target of at most {self._proxy.settings.max_target} bytes"))
        else:
            self._refuse(self._large())

    def _large(self) -> Refusal:
        return Refusal(431, f"expected a head of at most {self._max_head} bytes and {self._max_headers} fields")

    def _turn_down_upgrade(self, rest: bytes) -> bytes:
        """Have a request whose only offer is HTTP/2 read as if it had made none; its content was not read yet."""
        head, self._turned_down = self._turned_down, None
        if head is None:
            self._refuse(Refusal(501, "protocol upgrades are not served by this proxy"))
            return b""
        self._parser = httptools.HttpRequestParser(self)
        return without_upgrade(head) + rest

    def _keeps_pace(self, now: float, current: Exchange) -> bool:
        """Tell whether content comes fast enough, looked at over stretches of `body_s`."""
        settings = self._proxy.settings
        if self._stalls or not current.uploading():
            self._pace = None
        elif self._pace is None:
            self._pace = (now, current.received)
        elif now - self._pace[0] >= settings.body_s:
            fair = current.received - self._pace[1] >= settings.min_rate * settings.body_s
            self._pace = (now, current.received)
            return fair
        return True

    def _reads_nothing(self, now: float) -> bool:
        since, waiting = self._stuck or (now, 0)
        left = self.transport.get_write_buffer_size()
        if left < waiting:
            self._stuck = (now, left)
            return False
        self._stuck = (since, left)
        return now - since > self._proxy.settings.send_s

    def _stop(self, refusal_: Refusal) -> None:
        self._refuse(refusal_)
        raise _Refused

    def _refuse(self, refusal_: Refusal) -> None:
        """Answer a request that cannot be forwarded, and close: its end in the byte stream is in doubt."""
        self._deaf = True
        latest = self._latest
        self._proxy.tally.refused(refusal_.status)
        if self._in_head or latest is None or not self._open:
            if self._current is None and not self._steps:
                self._answer(refusal_)
            else:
                self._steps.append((True, lambda: self._answer(refusal_)))
                self._queued += 1
        elif latest is self._current and not self._steps:
            # In the middle of a request that the model has begun to see.
            self._give_up(refusal_)
        else:
            self._steps.append((False, lambda: self._give_up(refusal_)))

    def _give_up(self, refusal_: Refusal) -> None:
        if self._latest is not None:
            self._latest.give_up(refusal_.status, refusal_.reason)

    def _answer(self, refusal_: Refusal) -> None:
        content = not (self._in_head and self._parser.get_method() == b"HEAD")
        self.write(refusal(refusal_.status, orjson.dumps({"error": refusal_.reason}), None, content=content))
        self._leave(unread=True)

    def _turn_away(self, refusal_: Refusal) -> None:
        """Do not serve a connection: there is no room."""
        if len(self._proxy.connections) > self._proxy.settings.max_connections + _MOST_REFUSALS:
            self._deaf = self._closing = True
            self._proxy.tally.refused(refusal_.status)
            self.abort()
        else:
            self._deaf, self.turned_away = True, refusal_

    def _send_away(self) -> None:
        refusal_, self.turned_away = self.turned_away, None
        if refusal_ is not None:
            self._refuse(refusal_)

    def _leave(self, *, unread: bool) -> None:
        """Close; when more may come that nobody reads, in stages.

        RFC 9112 section 9.6: closed at once, such a connection is reset, and the client loses the answer.
        """
        if self._closing:
            return
        self._closing = self._deaf = True
        self._steps.clear()
        if unread:
            self.flush()
            if self._stalls:
                self.transport.resume_reading()
            self.transport.write_eof()
            self._gone = time.monotonic() + _LINGER_S
        else:
            self._gone = time.monotonic() + self._proxy.settings.send_s
            self.end()


class _Refused(Exception):
    pass


def _closes(head: RequestHead) -> bool:
    return any(name == b"connection" and b"close" in value.lower() for name, value in head.fields)


_BODILESS: Final = frozenset({b"GET", b"HEAD", b"OPTIONS", b"DELETE", b"TRACE"})
