"""One request on its way to the model, and the answer on its way back, both as they come.

It owns the upstream connection for that time, frames both messages anew, keeps what the tap needs by reference, and
keeps back pressure honest: whoever reads slowly slows the other side down, and no memory fills.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final, Protocol

import orjson

from logger.heads import LAST_CHUNK, Fields, RequestHead, chunk, framing, request_bytes, response_bytes
from logger.hold import Hold
from logger.tap import Seen, is_inference
from logger.upstream import Pool, Upstream

_HOLD: Final = 64 * 1024
"""Bytes of a request's content that may wait for the connection to the model."""


class Client(Protocol):
    """What an exchange needs of its client's connection."""

    transport: Any
    capture: int
    hold: Hold | None

    def write(self, data: bytes) -> None:
        """Send to the client."""

    def abort(self) -> None:
        """Cut the connection."""

    def finished(self, exchange: Exchange, *, close: bool) -> None:
        """The exchange is over; `close` when the connection cannot serve another."""

    def count(self, seen: Seen) -> None:
        """Count an inference call by its status."""

    def seen(self, seen: Seen) -> None:
        """Hand what was seen of an inference call to the outbox."""


class Exchange:
    """One request and its answer."""

    def __init__(
        self, client: Client, pool: Pool, head: RequestHead, correlation: bytes, length: int | None, *, chunked: bool
    ) -> None:
        self._client, self._pool, self._head, self._correlation = client, pool, head, correlation
        self._length, self._chunked = length, chunked
        self._loop = asyncio.get_running_loop()
        self._began = time.monotonic()
        self._upstream: Upstream | None = None
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._connecting: asyncio.Task[None] | None = None
        self._request_done = False
        self._answer_chunked = False
        self._answer_begun = False
        self._close_after = head.version == "1.0" or b"close" in head.first.get(b"connection", b"").lower()
        self.over = False
        self._ending = b""
        """Audit mode: what completes the answer, and waits until the events are safe."""
        self._left: int | None = None
        path = head.target.partition(b"?")[0].decode("latin-1")
        self._seen = (
            Seen(
                correlation=correlation.decode("latin-1"), method=head.method.decode("latin-1"), path=path,
                request_fields=head.fields, started_us=time.time_ns() // 1000,
            )
            if is_inference(head.method, path) else None
        )  # fmt: skip

    def start(self) -> None:
        """Send the head, on an idle connection or on a new one."""
        upstream = self._pool.idle()
        if upstream is not None:
            self._send_head(upstream)
        else:
            self._connecting = self._loop.create_task(self._connect())

    def request_data(self, data: bytes) -> None:
        """Pass on a piece of the request's content."""
        if self._seen is not None:
            self._seen.request.add(data, self._client.capture)
        if self.over:
            return
        if self._upstream is None:
            self._held.append(data)
            self._held_bytes += len(data)
            if self._held_bytes > _HOLD:
                self._client.transport.pause_reading()
            return
        self._upstream.write(chunk(data) if self._chunked else data)

    def request_end(self) -> None:
        """Pass on the end of the request."""
        self._request_done = True
        if self._upstream is not None and self._chunked and not self.over:
            self._upstream.write(LAST_CHUNK)

    def answer_head(self, status: int, reason: bytes, fields: Fields, length: int | None, *, body: bool) -> None:
        """Write the answer's head to the client as soon as it is there."""
        self._answer_begun = True
        if self._seen is not None:
            self._seen.status, self._seen.response_fields = status, list(fields)
            self._seen.first_byte_us = self._elapsed_us()
        self._answer_chunked = body and length is None and self._head.version == "1.1"
        # An answer before the whole request was sent leaves both connections in the middle of a message.
        endless = body and length is None and not self._answer_chunked
        self._close_after = self._close_after or not self._request_done or endless
        line = framing(length, chunked=self._answer_chunked)
        self._left = length if body else 0
        self._pass(response_bytes(status, reason, fields, self._correlation, line, close=self._close_after))

    def answer_data(self, data: bytes) -> None:
        """Write a piece of the answer's content at once."""
        if self._seen is not None:
            self._seen.response.add(data, self._client.capture)
        if self._left is not None:
            self._left -= len(data)
        self._pass(chunk(data) if self._answer_chunked else data)

    def answer_end(self) -> None:
        """Finish the answer and free the connection to the model."""
        if self._answer_chunked:
            self._left = 0
            self._pass(LAST_CHUNK)
        self._release(whole=self._request_done)
        hold = self._client.hold
        if hold is None or self._seen is None:
            self._finish(close=self._close_after)
            return
        seen, self._seen = self._seen, None
        seen.latency_us = self._elapsed_us()
        self._client.count(seen)
        hold.until_safe(seen, self._complete)

    def _pass(self, data: bytes) -> None:
        """Write a piece of the answer; in audit mode the piece that completes it is kept back."""
        if self._left == 0 and self._client.hold is not None and self._seen is not None:
            self._ending += data
        else:
            self._client.write(data)

    def _complete(self) -> None:
        """Audit mode: the events are safe, or the wait is over."""
        if not self.over:
            self._client.write(self._ending)
            self._finish(close=self._close_after)

    def answer_lost(self, problem: str) -> None:
        """The model failed: say so if nothing was said yet, else cut the connection so that the client notices."""
        self._release(whole=False)
        if self._answer_begun:
            self._abort_seen()
            self._finish(close=True)
            self._client.abort()
        else:
            self.refuse(502, problem)

    def upstream_pressure(self, *, full: bool) -> None:
        """The model reads slowly: let the client wait."""
        if full:
            self._client.transport.pause_reading()
        else:
            self._client.transport.resume_reading()

    def client_pressure(self, *, full: bool) -> None:
        """The client reads slowly: let the model wait."""
        if self._upstream is not None and self._upstream.transport is not None:
            if full:
                self._upstream.transport.pause_reading()
            else:
                self._upstream.transport.resume_reading()

    def client_lost(self) -> None:
        """The client went away: end the model's work and log what there was."""
        if self.over:
            return
        if self._connecting is not None:
            self._connecting.cancel()
        self._release(whole=False)
        self._abort_seen()
        self._finish(close=True)

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
        self._client.write(refusal(status, body, self._correlation))
        self._release(whole=False)
        self._finish(close=True)

    def silent_for(self, now: float) -> float:
        """Give the seconds since the model was last heard; 0 while the request is still being sent."""
        if self._upstream is None or not self._request_done:
            return 0.0
        return now - self._upstream.heard

    async def _connect(self) -> None:
        try:
            upstream = await self._pool.connect()
        except TimeoutError:
            self.refuse(503, "the model did not take the connection in time")
        except OSError as exc:
            self.refuse(503, f"the model cannot be reached: {exc.strerror or exc}")
        else:
            if self.over:
                self._pool.give_back(upstream)
            else:
                self._send_head(upstream)

    def _send_head(self, upstream: Upstream) -> None:
        self._upstream = upstream
        upstream.serve(self, head_only=self._head.method == b"HEAD")
        head = request_bytes(self._head, self._correlation, self._length, chunked=self._chunked)
        held = [chunk(data) for data in self._held] if self._chunked else self._held
        tail = [LAST_CHUNK] if self._chunked and self._request_done else []
        upstream.write(b"".join((head, *held, *tail)))
        if self._held_bytes > _HOLD:
            self._client.transport.resume_reading()
        self._held, self._held_bytes = [], 0

    def _release(self, *, whole: bool) -> None:
        upstream, self._upstream = self._upstream, None
        if upstream is None:
            return
        if whole:
            self._pool.give_back(upstream)
        else:
            upstream.close()

    def _abort_seen(self) -> None:
        if self._seen is not None:
            self._seen.aborted = True

    def _elapsed_us(self) -> int:
        return int((time.monotonic() - self._began) * 1_000_000)

    def _finish(self, *, close: bool) -> None:
        if self.over:
            return
        self.over = True
        if self._seen is not None:
            self._seen.latency_us = self._elapsed_us()
            self._client.seen(self._seen)
        self._client.finished(self, close=close)


def refusal(status: int, body: bytes, correlation: bytes | None) -> bytes:
    """Write a whole answer of our own."""
    fields: Fields = [(b"content-type", b"application/json")]
    if status in {429, 503}:
        fields.append((b"retry-after", b"1"))
    line = framing(len(body), chunked=False)
    return response_bytes(status, _REASONS.get(status, b"Error"), fields, correlation or b"-", line, close=True) + body


_REASONS: Final = {
    400: b"Bad Request", 408: b"Request Timeout", 431: b"Request Header Fields Too Large", 501: b"Not Implemented",
    502: b"Bad Gateway", 503: b"Service Unavailable", 504: b"Gateway Timeout", 505: b"HTTP Version Not Supported",
}  # fmt: skip
