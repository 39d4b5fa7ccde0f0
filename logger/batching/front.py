"""The batcher's own door: takes whole calls from the proxies, which have judged their form, and writes answers back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

import httptools
import orjson

from logger.batching.calls import HOP, Line
from logger.heads import Fields

_REASONS: Final = {
    400: b"Bad Request", 413: b"Content Too Large", 502: b"Bad Gateway", 503: b"Service Unavailable",
    504: b"Gateway Timeout",
}  # fmt: skip
LENGTH: Final = b"inference-header-content-length"


@dataclass(slots=True, eq=False)
class Call:
    """One call, and where its answer goes."""

    method: bytes
    target: bytes
    fields: Fields
    """Without those that belong to the connection."""
    body: bytes
    door: Door | None
    """None when the client has gone, or the answer is complete."""

    def first(self, name: bytes) -> bytes:
        """Give a field's value; empty when there is none."""
        return next((value for found, value in self.fields if found == name), b"")

    def request(self) -> bytes:
        """Write the call as it came."""
        return written(self.method, self.target, self.fields, self.body)

    def begin(self, line: Line, status: int, reason: bytes, fields: Fields, length: int | None) -> None:
        """Pass on the head of the model's answer; see `logger.batching.calls.Sink`."""
        if self.door is not None:
            self.door.begin(line, status, reason, fields, length)

    def data(self, data: bytes) -> None:
        """Pass on a piece of the model's answer."""
        if self.door is not None:
            self.door.data(data)

    def end(self) -> None:
        """The answer is complete."""
        door, self.door = self.door, None
        if door is not None:
            door.end()

    def answer(self, status: int, reason: bytes, fields: Fields, body: bytes) -> None:
        """Give a whole answer."""
        door, self.door = self.door, None
        if door is not None:
            door.begin(None, status, reason, fields, len(body))
            door.data(body)
            door.end()

    def refuse(self, status: int, reason: str) -> None:
        """Answer in the model's place; when some of its answer has gone out, cut the connection instead."""
        if self.door is not None and self.door.begun:
            door, self.door = self.door, None
            door.cut()
            return
        body = orjson.dumps({"error": reason})
        self.answer(status, _REASONS.get(status, b"Error"), [(b"content-type", b"application/json")], body)


def written(method: bytes, target: bytes, fields: Fields, body: bytes) -> bytes:
    """Write a whole request."""
    lines = [b"%b %b HTTP/1.1\r\n" % (method, target)]
    lines += [b"%b: %b\r\n" % item for item in fields]
    lines.append(b"content-length: %d\r\n\r\n" % len(body))
    lines.append(body)
    return b"".join(lines)


class Receiver(Protocol):
    """Who takes calls."""

    def take(self, call: Call) -> None:
        """Take a whole call."""
        ...

    def gone(self, call: Call) -> None:
        """The client of a call that has no whole answer has gone."""
        ...


class Door(asyncio.Protocol):
    """One connection of a proxy: one call at a time."""

    def __init__(self, receiver: Receiver, most: int, closed: Callable[[Door], None]) -> None:
        self._receiver, self._most, self._closed = receiver, most, closed
        self._parser = httptools.HttpRequestParser(self)
        self.transport: Any = None
        self.begun = False
        self.call: Call | None = None
        self._line: Line | None = None
        self._chunked = False
        self._closing = False
        self._reset()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:  # noqa: D102 - asyncio's contract
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: D102, ARG002
        self._closing = True
        self._closed(self)
        call, self.call = self.call, None
        if call is not None and call.door is not None:
            call.door = None
            self._receiver.gone(call)

    def data_received(self, data: bytes) -> None:  # noqa: D102
        if self._closing:
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._reject(400, "no HTTP/1.1 request")

    def pause_writing(self) -> None:  # noqa: D102
        if self._line is not None:
            self._line.transport.pause_reading()

    def resume_writing(self) -> None:  # noqa: D102
        if self._line is not None:
            self._line.transport.resume_reading()

    def on_message_begin(self) -> None:  # noqa: D102 - httptools' contract
        if self.call is not None:
            # A proxy asks one thing at a time; whoever this is, is none.
            self.cut()

    def on_url(self, target: bytes) -> None:  # noqa: D102
        self._target += target

    def on_header(self, name: bytes, value: bytes) -> None:  # noqa: D102
        name = name.lower()
        if name not in HOP:
            self._fields.append((name, value.strip(b" \t")))

    def on_body(self, data: bytes) -> None:  # noqa: D102
        self._size += len(data)
        if self._size <= self._most:
            self._pieces.append(data)

    def on_message_complete(self) -> None:  # noqa: D102
        if self._closing:
            return
        if self._size > self._most:
            self._reject(413, f"expected a body of at most {self._most} bytes, got {self._size}")
            return
        self.call = Call(self._parser.get_method(), self._target, self._fields, b"".join(self._pieces), self)
        self._keep = self._parser.should_keep_alive()
        self._reset()
        self._receiver.take(self.call)

    def begin(self, line: Line | None, status: int, reason: bytes, fields: Fields, length: int | None) -> None:
        """Write the head of an answer; what comes from a line is slowed down when the proxy reads slowly."""
        self.begun, self._line, self._chunked = True, line, length is None
        framing = b"transfer-encoding: chunked\r\n" if length is None else b"content-length: %d\r\n" % length
        lines = [b"HTTP/1.1 %d %b\r\n" % (status, reason), *(b"%b: %b\r\n" % item for item in fields)]
        self._out = b"".join((*lines, framing, b"\r\n"))

    def data(self, data: bytes) -> None:
        """Write a piece of an answer."""
        if self._chunked and not data:
            return
        out, self._out = self._out, b""
        self.transport.write(out + (b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data))

    def end(self) -> None:
        """The answer is complete: the next call may come."""
        tail = self._out + (b"0\r\n\r\n" if self._chunked else b"")
        self._out = b""
        if tail:
            self.transport.write(tail)
        self.call, self._line, self.begun = None, None, False
        if not self._keep:
            self.transport.close()

    def cut(self) -> None:
        """End the connection at once, so that the client notices."""
        self._closing = True
        self.transport.abort()

    def close_when_idle(self) -> None:
        """Close now, or after the answer that is under way."""
        self._keep = False
        if self.call is None:
            self.transport.close()

    def _reject(self, status: int, reason: str) -> None:
        self._closing, self._keep = True, False
        self.call = Call(b"", b"", [], b"", self)
        self.call.refuse(status, reason)

    def _reset(self) -> None:
        self._target = b""
        self._fields: Fields = []
        self._pieces: list[bytes] = []
        self._size = 0
        self._out = b""
        self._keep = True
