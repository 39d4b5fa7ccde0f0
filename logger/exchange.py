"""One request on its way to the model, and the answer on its way back, both as they come.

It owns the upstream connection for that time, frames both messages anew, keeps what the tap needs by reference, and
keeps back pressure honest: whoever reads slowly slows the other side down, and no memory fills.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final, Protocol

import orjson

from logger.answers import date, refusal
from logger.heads import CONTINUE, LAST_CHUNK, Fields, RequestHead, chunk, framing, request_bytes, response_bytes
from logger.hold import Hold
from logger.settings import ProxySettings
from logger.tap import Seen, is_inference, is_logged
from logger.tracing import carried
from logger.upstream import Pool, Upstream

_HOLD: Final = 64 * 1024
"""Bytes of a request's content that may wait for the connection to the model."""
_STALE_S: Final = 0.5
"""Servers close connections that were idle for seconds; what may not be sent twice goes only on one used just now."""
_NO_LENGTH: Final = frozenset({204})
_RESET: Final = struct.pack("ii", 1, 0)
_REPEATABLE: Final = frozenset({b"GET", b"HEAD", b"OPTIONS"})
STALL_QUEUE, STALL_MODEL, STALL_CONNECT = 1, 2, 4
"""Why a client is not read from: requests wait, the model reads slowly, there is no connection to it yet."""


class Client(Protocol):
    """What an exchange needs of its client's connection."""

    transport: Any
    capture: int
    hold: Hold | None
    chosen: Callable[[bytes], bool] | None
    """Sampling: tells of a correlation id whether its call is logged; None logs all."""
    others: bool
    """Whether calls to a model's own paths are logged, too."""
    traced: bool
    """Whether the model gets the trace of a call below a span of the logger's."""
    heard: float
    leaving: bool
    """The connection closes after this exchange."""
    forwarded: bytes
    """The line that tells the model who asks; empty when the client has no address."""

    def write(self, data: bytes) -> None:
        """Send to the client."""

    def abort(self) -> None:
        """Cut the connection."""

    def stall(self, reason: int, *, on: bool) -> None:
        """Stop reading from the client, or go on when no other reason is left."""

    def finished(self, exchange: Exchange, *, close: bool) -> None:
        """The exchange is over; `close` when the connection cannot serve another."""

    def count(self, seen: Seen) -> None:
        """Count an inference call by its status."""

    def seen(self, seen: Seen) -> None:
        """Hand what was seen of an inference call to the outbox."""

    def retried(self) -> None:
        """Count a request that was sent again."""


