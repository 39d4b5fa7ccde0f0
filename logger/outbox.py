"""The proxy's side of the hand-over to the shipper: never waits, bounded in bytes and in number, everything counted.

Law, in events: captured = delivered + in flight + sum of dropped. What is dropped here is the newest, and before a
whole event is dropped its body is: that a call happened is worth more than what was in it.
"""

from __future__ import annotations

from logger.lane import CAPTURED, QUEUE_FULL, STRIPPED, Lane
from logger.record import encode
from logger.ring import RingWriter
from logger.settings import OutboxSettings
from logger.tap import Seen


class Outbox:
    """The writing side of a lane. The event loop's thread alone calls it."""

    def __init__(self, lane: Lane, settings: OutboxSettings, events_each: int) -> None:
        self._ring = RingWriter(lane.memory)
        self._lane, self._settings, self._each = lane, settings, events_each
        # Room for what is kept of a call when there is no room for its bodies.
        self._reserve = self._ring.capacity // 8

    def offer(self, seen: Seen) -> bool:
        """Hand over one exchange, or drop and count it. A client is waiting for this thread, so it never blocks."""
        tally = self._lane.tally
        tally.add(CAPTURED, self._each)
        if self._has_room():
            pieces, size = encode(seen)
            if self._ring.append(pieces, size, self._reserve):
                return True
            seen.request.drop()
            seen.response.drop()
            pieces, size = encode(seen)
            if self._ring.append(pieces, size):
                tally.add(STRIPPED, self._each)
                return True
        tally.add(QUEUE_FULL, self._each)
        return False

    def try_offer(self, seen: Seen) -> int | None:
        """Hand over one exchange whole and give where it ends; None, and nothing done, when there is no room."""
        if not self._has_room():
            return None
        pieces, size = encode(seen)
        if not self._ring.append(pieces, size, self._reserve):
            return None
        self._lane.tally.add(CAPTURED, self._each)
        return self._ring.position

    def _has_room(self) -> bool:
        return (self._ring.written() - self._ring.settled_records()) * self._each < self._settings.capacity
