"""Looks at the first bytes of a connection, once: HTTP/2's preface, or HTTP/1.1."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

from inference.http2.framing import PREFACE
from logger.heads import Refusal


class Plain(Protocol):
    """What serves HTTP/1.1: asyncio's contract, and three things more."""

    turned_away: Refusal | None
    """Why the connection is not let in, as long as the client does not know."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection."""

    def connection_lost(self, exc: Exception | None) -> None:
        """Take its end."""

    def data_received(self, data: bytes) -> None:
        """Take bytes."""

    def pause_writing(self) -> None:
        """Write no more for now."""

    def resume_writing(self) -> None:
        """Go on writing."""

    def head_begun(self) -> None:
        """Take the news that a head has begun, of one protocol or the other."""

    def give_way(self) -> bool:
        """Leave the connection to HTTP/2, but for its end; False when it is over already."""


class Http2(Protocol):
    """What serves HTTP/2: asyncio's contract, and one thing more."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection."""

    def data_received(self, data: bytes) -> None:
        """Take bytes."""

    def turn_away(self, status: int, reason: str) -> None:
        """Serve nothing."""


Lost = Callable[[Exception | None], None]


class Doorway(asyncio.Protocol):
    """A connection until it is known what it speaks; then the transport belongs to that protocol alone.

    Args:
        plain: serves HTTP/1.1; it has the connection from the beginning, and gives way when that was wrong.
        http2: makes what serves HTTP/2, of what is to be told the connection's end.
    """

    def __init__(self, plain: Plain, http2: Callable[[Lost], Http2]) -> None:
        self._plain, self._http2 = plain, http2
        self._first = b""
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:  # noqa: D102 - asyncio's contract
        self._transport = transport
        self._plain.connection_made(transport)

    def data_received(self, data: bytes) -> None:  # noqa: D102
        first = self._first = self._first + data if self._first else data
        if not first.startswith(PREFACE):
            if PREFACE.startswith(first):
                self._plain.head_begun()
                return
            self._transport.set_protocol(self._plain)
            self._plain.data_received(first)
            return
        refusal = self._plain.turned_away
        if not self._plain.give_way():
            return
        found = self._http2(self._plain.connection_lost)
        self._transport.set_protocol(found)
        found.connection_made(self._transport)
        if refusal is not None:
            found.turn_away(refusal.status, refusal.reason)
        found.data_received(first)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: D102
        self._plain.connection_lost(exc)

    def pause_writing(self) -> None:  # noqa: D102
        self._plain.pause_writing()

    def resume_writing(self) -> None:  # noqa: D102
        self._plain.resume_writing()
