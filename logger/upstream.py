"""Connections to the model: one protocol object each, and a pool of idle ones.

A connection goes back to the pool only after a whole exchange; on any doubt about framing it is closed.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Final, Protocol

import httptools

from inference.http2.outlet import Outlet, Turn
from logger import endings
from logger.connector import Connector
from logger.heads import Fields, head_size, is_chunked, without_named
from logger.settings import ProxySettings

_LOWEST, _INTERIM_END, _HIGHEST = 100, 200, 599
_SWITCHING: Final = 101
_NO_BODY: Final = frozenset({204, 304})
_MOST_INTERIM: Final = 16
_OVERHEAD: Final = 16
"""Bytes of chunk framing for one of content; the worst honest sender, a byte a chunk, needs five."""


class Listener(Protocol):
    """The exchange that a connection serves now."""

    def answer_interim(self, status: int, reason: bytes, fields: Fields) -> None:
        """Take a 1xx answer; the real one is still to come."""

    def answer_head(
        self, status: int, reason: bytes, fields: Fields, first: dict[bytes, bytes], length: int | None, *, body: bool
    ) -> None:
        """Take the answer's head; `body` says whether content follows, `length` how much when the model said so."""

    def answer_data(self, data: bytes) -> None:
        """Take a piece of the answer's content."""

    def answer_end(self) -> None:
        """Take the end of a whole answer."""

    def answer_lost(self, problem: str, *, silent: bool) -> None:
        """Take the news that no whole answer will come; `silent` when nothing came and the connection ended."""

    def upstream_pressure(self, *, full: bool) -> None:
        """Stop, or go on, sending the request's content."""


