"""Puts records of several partitions into one order by time, as far as they have come. Pure.

A partition's own order is never changed. A record waits until every other partition has a later one to show, or has
been read to its end; from then on, that one holds up nobody. Used by `deploy/follow.py`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Final, Generic, TypeVar

Item = TypeVar("Item")
Place = tuple[str, int]
"""Topic and partition."""

MOST_RECORDS: Final = 1_000
MOST_BYTES: Final = 8 << 20


class Chronology(Generic[Item]):
    """The records of some partitions that wait for their turn. One thread calls it."""

    def __init__(self, places: Iterable[Place]) -> None:
        self._waiting: dict[Place, deque[tuple[int, int, Item]]] = {place: deque() for place in places}
        self._bytes = dict.fromkeys(self._waiting, 0)
        self._behind = set(self._waiting)

    def add(self, place: Place, time_ms: int, size: int, item: Item) -> None:
        """Take a record of one partition; call in the partition's order."""
        self._waiting[place].append((time_ms, size, item))
        self._bytes[place] += size

    def caught_up(self, place: Place) -> None:
        """Note that a partition has been read to its end."""
        self._behind.discard(place)

    def released(self) -> Iterator[Item]:
        """Give the records whose turn has come, and forget them."""
        while all(self._waiting[place] for place in self._behind):
            heads = ((waiting[0][0], place) for place, waiting in self._waiting.items() if waiting)
            first = min(heads, default=None)
            if first is None:
                return
            _, size, item = self._waiting[first[1]].popleft()
            self._bytes[first[1]] -= size
            yield item

    def crowded(self) -> set[Place]:
        """Give the partitions of which enough waits: more is not to be fetched now."""
        return {
            place
            for place, waiting in self._waiting.items()
            if len(waiting) >= MOST_RECORDS or self._bytes[place] >= MOST_BYTES
        }

    def finished(self) -> bool:
        """Tell whether every partition has been read to its end and nothing waits."""
        return not self._behind and not any(self._waiting.values())
