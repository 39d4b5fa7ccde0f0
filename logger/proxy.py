"""The proxy's client side: parses requests strictly, one exchange at a time per connection, and sweeps for time-outs.

`proxy` → `logger/exchange.py` → `logger/outbox.py` → shared memory → `logger/shipper.py` → `logger/tap.py` →
`logger/courier.py` → Kafka. The model's answer never waits for anything behind the outbox.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import secrets
import time
from collections import deque
from collections.abc import Callable
from typing import Final

import httptools
import orjson

from logger.exchange import Exchange, refusal
from logger.heads import Fields, Refusal, RequestHead, judge
from logger.hold import Hold
from logger.lane import CONNECTIONS, Tally
from logger.outlet import Outlet, Turn
from logger.settings import ProxySettings
from logger.tap import Seen
from logger.upstream import Pool

_SWEEP_S: Final = 0.5
_LONGEST_ID: Final = 256
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_PROBE: Final = (b"k-network-probe", b"queue")


class Proxy:
    """Everything that the connections of one listener share."""

    def __init__(self, settings: ProxySettings, capture: int, offer: Callable[[Seen], bool], tally: Tally) -> None:
        self.settings, self.capture, self.offer, self.tally = settings, capture, offer, tally
        self.hold: Hold | None = None
        """Audit mode, when somebody asks for it; set before `serve`."""
        self.turn = Turn()
        self.pool = Pool(settings, self.turn)
        self.connections: set[Connection] = set()
        self.draining = False
        # A random start and a counter: unique over restarts and replicas, and far cheaper than a random id per request.
        self._ids = map(f"{os.getpid():x}-{secrets.token_hex(6)}-{{:x}}".format, itertools.count())

    def new_id(self) -> bytes:
        """Give a correlation id that nobody else has."""
        return next(self._ids).encode()

    async def serve(self, stopping: asyncio.Event, ready: Callable[[], None] = lambda: None) -> None:
        """Listen until `stopping`, and say when it has begun; then let running requests finish, within bounds."""
        loop = asyncio.get_running_loop()
        server = await loop.create_server(
            lambda: Connection(self), self.settings.host, self.settings.port, backlog=1024, reuse_port=True
        )
        sweeper = loop.create_task(self._sweep())
        ready()
        await stopping.wait()
        self.draining = True
        server.close()
        deadline = loop.time() + self.settings.drain_s
        for connection in list(self.connections):
            connection.close_when_idle()
        while self.connections and loop.time() < deadline:  # noqa: ASYNC110 - the deadline has to be looked at, too
            await asyncio.sleep(0.02)
        for connection in list(self.connections):
            connection.abort()
        sweeper.cancel()
        self.pool.close()
        # One turn of the loop for the connections' own goodbyes, which hand aborted exchanges to the outbox.
        await asyncio.sleep(0.05)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_S)
            now = time.monotonic()
            self.tally.set(CONNECTIONS, len(self.connections))
            for connection in list(self.connections):
                connection.sweep(now)


class Connection(Outlet):
    """One client connection. Requests that come before the last one's answer wait; reading pauses meanwhile."""

    def __init__(self, proxy: Proxy) -> None:
        super().__init__(proxy.turn)
        self._proxy = proxy
        self.capture, self.hold = proxy.capture, proxy.hold
        self._max_head, self._max_headers = proxy.settings.max_head, proxy.settings.max_headers
        self._parser = httptools.HttpRequestParser(self)
        self._current: Exchange | None = None
        self._latest: Exchange | None = None
        self._steps: deque[tuple[bool, Callable[[], None]]] = deque()
        """What waits for the running exchange's end: whether it begins the next one, and what to do."""
        self._stepping = False
        self._deaf = False
        """A request was refused: where the next one would begin is unknown, so nothing more is read."""
        self._heard = time.monotonic()
        self._began: float | None = None
        self._head_bytes = 0
        self._target = b""
        self._fields: Fields = []
        self._closing = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:  # noqa: D102 - asyncio's contract
        self.transport = transport
        self._proxy.connections.add(self)
        if len(self._proxy.connections) > self._proxy.settings.max_connections:
            self._refuse(Refusal(503, "too many connections"))

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: D102, ARG002
        self._proxy.connections.discard(self)
        self._closing = True
        self._steps.clear()
        if self._current is not None:
            self._current.client_lost()

    def data_received(self, data: bytes) -> None:  # noqa: D102
        if self._closing or self._deaf:
            return
        self._heard = time.monotonic()
        if self._began is None and self._current is None:
            self._began = self._heard
        self._turn.begin()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._refuse(Refusal(501, "protocol upgrades are not served by this proxy"))
        except httptools.HttpParserCallbackError as exc:
            if not isinstance(exc.__context__, _Refused):
                raise
        except httptools.HttpParserError as exc:
            self._refuse(Refusal(400, f"no HTTP/1.1 request: {exc}"))
        finally:
            self._turn.end()

    def pause_writing(self) -> None:  # noqa: D102
        if self._current is not None:
            self._current.client_pressure(full=True)

    def resume_writing(self) -> None:  # noqa: D102
        if self._current is not None:
            self._current.client_pressure(full=False)

    def on_message_begin(self) -> None:  # noqa: D102 - httptools' contract
        self._target, self._fields, self._head_bytes = b"", [], 0

    def on_url(self, target: bytes) -> None:  # noqa: D102
        self._target += target
        self._head_bytes += len(target)
        if self._head_bytes > self._max_head:
            self._too_large()

    def on_header(self, name: bytes, value: bytes) -> None:  # noqa: D102
        self._fields.append((name.lower(), value.strip(b" \t")))
        self._head_bytes += len(name) + len(value) + 4
        if self._head_bytes > self._max_head or len(self._fields) > self._max_headers:
            self._too_large()

    def on_headers_complete(self) -> None:  # noqa: D102
        head = RequestHead(self._parser.get_method(), self._target, self._parser.get_http_version(), self._fields)
        refusal_ = judge(head, upgrade=self._parser.should_upgrade())
        if refusal_ is not None:
            self._stop(refusal_)
        length = head.first.get(b"content-length")
        chunked = b"transfer-encoding" in head.first
        self._began = None
        self._then(lambda: self._begin(head, length, chunked=chunked), begins=True)

    def on_body(self, data: bytes) -> None:  # noqa: D102
        self._then(lambda: self._pass_on(data))

    def on_message_complete(self) -> None:  # noqa: D102
        self._then(lambda: self._pass_on(None))

    def finished(self, exchange: Exchange, *, close: bool) -> None:
        """Go on with the next request, or close; called by the exchange."""
        if exchange is not self._current:
            return
        self._current = None
        self._heard = time.monotonic()
        if close or self._proxy.draining:
            self._closing = True
            self.end()
            return
        if not self._stepping:
            self._step()

    def seen(self, seen: Seen) -> None:
        """Hand an inference call to the outbox; called by the exchange."""
        self.count(seen)
        self._proxy.offer(seen)

    def count(self, seen: Seen) -> None:
        """Count an inference call by its status; called by the exchange."""
        self._proxy.tally.answered(seen.status)

    def sweep(self, now: float) -> None:
        """Give up on who was silent for too long."""
        settings = self._proxy.settings
        if self._current is not None:
            if self._current.silent_for(now) > settings.answer_s:
                self._current.refuse(504, f"no answer from the model within {settings.answer_s:g} s")
            elif not self._current.silent_for(now) and now - self._heard > settings.idle_s:
                self.abort()
        elif self._began is not None and now - self._began > settings.head_s:
            self._refuse(Refusal(408, f"the request's head was not complete within {settings.head_s:g} s"))
        elif now - self._heard > settings.idle_s:
            self.end()

    def close_when_idle(self) -> None:
        """Close now, or as soon as the running exchange is over."""
        if self._current is None:
            self.end()

    def _begin(self, head: RequestHead, length: bytes | None, *, chunked: bool) -> None:
        first = head.first
        if first.get(_PROBE[0]) == _PROBE[1] and head.method == b"GET":
            # The kubelet's question is whether the model is ready, so it is the model that answers it.
            head = RequestHead(head.method, head.target, head.version, [f for f in head.fields if f[0] != _PROBE[0]])
        given = first.get(b"x-request-id") or first.get(b"ce-id")
        correlation = given if given and len(given) <= _LONGEST_ID else self._proxy.new_id()
        if b"expect" in first and first[b"expect"].lower() == b"100-continue" and head.version == "1.1":
            # Asked on the model's behalf: the content is wanted, whatever the model will say about it.
            self.write(_CONTINUE)
        size = int(length) if length is not None else (None if chunked or head.method in _BODILESS else 0)
        self._current = self._latest = Exchange(self, self._proxy.pool, head, correlation, size, chunked=chunked)
        self._latest.start()

    def _pass_on(self, data: bytes | None) -> None:
        """Give the newest request a piece of its content, or its end."""
        if self._latest is None:
            return
        if data is None:
            self._latest.request_end()
        else:
            self._latest.request_data(data)

    def _then(self, step: Callable[[], None], *, begins: bool = False) -> None:
        """Do a step of the newest request now, or queue it behind the exchange that still runs."""
        if self._steps or (begins and self._current is not None):
            self._steps.append((begins, step))
            # At most what one read brought in waits here: pipelined requests cannot pile up.
            self.transport.pause_reading()
        else:
            step()

    def _step(self) -> None:
        """Begin the next request that waits, and give it what had already come for it."""
        self._stepping = True
        while self._steps and self._current is None and not self._closing:
            self._steps.popleft()[1]()
            while self._steps and not self._steps[0][0]:
                self._steps.popleft()[1]()
        self._stepping = False
        if not self._steps and not self._closing:
            self.transport.resume_reading()

    def _too_large(self) -> None:
        self._stop(Refusal(431, f"expected a head of at most {self._max_head} bytes and {self._max_headers} fields"))

    def _stop(self, refusal_: Refusal) -> None:
        self._refuse(refusal_)
        raise _Refused

    def _refuse(self, refusal_: Refusal) -> None:
        """Answer a request that cannot be forwarded, and close: its end in the byte stream is in doubt."""
        self._deaf = True
        self._proxy.tally.refused(refusal_.status)
        self._then(lambda: self._answer(refusal_), begins=True)

    def _answer(self, refusal_: Refusal) -> None:
        self._closing = True
        self.write(refusal(refusal_.status, orjson.dumps({"error": refusal_.reason}), None))
        self.end()


class _Refused(Exception):
    pass


_BODILESS: Final = frozenset({b"GET", b"HEAD", b"OPTIONS", b"DELETE", b"TRACE"})