class Upstream(Outlet):
    """One connection to the model."""

    def __init__(self, turn: Turn, settings: ProxySettings) -> None:
        super().__init__(turn)
        self.listener: Listener | None = None
        self.reusable = True
        self.heard = 0.0
        self._served = 0.0
        self._settings = settings
        self._head_only = False
        self._fields: Fields = []
        self._parser = httptools.HttpResponseParser(self)
        self._reason = b""
        self._interim = self._read = self._content = self._size = 0
        self._head_done = self._done = self._until_close = False

    def serve(self, listener: Listener, now: float, *, head_only: bool) -> None:
        """Take on one exchange; `head_only` when the answer has no content whatever its head says (HEAD)."""
        self.listener, self._head_only = listener, head_only
        self.heard = self._served = now
        self._head_done = self._done = False

    def close(self) -> None:
        """End the connection at once."""
        self.reusable = False
        self.listener = None
        self.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:  # noqa: D102 - asyncio's contract
        self.transport = transport

    def data_received(self, data: bytes) -> None:  # noqa: D102
        if self.listener is None:
            # Bytes that nobody asked for: whatever they are, they belong to no request of ours.
            self.close()
            return
        self.heard = time.monotonic()
        self._size = len(data)
        turn = self._turn
        turn.open = True
        try:
            self._parser.feed_data(data)
            # Only now: before, what is left of these bytes would be taken for the next request's answer.
            if self._done:
                self._finish()
            else:
                self._weigh()
        except httptools.HttpParserUpgrade:
            self._fail("the model switched protocols, which nobody asked for")
        except httptools.HttpParserCallbackError as exc:
            if not isinstance(exc.__context__, _Refused):
                raise
            self._fail(str(exc.__context__))
        except httptools.HttpParserError as exc:
            if self._done:
                # The answer is whole; what follows it is nobody's.
                self.reusable = False
                self._finish()
            else:
                self._fail(f"the model's answer is no HTTP: {exc}")
        finally:
            turn.end()

    def eof_received(self) -> None:  # noqa: D102
        self.reusable = False

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: D102
        self.reusable = False
        listener = self.listener
        if listener is None:
            return
        rest, ended = endings.of(self.transport, exc)
        if rest:
            self.data_received(rest)
        if self.listener is not listener:
            # What was left made the answer whole, or spoilt it.
            return
        self.listener = None
        # Without a length and without chunks, the end of the connection is the end of the content.
        if self._head_done and self._until_close and ended:
            listener.answer_end()
        else:
            silent = self.heard == self._served
            listener.answer_lost(endings.problem(exc), silent=silent)

    def pause_writing(self) -> None:  # noqa: D102
        if self.listener is not None:
            self.listener.upstream_pressure(full=True)

    def resume_writing(self) -> None:  # noqa: D102
        if self.listener is not None:
            self.listener.upstream_pressure(full=False)

    def on_message_begin(self) -> None:  # noqa: D102 - httptools' contract
        if self._done:
            # A second answer to one request.
            self.reusable = False
        self._reason = b""
        self._read = self._content = 0

    def on_status(self, reason: bytes) -> None:  # noqa: D102
        self._reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:  # noqa: D102
        self._fields.append((name.lower(), value.strip(b" \t")))

    def on_headers_complete(self) -> None:  # noqa: D102
        status = self._parser.get_status_code()
        # What comes after the head is trailers, which go nowhere.
        fields, self._fields = self._fields, []
        if self._done or self.listener is None:
            return
        settings = self._settings
        if len(fields) > settings.max_headers or (
            self._read + self._size > settings.max_head and head_size(self._reason, fields) > settings.max_head
        ):
            raise _Refused(
                f"the model's answer has a head of over {settings.max_head} bytes or {settings.max_headers} fields"
            )
        if not _INTERIM_END <= status <= _HIGHEST:
            self._take_interim(status, fields)
            return
        first = dict(fields)
        length = int(first[b"content-length"]) if b"content-length" in first else None
        chunked = False
        if b"transfer-encoding" in first:
            self._judge_coding(fields)
            chunked = True
        body = not self._head_only and status not in _NO_BODY
        self._head_done = True
        self._until_close = body and length is None and not chunked
        if self._until_close or not self._parser.should_keep_alive():
            self.reusable = False
        if b"connection" in first:
            fields = without_named(fields, first)
        self.listener.answer_head(status, self._reason, fields, first, length, body=body)
        if self._head_only and (chunked or length != 0):
            # The parser expects the content that HEAD leaves out; this connection cannot be read on.
            self.reusable = False
            self._done = True

    def on_body(self, data: bytes) -> None:  # noqa: D102
        if self.listener is not None and not self._done:
            self._content += len(data)
            self.listener.answer_data(data)

    def on_message_complete(self) -> None:  # noqa: D102
        if self._head_done:
            self._done = True

    def _take_interim(self, status: int, fields: Fields) -> None:
        self._interim += 1
        if not _LOWEST <= status < _INTERIM_END or status == _SWITCHING:
            raise _Refused(f"the model answered with status {status}, which nothing here can mean")
        if self._interim > _MOST_INTERIM:
            raise _Refused("the model gave interim answers without end")
        if self.listener is not None:
            self.listener.answer_interim(status, self._reason, without_named(fields, dict(fields)))

    def _judge_coding(self, fields: Fields) -> None:
        if self._parser.get_http_version() != "1.1" or not is_chunked(fields):
            raise _Refused("Transfer-Encoding of the model's answer: expected 'chunked' alone, in HTTP/1.1")

    def _weigh(self) -> None:
        """Bound what is read without being content: heads, chunk extensions, trailers."""
        if self._until_close and self._head_done:
            return
        self._read += self._size
        most = self._settings.max_head + _OVERHEAD * self._content
        if self._read - self._content > most or len(self._fields) > self._settings.max_headers:
            self._fail(f"the model's answer has more than {self._settings.max_head} bytes around its content")

    def _finish(self) -> None:
        listener, self.listener = self.listener, None
        self._interim = 0
        if listener is not None:
            listener.answer_end()

    def _fail(self, problem: str) -> None:
        listener, self.listener = self.listener, None
        self.close()
        if listener is not None:
            listener.answer_lost(problem, silent=False)


class Pool:
    """Idle connections to one model."""

    def __init__(self, settings: ProxySettings, turn: Turn) -> None:
        self.settings, self._turn = settings, turn
        self.connector = Connector(settings)
        self._idle: deque[Upstream] = deque()

    def idle(self, used_since: float = 0.0) -> Upstream | None:
        """Give the idle connection that was used last, if it still lives and was used since then."""
        idle = self._idle
        while idle:
            found = idle.pop()
            if found.reusable:
                if found.heard >= used_since:
                    return found
                idle.append(found)
                return None
        return None

    async def connect(self) -> Upstream:
        """Open a connection.

        Raises:
            OSError, TimeoutError: see `Connector.http`.
        """
        return await self.connector.http(lambda: Upstream(self._turn, self.settings))

    def give_back(self, upstream: Upstream) -> None:
        """Keep a connection for the next exchange, or close it."""
        upstream.listener = None
        if upstream.reusable and len(self._idle) < self.settings.max_idle_upstream:
            self._idle.append(upstream)
        else:
            upstream.close()

    def sweep(self, now: float) -> None:
        """Let go of connections that ended, or that nobody needed for long."""
        oldest = now - self.settings.idle_upstream_s
        while self._idle and not (self._idle[0].reusable and self._idle[0].heard >= oldest):
            self._idle.popleft().close()

    def close(self) -> None:
        """Close the idle ones."""
        while self._idle:
            self._idle.pop().close()


class _Refused(Exception):
    """An answer that nobody can be sure of."""
