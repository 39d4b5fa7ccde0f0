"""The bounded hand-over from the proxy to the courier: O(1), never waits, everything counted.

Law, exact at any time: captured = delivered + in flight + sum of dropped, in events. The event loop's thread only
offers, the courier's thread only takes and settles, and every counter has one writer, so none needs a lock.
"""

from __future__ import annotations

from collections import Counter, deque

from logger.settings import OutboxSettings
from logger.tap import Seen


class Outbox:
    """Exchanges that wait for the broker."""

    def __init__(self, settings: OutboxSettings, events_each: int) -> None:
        self._settings = settings
        self._queue: deque[Seen] = deque()
        self._each = events_each
        self._offered_bytes = 0
        self._settled_bytes = 0
        self.captured = 0
        self.taken = 0
        self.delivered = 0
        self.stripped = 0
        """Events kept without their body because too many bytes waited."""
        self._refused: Counter[str] = Counter()
        self._lost: Counter[str] = Counter()

    def offer(self, seen: Seen) -> bool:
        """Hand over one exchange, or drop and count it. A client is waiting for this thread, so it never blocks."""
        self.captured += self._each
        if self.in_flight() > self._settings.capacity:
            self._refused["queue-full"] += self._each
            return False
        if self.waiting_bytes() + seen.size > self._settings.max_bytes:
            seen.request.drop()
            seen.response.drop()
            self.stripped += self._each
        self._offered_bytes += seen.size
        self._queue.append(seen)
        return True

    def take(self, most: int) -> list[Seen]:
        """Give the oldest exchanges that wait."""
        found: list[Seen] = []
        while self._queue and len(found) < most:
            found.append(self._queue.popleft())
        self.taken += self._each * len(found)
        return found

    def deliver(self, events: int, size: int) -> None:
        """Note events that the broker has acknowledged."""
        self.delivered += events
        self._settled_bytes += size

    def lose(self, reason: str, events: int, size: int) -> None:
        """Note events that will not be delivered."""
        self._lost[reason] += events
        self._settled_bytes += size

    def in_flight(self) -> int:
        """Give the events that wait here, or for the broker's answer."""
        return self.captured - self.delivered - sum(self._refused.values()) - sum(self._lost.values())

    def depth(self) -> int:
        """Give the exchanges that wait here."""
        return len(self._queue)

    def waiting_bytes(self) -> int:
        """Give the size of everything in flight."""
        return self._offered_bytes - self._settled_bytes

    def dropped(self) -> dict[str, int]:
        """Give the dropped events by reason."""
        return dict(self._refused + self._lost)
