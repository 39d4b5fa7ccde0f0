"""What one proxy process and the shipper share: a ring of exchanges, and the proxy's counts. Inherited by fork."""

from __future__ import annotations

import mmap
from typing import Final

from logger.counts import Counts
from logger.ring import PAGE, Ring

CAPTURED, STRIPPED, QUEUE_FULL, CONNECTIONS, HELD, LATE, RETRIED = range(7)
_ANSWERS: Final = 16
_STATUSES: Final = 600
_TALLY_BYTES: Final = 4 * PAGE


class Tally(Counts):
    """What a proxy counts."""

    def answered(self, status: int) -> None:
        """Count an inference call by the status of its answer; 0 is none."""
        self._words[_ANSWERS + min(status, _STATUSES - 1)] += 1

    def refused(self, status: int) -> None:
        """Count a request that the proxy answered because of its form."""
        self._words[_ANSWERS + _STATUSES + status] += 1

    def answers(self) -> dict[int, int]:
        """Give inference calls by status."""
        return self._by_status(_ANSWERS, _STATUSES)

    def refusals(self) -> dict[int, int]:
        """Give refused requests by status."""
        return self._by_status(_ANSWERS + _STATUSES, _STATUSES)


class Lane:
    """The shared memory of one proxy process.

    Args:
        capacity: bytes for exchanges that wait, a multiple of 16.
    """

    def __init__(self, capacity: int) -> None:
        self._map = mmap.mmap(-1, _TALLY_BYTES + PAGE + capacity)
        view = memoryview(self._map)
        self.tally = Tally(view[:_TALLY_BYTES])
        self.memory = view[_TALLY_BYTES:]
        """For a `RingWriter` or a `RingReader`."""
        self.ring = Ring(self.memory)
