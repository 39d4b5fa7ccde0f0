"""A connection's transport that sends the head of an HTTP answer together with what follows it.

uvicorn writes the two apart, uvloop makes a system call of each, and the client is woken twice: a good part of what a
small answer costs. A head that nothing follows at once, such as a stream's, goes out in the same turn of the loop.
Used by `inference/visitors.py`.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

_HEAD: Final = b"HTTP/1.1 "
_MOST: Final = 256 * 1024
"""Longer bodies are not copied to join them: the copy would cost more than the call."""


class Joined:
    """Stands before a transport. What it does not know itself, the transport does."""

    __slots__ = ("_head", "_loop", "_planned", "_transport", "sent")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._head = b""
        """What waits for a body."""
        self._planned = False
        self.sent = 0
        """Bytes that the transport was given."""

    def write(self, data: bytes) -> None:
        """Send, at the end of this turn at the latest."""
        head = self._head
        if head:
            self._head = b""
            if len(data) > _MOST:
                self._send(head)
            else:
                data = head + data
        elif data.startswith(_HEAD):
            self._head = data
            if not self._planned:
                self._planned = True
                self._loop.call_soon(self._end_turn)
            return
        self.sent += len(data)
        self._transport.write(data)

    def write_eof(self) -> None:
        """Send what waits, and the end."""
        self._flush()
        self._transport.write_eof()

    def close(self) -> None:
        """Send what waits, and close."""
        self._flush()
        self._transport.close()

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - the transport's
        return getattr(self._transport, name)

    def _end_turn(self) -> None:
        self._planned = False
        self._flush()

    def _flush(self) -> None:
        head, self._head = self._head, b""
        if head and not self._transport.is_closing():
            self._send(head)

    def _send(self, data: bytes) -> None:
        self.sent += len(data)
        self._transport.write(data)
