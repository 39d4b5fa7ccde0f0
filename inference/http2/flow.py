"""The content of one call in one direction, as it comes; who reads slowly slows the other side down."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

from h2.exceptions import ProtocolError

from inference.http2.link import Link


class Source(Protocol):
    """Where content comes from."""

    def taken(self, stream: int, amount: int) -> None:
        """Take the news that so much of it has gone out."""


class Flow:
    """To a stream of a connection, from a stream of another or from whoever else makes content.

    What came in is given back to its sender's window only when it has gone out: the windows bound what waits here.

    Args:
        source: where it comes from.
        stream: the stream there.
        done: called once, when all has gone out, its end included.
    """

    __slots__ = ("_done", "_pending", "_sink", "_source", "_stream", "_to", "_trailers", "ended", "over", "stuck")

    def __init__(self, source: Source, stream: int, done: Callable[[], None] | None = None) -> None:
        self._source, self._stream, self._done = source, stream, done
        self._sink: Link | None = None
        self._to = 0
        self._pending: deque[tuple[bytes | memoryview, int]] = deque()
        """Pieces, each with what it took of its sender's window."""
        self._trailers: bytes | None = None
        self.ended = False
        """Its end has come in."""
        self.over = False
        """Its end has gone out, or never will."""
        self.stuck = 0.0
        """Since when its receiver takes nothing of what waits; 0 while it does."""

    def into(self, sink: Link, stream: int) -> None:
        """Say where it goes, and let go what has come already."""
        self._sink, self._to = sink, stream
        if self._pending or self.ended:
            self.pump()

    def add(self, data: bytes, credit: int, *, end: bool) -> None:
        """Take a piece, and with it perhaps the end."""
        if self.over or not (data or end):
            self._source.taken(self._stream, credit)
            return
        self.ended = end
        self._pending.append((data, credit))
        self.pump()

    def end(self, trailers: bytes | None) -> None:
        """Take the end; trailers are written fields."""
        if not self.ended and not self.over:
            self.ended, self._trailers = True, trailers
            self.pump()

    def stop(self) -> None:
        """Let go of everything; the sender's window is given back, for its other streams share it."""
        self.over = True
        if self._sink is not None:
            self._sink.forget(self._to)
        if self._pending:
            self._source.taken(self._stream, sum(credit for _, credit in self._pending))
            self._pending.clear()

    def pump(self) -> None:
        """Send what there is room for."""
        sink = self._sink
        if sink is None or self.over or sink.closed:
            return
        try:
            if self._send(sink):
                self.over = True
                if self._done is not None:
                    self._done()
        except ProtocolError:
            # The stream was reset in this read, which was not yet told: nothing can be sent any more.
            self.stop()

    def _send(self, sink: Link) -> bool:
        """Send; tell whether that was all."""
        pending = self._pending
        while pending:
            data, credit = pending[0]
            room = sink.room(self._to) if data or sink.paused else 1
            if room <= 0:
                self.stuck = self.stuck or time.monotonic()
                sink.wait_for_room(self._to, self)
                return False
            self.stuck = 0.0
            if len(data) <= room:
                pending.popleft()
                last = self.ended and not pending and self._trailers is None
                sink.content(self._to, data, end=last)
                self._source.taken(self._stream, credit)
                if last:
                    return True
            else:
                view = memoryview(data)
                pending[0] = (view[room:], credit - room)
                sink.content(self._to, view[:room], end=False)
                self._source.taken(self._stream, room)
        if not self.ended:
            return False
        if self._trailers is None:
            sink.content(self._to, b"", end=True)
        else:
            sink.head(self._to, self._trailers, end=True)
        return True
