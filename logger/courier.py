"""Gets letters to one Kafka topic: sends, tries again within bounds, and says of each letter what became of it."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

from logger.settings import OutboxSettings
from logger.tap import Letter
from streams.errors import Refused, Unavailable
from streams.stage import Output, Publisher

log = logging.getLogger(__name__)

_PAUSE_S = 0.2


class Fate(IntEnum):
    """What became of a letter."""

    DELIVERED = 0
    UNDELIVERED = 1
    """Not delivered in time."""
    REFUSED = 2
    """The broker will never take it."""
    SHUTDOWN = 3
    """Not delivered before the end."""
    UNREADABLE = 4
    """Its exchange could not be read back; a fault of ours."""


Settle = Callable[[Fate], None]


@dataclass(slots=True)
class _Posted:
    """One letter on its way, with when it was first tried."""

    output: Output
    settle: Settle
    since: float


class Courier:
    """The way to one topic. The shipper's thread alone calls it."""

    def __init__(self, publisher: Publisher, topic: str, settings: OutboxSettings) -> None:
        self._publisher, self._topic, self._settings = publisher, topic, settings
        self._again: deque[_Posted] = deque()
        self._next_try = 0.0
        self._unanswered: dict[int, _Posted] = {}
        self._count = 0
        self.delivery_seconds = 0.0
        """Time from the first attempt to the acknowledgement, added up over delivered events."""

    def pending(self) -> int:
        """Give the letters whose fate is open."""
        return len(self._again) + len(self._unanswered)

    def send(self, letter: Letter, settle: Settle) -> None:
        """Take a letter; `settle` is called once, from here or from `work`."""
        output = Output(self._topic, letter.key, letter.value, letter.headers)
        self._post(_Posted(output, settle, time.monotonic()))

    def work(self, timeout_s: float) -> None:
        """Run what is due: answers of the broker, further attempts."""
        self._publisher.poll(timeout_s)
        if not self._again or time.monotonic() < self._next_try:
            return
        self._next_try = time.monotonic() + _PAUSE_S
        for _ in range(len(self._again)):
            posted = self._again.popleft()
            if time.monotonic() - posted.since > self._settings.retry_s:
                posted.settle(Fate.UNDELIVERED)
            else:
                self._post(posted)

    def give_up(self) -> None:
        """Settle what is still open: this is the end."""
        for posted in (*self._again, *self._unanswered.values()):
            posted.settle(Fate.SHUTDOWN)
        self._again.clear()
        self._unanswered.clear()

    def _post(self, posted: _Posted) -> None:
        self._count += 1
        number = self._count

        def done(error: Exception | None) -> None:
            if self._unanswered.pop(number, None) is not None:
                self._answered(posted, error)

        try:
            self._publisher.send(posted.output, done)
        except Unavailable:
            self._again.append(posted)
        except Refused as exc:
            self._refused(posted, exc)
        else:
            self._unanswered[number] = posted

    def _answered(self, posted: _Posted, error: Exception | None) -> None:
        if error is None:
            self.delivery_seconds += time.monotonic() - posted.since
            posted.settle(Fate.DELIVERED)
        elif isinstance(error, Refused):
            self._refused(posted, error)
        else:
            self._again.append(posted)

    def _refused(self, posted: _Posted, error: Exception) -> None:
        log.error("the broker refuses payload events: %s", error)
        posted.settle(Fate.REFUSED)