class Exchange:
    """One request and its answer."""

    over = False
    received = 0
    """Bytes of the request's content so far."""
    _upstream: Upstream | None = None
    _held_bytes = 0
    _connecting: asyncio.Task[None] | None = None
    _asked = 0.0
    """When the request was complete; 0 before."""
    _answer_chunked = False
    _answer_begun = False
    _endless = False
    """The answer ends with the client's connection."""
    _continued = False
    _retried = False
    _reused = False
    _stuck_since = 0.0
    """Since when the model does not read; 0 while it does."""
    _audited = False
    _left: int | None = None
    _ending = b""
    """Audit mode: what completes the answer, and waits until the events are safe."""

    def __init__(
        self, client: Client, pool: Pool, head: RequestHead, correlation: bytes, length: int | None, *, chunked: bool,
        close: bool, expect: bool = False,
    ) -> None:  # fmt: skip
        self._client, self._pool, self._head, self._correlation = client, pool, head, correlation
        self._length, self._chunked, self._close_after, self._expect = length, chunked, close, expect
        self._began = client.heard
        self._held: list[bytes] = []
        self._seen: Seen | None = None
        target, method = head.target, head.method
        look = _looked_up if len(target) <= _HOLD_PATH else _look_up
        path, predicts = look(method, target, client.others)
        # An answer to a call for predictions depends on the call alone, so it may be asked again: see `_again`.
        self._repeatable = self._length is None and method in _REPEATABLE
        if path and (client.chosen is None or client.chosen(correlation)):
            self._repeatable = predicts
            self._seen = Seen(
                correlation.decode("latin-1"), method.decode("latin-1"), path, head.fields, time.time_ns() // 1000
            )
            if client.traced and b"traceparent" in head.first:
                self._head = RequestHead(method, target, head.version, carried(head.fields, self._seen))

    def start(self) -> None:
        """Send the head, on an idle connection or on a new one."""
        upstream = self._pool.idle(0.0 if self._repeatable else self._client.heard - _STALE_S)
        if upstream is not None:
            self._reused = True
            self._send_head(upstream)
        else:
            self._connecting = asyncio.get_running_loop().create_task(self._connect())

    def request_data(self, data: bytes) -> None:
        """Pass on a piece of the request's content."""
        if self.over:
            return
        self.received += len(data)
        if self._seen is not None:
            self._seen.request.add(data, self._client.capture)
        if self._upstream is None:
            self._held.append(data)
            self._held_bytes += len(data)
            if self._held_bytes > _HOLD:
                self._client.stall(STALL_CONNECT, on=True)
            return
        self._upstream.write(chunk(data) if self._chunked else data)

    def request_end(self) -> None:
        """Pass on the end of the request."""
        self._asked = self._client.heard
        if self._chunked and self._upstream is not None and not self.over:
            self._upstream.write(LAST_CHUNK)

    def uploading(self) -> bool:
        """Tell whether the client owes content, and nothing keeps it from sending."""
        return not self._asked and (self._continued or not self._expect or self.received > 0)

    def complete(self) -> bool:
        """Tell whether the whole request has come."""
        return self._asked > 0

    def answer_interim(self, status: int, reason: bytes, fields: Fields) -> None:
        """Pass on a 1xx answer, as RFC 9110 section 15.2 demands, unless we have given it or the client knows none."""
        if self._head.version == "1.0" or (status == _CONTINUE and self._continued):
            return
        self._continued = self._continued or status == _CONTINUE
        self._client.write(response_bytes(status, reason, _without_length(fields), b"", None))

    def answer_head(
        self, status: int, reason: bytes, fields: Fields, first: dict[bytes, bytes], length: int | None, *, body: bool
    ) -> None:
        """Write the answer's head to the client as soon as it is there."""
        self._answer_begun = True
        client = self._client
        if self._seen is not None:
            self._seen.status, self._seen.response_fields = status, fields
            self._seen.first_byte_us = self._heard_us()
            if client.hold is not None:
                self._audited, self._left = True, length if body else 0
        chunked = self._answer_chunked = body and length is None and self._head.version == "1.1"
        # An answer before the whole request was sent leaves both connections in the middle of a message.
        self._endless = body and length is None and not chunked
        if client.leaving or not self._asked or self._endless:
            self._close_after = True
        tail = framing(None if status in _NO_LENGTH else length, chunked=chunked)
        if self._close_after:
            tail += b"connection: close\r\n"
        if b"date" not in first:
            tail += date(int(time.time()))
        text = response_bytes(status, reason, fields, tail, self._correlation)
        if self._audited:
            self._pass(text)
        else:
            client.write(text)

    def answer_data(self, data: bytes) -> None:
        """Write a piece of the answer's content at once."""
        if self._seen is not None:
            self._seen.response.add(data, self._client.capture)
        if self._answer_chunked:
            data = chunk(data)
        elif self._left is not None:
            self._left -= len(data)
        if self._audited:
            self._pass(data)
        else:
            self._client.write(data)

    def answer_end(self) -> None:
        """Finish the answer and free the connection to the model."""
        if self._answer_chunked:
            self._left = 0
            if self._audited:
                self._pass(LAST_CHUNK)
            else:
                self._client.write(LAST_CHUNK)
        upstream, self._upstream = self._upstream, None
        elapsed = 0
        if upstream is not None:
            elapsed = int((upstream.heard - self._began) * 1_000_000)
            if self._asked:
                self._pool.give_back(upstream)
            else:
                upstream.close()
        if not self._asked and self._seen is not None:
            # The answer is whole, the request in the log is not.
            self._seen.aborted = True
        hold = self._client.hold
        if hold is None or self._seen is None:
            self._finish(elapsed, close=self._close_after)
            return
        seen, self._seen = self._seen, None
        seen.latency_us = elapsed
        self._client.count(seen)
        hold.until_safe(seen, self._complete)

    def _pass(self, data: bytes) -> None:
        """Audit mode: write a piece of the answer, but keep back the one that completes it."""
        if self._left == 0:
            self._ending += data
        else:
            self._client.write(data)

    def _complete(self) -> None:
        """Audit mode: the events are safe, or the wait is over."""
        if not self.over:
            self._client.write(self._ending)
            self._finish(0, close=self._close_after)

    def answer_lost(self, problem: str, *, silent: bool) -> None:
        """The model failed: say so if nothing was said yet, else cut the connection so that the client notices.

        Args:
            problem: what happened.
            silent: the connection ended without a byte of an answer.
        """
        upstream, self._upstream = self._upstream, None
        if upstream is not None:
            upstream.close()
        if silent and self._again():
            return
        self.give_up(502, problem)

    def give_up(self, status: int, reason: str) -> None:
        """Answer in the model's place if nothing was said yet, else cut the connection so that the client notices."""
        if self.over:
            return
        if self._answer_begun:
            self._cut()
        else:
            self.refuse(status, reason)

    def upstream_pressure(self, *, full: bool) -> None:
        """The model reads slowly: let the client wait."""
        self._stuck_since = time.monotonic() if full else 0.0
        self._client.stall(STALL_MODEL, on=full)

    def client_pressure(self, *, full: bool) -> None:
        """The client reads slowly: let the model wait."""
        upstream = self._upstream
        if upstream is not None and upstream.transport is not None:
            if full:
                upstream.transport.pause_reading()
            else:
                # The model could not be heard meanwhile: its silence begins now.
                upstream.heard = time.monotonic()
                upstream.transport.resume_reading()

    def client_lost(self) -> None:
        """The client went away: end the model's work and log what there was."""
        if not self.over:
            self._cut()

    def refuse(self, status: int, reason: str) -> None:
        """Answer in the model's place."""
        if self.over:
            return
        body = orjson.dumps({"error": reason})
        if self._seen is not None:
            self._seen.status = status
            self._seen.response_fields = [(b"content-type", b"application/json")]
            self._seen.response.add(body, self._client.capture)
            self._seen.first_byte_us = self._elapsed_us()
            self._seen.aborted = not self._asked
        self._client.write(refusal(status, body, self._correlation, content=self._head.method != b"HEAD"))
        self._drop()
        self._finish(self._elapsed_us(), close=True)

    def sweep(self, now: float, settings: ProxySettings, *, client_full: bool) -> None:
        """Give up on a model that was silent for too long."""
        upstream = self._upstream
        if settings.total_s and now - self._began > settings.total_s:
            self.give_up(504, f"no whole answer within {settings.total_s:g} s")
        elif upstream is None or client_full:
            return
        elif self._answer_begun:
            heard = upstream.heard if self._asked else max(upstream.heard, self._client.heard)
            if now - heard > settings.answer_s:
                self.give_up(504, f"no more of the answer within {settings.answer_s:g} s")
        elif self._stuck_since:
            if now - self._stuck_since > settings.answer_s:
                self.refuse(504, f"the model has read nothing for {settings.answer_s:g} s")
        elif (self._asked or not self.uploading()) and now - max(self._asked, upstream.heard) > settings.first_byte_s:
            self.refuse(504, f"no answer from the model within {settings.first_byte_s:g} s")

    async def _connect(self) -> None:
        try:
            upstream = await self._pool.connect()
        except TimeoutError:
            self.refuse(503, "the model did not take the connection in time")
        except OSError as exc:
            self.refuse(503, f"the model cannot be reached: {exc.strerror or exc}")
        else:
            self._connecting = None
            if self.over:
                self._pool.give_back(upstream)
            else:
                self._send_head(upstream)

    def _send_head(self, upstream: Upstream) -> None:
        self._upstream = upstream
        upstream.serve(self, self._client.heard, head_only=self._head.method == b"HEAD")
        expect = self._expect and not self._continued
        head = request_bytes(
            self._head, self._correlation, self._length, chunked=self._chunked, expect=expect,
            forwarded=self._client.forwarded,
        )  # fmt: skip
        if self._held:
            held, self._held = self._held, []
            head = b"".join((head, *map(chunk, held))) if self._chunked else b"".join((head, *held))
        upstream.write(head + LAST_CHUNK if self._chunked and self._asked else head)
        if self._held_bytes > _HOLD:
            self._client.stall(STALL_CONNECT, on=False)
        self._held_bytes = 0
        if expect:
            asyncio.get_running_loop().call_later(self._pool.settings.continue_s, self._nudge)

    def _nudge(self) -> None:
        """Ask for the content ourselves: this model says nothing, and the client may wait for ever."""
        if not (self.over or self._continued or self._answer_begun or self.received or self._asked):
            self._continued = True
            self._client.write(CONTINUE)

    def _again(self) -> bool:
        """Send the request once more, on a new connection, when that can do no harm.

        A connection that was idle may have been closed by the model just when the request was sent. So: it had been
        used before, not a byte of an answer came, all that was sent is still here, and the call may be repeated.
        """
        seen, again = self._seen, self._repeatable and self._reused and not self._retried
        if not again or self.over or self._client.transport.is_closing():
            return False
        if seen is not None:
            if seen.request.truncated:
                return False
            self._held = list(seen.request.chunks)
        elif self.received:
            return False
        self._retried = True
        self._held_bytes = self.received
        self._stuck_since = 0.0
        self._client.retried()
        self._client.stall(STALL_MODEL, on=False)
        if self._held_bytes > _HOLD:
            self._client.stall(STALL_CONNECT, on=True)
        self._connecting = asyncio.get_running_loop().create_task(self._connect())
        return True

    def _cut(self) -> None:
        """End both sides; whoever reads sees that something is missing."""
        if self._seen is not None:
            self._seen.aborted = True
        self._drop()
        transport = self._client.transport
        if self._endless and not transport.is_closing():
            # A connection that merely closes would be the answer's end.
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._finish(self._elapsed_us(), close=True)
        self._client.abort()

    def _drop(self) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
        upstream, self._upstream = self._upstream, None
        if upstream is not None:
            upstream.close()

    def _heard_us(self) -> int:
        upstream = self._upstream
        return int((upstream.heard - self._began) * 1_000_000) if upstream is not None else 0

    def _elapsed_us(self) -> int:
        return int((time.monotonic() - self._began) * 1_000_000)

    def _finish(self, elapsed_us: int, *, close: bool) -> None:
        if self.over:
            return
        self.over = True
        if self._seen is not None:
            self._seen.latency_us = elapsed_us
            self._client.seen(self._seen)
        self._client.finished(self, close=close)


def _look_up(method: bytes, target: bytes, others: bool) -> tuple[str, bool]:  # noqa: FBT001 - for the cache
    """Give the path of a call that is logged, "" of any other, and whether it is one for predictions."""
    path = target.partition(b"?")[0].decode("latin-1")
    return (path, is_inference(method, path)) if is_logged(method, path, others=others) else ("", False)


# The same few targets come again and again.
_looked_up = lru_cache(maxsize=1024)(_look_up)
_HOLD_PATH: Final = 512


def _without_length(fields: Fields) -> Fields:
    return [item for item in fields if item[0] != b"content-length"]


_CONTINUE: Final = 100
