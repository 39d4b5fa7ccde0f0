"""Gets letters to one sink: sends, tries again within bounds, and says of each letter what became of it.

What waits, waits in memory. What carries the letters is a `Publisher`: to Kafka, by HTTP, into a file.
"""

from __future__ import annotations

import itertools
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

from logger.tap import Letter
from logger.way import Fate, Origin, Settle, Spooled
from streams.errors import Refused, Unavailable
from streams.stage import Output, Publisher

log = logging.getLogger(__name__)

_PAUSE_S: Final = 0.2
_MOST_PENDING: Final = 4_096
"""Letters in the carrier. The ring holds the others: there each exchange exists once, and survives this process."""
_SAY_EVERY_S: Final = 10.0


class _Posted(NamedTuple):
    """One letter on its way, with when it was first tried."""

    output: Output
    settle: Settle
    since: float
    size: int


class Courier:
    """The way to one topic. The shipper's thread alone calls it.

    Args:
        retry_s: how long a letter is tried again; infinite for what is safe elsewhere meanwhile.
        most_bytes: content of letters that may be here; the last one may exceed it.
    """

    def __init__(
        self, name: str, publisher: Publisher, topic: str, retry_s: float, most_bytes: int = 8 << 20,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self.name = name
        self._publisher, self._topic, self._retry_s, self._most_bytes = publisher, topic, retry_s, most_bytes
        self._clock = clock
        self._bytes = 0
        self._again: deque[_Posted] = deque()
        self._next_try = 0.0
        self._said = -math.inf
        self._unanswered: dict[int, _Posted] = {}
        self._count = 0
        self._delivered = 0
        self._delivery_seconds = 0.0

    @property
    def spooled(self) -> Spooled:
        """See `Way`: nothing ever is."""
        return Spooled()

    def room(self) -> bool:
        """See `Way`."""
        return self._bytes < self._most_bytes and len(self._again) + len(self._unanswered) < _MOST_PENDING

    def resting(self) -> bool:
        """See `Way`."""
        return not self._again and not self._unanswered

    def shed(self, most: int) -> None:
        """See `Way`."""
        for _ in range(min(most, len(self._again))):
            self._settle(self._again.popleft(), Fate.SINK_FULL)
            most -= 1
        for number in list(itertools.islice(self._unanswered, most)):
            self._settle(self._unanswered.pop(number), Fate.SINK_FULL)

    def take(self, _origin: Origin, letters: Sequence[Letter], settle: Settle) -> None:
        """See `Way`."""
        for letter in letters:
            self.send(letter, settle)

    def send(self, letter: Letter, settle: Settle) -> None:
        """Take one letter; `settle` is called once, from here or from `work`."""
        if not letter.headers:  # `logger.compat.NOTHING`: there is nothing to deliver
            settle(Fate.UNWANTED)
            return
        output = Output(self._topic, letter.key, letter.value, letter.headers)
        size = len(letter.value)
        self._bytes += size
        self._post(_Posted(output, settle, self._clock(), size))

    def work(self, timeout_s: float) -> None:
        """Run what is due: answers of the broker, further attempts."""
        self._publisher.poll(timeout_s)
        if not self._again or self._clock() < self._next_try:
            return
        now = self._clock()
        self._next_try = now + _PAUSE_S
        for _ in range(len(self._again)):
            posted = self._again.popleft()
            if now - posted.since > self._retry_s:
                self._settle(posted, Fate.UNDELIVERED)
            else:
                self._post(posted)

    def gauges(self) -> Mapping[str, float]:
        """See `Way`."""
        return {"delivery_seconds": self._delivery_seconds, "delivery_count": self._delivered}

    def close(self) -> None:
        """See `Way`."""
        for posted in (*self._again, *self._unanswered.values()):
            self._settle(posted, Fate.SHUTDOWN)
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
            self._delivered += 1
            self._delivery_seconds += self._clock() - posted.since
            self._settle(posted, Fate.DELIVERED)
        elif isinstance(error, Refused):
            self._refused(posted, error)
        else:
            self._again.append(posted)

    def _refused(self, posted: _Posted, error: Exception) -> None:
        if self._clock() - self._said >= _SAY_EVERY_S:
            self._said = self._clock()
            log.error("%s refuses payload events: %s", self.name, error)
        self._settle(posted, Fate.REFUSED)

    def _settle(self, posted: _Posted, fate: Fate) -> None:
        self._bytes -= posted.size
        posted.settle(fate)
