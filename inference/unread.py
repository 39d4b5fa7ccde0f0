"""How long a client may leave an answer unread, and which go when all together leave too much. Used by `visitors.py`.

uvicorn hands an answer to the transport whole, and waits for ever for a client that does not read it: until then the
answer takes memory, the connection a place. Over HTTP/2, `inference/http2/guest.py` has such a limit. Time comes in.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, Protocol, TypeVar

_SPARED_S: Final = 5.0
"""A client that reads as fast as its network allows has a long answer waiting, too, but not for long."""


class Unread:
    """What one client has not read. Looked at again and again."""

    __slots__ = ("left", "since", "through")

    def __init__(self) -> None:
        self.left = 0
        """Bytes, at the last look."""
        self.since = 0.0
        """When those were first seen that have waited longest."""
        self.through = 0
        """Up to which byte of all that was ever sent those are."""

    def look(self, now: float, left: int, sent: int) -> float:
        """Give how long the oldest bytes have been seen waiting; of all that were `sent`, so many are `left`."""
        if not left or not self.left or sent - left >= self.through:
            self.since, self.through = now, sent
        self.left = left
        return now - self.since


class Reader(Protocol):
    """One who is answered."""

    unread: Unread


T = TypeVar("T", bound=Reader)


def too_many(readers: Iterable[T], now: float, most: int) -> Iterator[T]:
    """Give those that have to go for the others to leave no more than so many bytes; who waits longest first."""
    waiting = sorted((each for each in readers if each.unread.left), key=lambda each: each.unread.since)
    left = sum(each.unread.left for each in waiting)
    for each in waiting:
        if left <= most or now - each.unread.since < _SPARED_S:
            return
        left -= each.unread.left
        yield each
