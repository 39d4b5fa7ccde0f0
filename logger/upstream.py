"""Connections to the model: one protocol object each, and a pool of idle ones.

A connection goes back to the pool only after a whole exchange; on any doubt about framing it is closed.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Protocol

import httptools

from logger.heads import Fields
from logger.outlet import Outlet, Turn
from logger.settings import ProxySettings

_INTERIM = range(100, 200)
_NO_BODY = frozenset({204, 304})


class Listener(Protocol):
    """The exchange that a connection serves now."""

    def answer_head(self, status: int, reason: bytes, fields: Fields, length: int | None, *, body: bool) -> None:
        """Take the answer's head; `body` says whether content follows, `length` how much when the model said so."""

    def answer_data(self, data: bytes) -> None:
        """Take a piece of the answer's content."""

    def answer_end(self) -> None:
        """Take the end of a whole answer."""

    def answer_lost(self, problem: str) -> None:
        """Take the news that no whole answer will come."""

    def upstream_pressure(self, *, full: bool) -> None:
        """Stop, or go on, sending the request's content."""


class Upstream(Outlet):
    """One connection to the model."""

    def __init__(self, turn: Turn) -> None:
        super().__init__(turn)
        self.listener: Listener | None = None
        self.reusable = True
        self.heard = 0.0
        self._head_only = False
        self._fields: Fields = []
        self._parser = httptools.HttpResponseParser(self)
        self._reset()

    def serve(self, listener: Listener, *, head_only: bool) -> None:
        """Take on one exchange; `head_only` when the answer has no content whatever its head says (HEAD)."""
        self.listener, self._head_only = listener, head_only
        self.heard = time.monotonic()
        self._reset()

    def close(self) -> None:
        """End the connection at once."""
        self.reusable = False
        self.listener = None
        self.abort()

    def alive(self) -> bool:
        """Tell whether the connection can serve another exchange."""
        return self.reusable and self.transport is not None and not self.transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:  # noqa: D102 - asyncio's contract
        self.transport = transport

    def data_received(self, data: bytes) -> None:  # noqa: D102
        self.heard = time.monotonic()
        if self.listener is None:
            # Bytes that nobody asked for: whatever they are, they belong to no request of ours.
            self.close()
            return
        self._turn.begin()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._fail("the model switched protocols, which nobody asked for")
        except httptools.HttpParserError as exc:
            self._fail(f"the model's answer is no HTTP: {exc}")
        finally:
            self._turn.end()

    def eof_received(self) -> None:  # noqa: D102
        self.reusable = False

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: D102
        self.reusable = False
        listener = self.listener
        if listener is None:
            return
        self.listener = None
        # Without a length and without chunks, the end of the connection is the end of the content.
        if self._head_done and self._until_close and exc is None:
            listener.answer_end()
        else:
            listener.answer_lost("the model closed the connection before its answer was whole")

    def pause_writing(self) -> None:  # noqa: D102
        if self.listener is not None:
            self.listener.upstream_pressure(full=True)

    def resume_writing(self) -> None:  # noqa: D102
        if self.listener is not None:
            self.listener.upstream_pressure(full=False)

    def on_status(self, reason: bytes) -> None:  # noqa: D102 - httptools' contract
        self._reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:  # noqa: D102
        self._fields.append((name.lower(), value))

    def on_headers_complete(self) -> None:  # noqa: D102
        status = self._parser.get_status_code()
        if status in _INTERIM or self.listener is None:
            return
        length, chunked = None, False
        for name, value in self._fields:
            if name == b"content-length":
                length = int(value)
            elif name == b"transfer-encoding":
                chunked = True
        if chunked:
            length = None
        body = not self._head_only and status not in _NO_BODY
        self._head_done = True
        self._until_close = body and length is None and not chunked
        if self._until_close or not self._parser.should_keep_alive():
            self.reusable = False
        self.listener.answer_head(status, self._reason, self._fields, length, body=body)
        if self._head_only and length != 0:
            # The parser expects the content that HEAD leaves out; this connection cannot be read on.
            self.reusable = False
            self._finish()

    def on_body(self, data: bytes) -> None:  # noqa: D102
        if self.listener is not None and self._head_done:
            self.listener.answer_data(data)

    def on_message_complete(self) -> None:  # noqa: D102
        if self._parser.get_status_code() in _INTERIM:
            self._fields, self._reason = [], b""
        elif self._head_done:
            self._finish()

    def _finish(self) -> None:
        listener, self.listener = self.listener, None
        if listener is not None:
            listener.answer_end()

    def _fail(self, problem: str) -> None:
        listener, self.listener = self.listener, None
        self.close()
        if listener is not None:
            listener.answer_lost(problem)

    def _reset(self) -> None:
        self._fields = []
        self._reason = b""
        self._head_done = False
        self._until_close = False


class Pool:
    """Idle connections to one model."""

    def __init__(self, settings: ProxySettings, turn: Turn) -> None:
        self._settings, self._turn = settings, turn
        self._idle: deque[Upstream] = deque()

    def idle(self) -> Upstream | None:
        """Give an idle connection that still lives, the most recently used one first."""
        while self._idle:
            found = self._idle.pop()
            if found.alive():
                return found
        return None

    async def connect(self) -> Upstream:
        """Open a connection.

        Raises:
            OSError: refused or unreachable.
            TimeoutError: no answer in time.
        """
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(self._settings.connect_s):
            _, found = await loop.create_connection(
                lambda: Upstream(self._turn), self._settings.upstream_host, self._settings.upstream_port
            )
        return found

    def give_back(self, upstream: Upstream) -> None:
        """Keep a connection for the next exchange, or close it."""
        upstream.listener = None
        if upstream.alive() and len(self._idle) < self._settings.max_idle_upstream:
            self._idle.append(upstream)
        else:
            upstream.close()

    def close(self) -> None:
        """Close the idle ones."""
        while self._idle:
            self._idle.pop().close()
