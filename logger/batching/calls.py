"""Calls of the model: a pool of connections, whole requests out, answers as they come in."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import httptools

from logger import endings
from logger.connector import Connector
from logger.heads import Fields
from logger.settings import ProxySettings

_INTERIM: Final = range(100, 200)
_BODILESS: Final = frozenset({204, 304})
_MOST_IDLE: Final = 64
HOP: Final = frozenset({
    b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade",
    b"content-length",
})  # fmt: skip
"""What belongs to one connection and is written anew for the next."""


class Unreachable(Exception):
    """The model takes no connection."""


class Lost(Exception):
    """No whole answer came; `begun` says whether some of it did."""

    def __init__(self, problem: str, *, begun: bool) -> None:
        super().__init__(problem)
        self.begun = begun


class Sink(Protocol):
    """Where an answer goes."""

    def begin(self, line: Line, status: int, reason: bytes, fields: Fields, length: int | None) -> None:
        """Take the answer's head; `length` is None where the model does not say."""
        ...

    def data(self, data: bytes) -> None:
        """Take a piece of the content."""
        ...


@dataclass(slots=True)
class Answer:
    """A `Sink` that keeps the whole answer."""

    most: int
    """Bytes of content that are kept."""
    status: int = 0
    reason: bytes = b""
    fields: Fields = field(default_factory=list)
    pieces: list[bytes] = field(default_factory=list)
    size: int = 0

    def begin(self, _line: Line, status: int, reason: bytes, fields: Fields, _length: int | None) -> None:
        """See `Sink`."""
        self.status, self.reason, self.fields = status, reason, fields

    def data(self, data: bytes) -> None:
        """See `Sink`."""
        self.size += len(data)
        if self.size <= self.most:
            self.pieces.append(data)

    @property
    def whole(self) -> bool:
        """Tell whether all of it was kept."""
        return self.size <= self.most

    @property
    def body(self) -> bytes:
        """Give the content."""
        return b"".join(self.pieces)

    def first(self, name: bytes) -> bytes:
        """Give a field's value; empty when there is none."""
        return next((value for found, value in self.fields if found == name), b"")


class Line(asyncio.Protocol):
    """One connection to the model, for one call at a time."""

    def __init__(self) -> None:
        self.transport: Any = None
        self._parser = httptools.HttpResponseParser(self)
        self._sink: Sink | None = None
        self._done: asyncio.Future[None] | None = None
        self._reusable = True
        self._begun = False
        self._until_close = False
        self._fields: Fields = []
        self._reason = b""

    def alive(self) -> bool:
        """Tell whether the connection can serve another call."""
        return self._reusable and self.transport is not None and not self.transport.is_closing()

    async def call(self, request: bytes, sink: Sink) -> None:
        """Send a request and wait for the end of its answer.

        Raises:
            Lost: it never came.
        """
        self._sink, self._begun, self._until_close = sink, False, False
        self._fields, self._reason = [], b""
        self._done = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        try:
            await self._done
        finally:
            whole = self._done.done() and not self._done.cancelled() and self._done.exception() is None
            self._done, self._sink = None, None
            if not whole:
                self.close()

    def close(self) -> None:
        """End the connection at once."""
        self._reusable = False
        if self.transport is not None:
            self.transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:  # noqa: D102 - asyncio's contract
        self.transport = transport

    def data_received(self, data: bytes) -> None:  # noqa: D102
        if self._done is None:
            # Nobody asked for it, so it can be no answer.
            self.close()
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as exc:
            self._lose(f"the model's answer is no HTTP: {exc}")

    def eof_received(self) -> None:  # noqa: D102
        self._reusable = False

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: D102
        self._reusable = False
        rest, ended = endings.of(self.transport, exc)
        if rest:
            self.data_received(rest)
        if self._until_close and ended:
            self._finish()
        else:
            self._lose(endings.problem(exc))

    def on_status(self, reason: bytes) -> None:  # noqa: D102 - httptools' contract
        self._reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:  # noqa: D102
        self._fields.append((name.lower(), value.strip(b" \t")))

    def on_headers_complete(self) -> None:  # noqa: D102
        status = self._parser.get_status_code()
        if status in _INTERIM or self._sink is None:
            return
        named = dict(self._fields)
        chunked = b"transfer-encoding" in named
        length = None if chunked or b"content-length" not in named else int(named[b"content-length"])
        if status in _BODILESS:
            length = 0
        self._begun = True
        self._until_close = length is None and not chunked
        if self._until_close or not self._parser.should_keep_alive():
            self._reusable = False
        kept = [item for item in self._fields if item[0] not in HOP]
        self._sink.begin(self, status, self._reason, kept, length)

    def on_body(self, data: bytes) -> None:  # noqa: D102
        if self._sink is not None:
            self._sink.data(data)

    def on_message_complete(self) -> None:  # noqa: D102
        if self._parser.get_status_code() in _INTERIM:
            self._fields, self._reason = [], b""
        else:
            self._finish()

    def _finish(self) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_result(None)

    def _lose(self, problem: str) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_exception(Lost(problem, begun=self._begun))


class Model:
    """The model's address, and idle connections to it."""

    def __init__(self, settings: ProxySettings) -> None:
        self._connector = Connector(settings)
        self._idle: deque[Line] = deque()

    async def call(self, request: bytes, sink: Sink) -> None:
        """Send a request; its answer goes to the sink.

        Raises:
            Unreachable: nobody takes the connection.
            Lost: no whole answer came.
        """
        line, used = await self._line(new=False)
        try:
            await self._on(line, request, sink)
        except Lost as exc:
            if not used or exc.begun:
                raise
            # The model closed an idle connection just as it was used: it has seen nothing of the call.
            line, _ = await self._line(new=True)
            await self._on(line, request, sink)

    def close(self) -> None:
        """Close the idle connections."""
        while self._idle:
            self._idle.pop().close()

    async def _on(self, line: Line, request: bytes, sink: Sink) -> None:
        await line.call(request, sink)
        if line.alive() and len(self._idle) < _MOST_IDLE:
            self._idle.append(line)
        else:
            line.close()

    async def _line(self, *, new: bool) -> tuple[Line, bool]:
        while self._idle and not new:
            found = self._idle.pop()
            if found.alive():
                return found, True
        try:
            return await self._connector.http(Line), False
        except TimeoutError as exc:
            raise Unreachable("the model did not take the connection in time") from exc
        except OSError as exc:
            raise Unreachable(f"the model cannot be reached: {exc.strerror or exc}") from exc
