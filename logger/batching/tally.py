"""What the batcher counts, in shared memory: its process counts, the one with the page shows it.

A batcher that is started again goes on counting.
"""

from __future__ import annotations

import mmap
from bisect import bisect_left
from collections.abc import Iterable
from itertools import accumulate
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from logger.counts import Counts

CALLS, JOINED, BATCHES, FALLBACKS, WAITING, ERRORS, ROWS = range(7)
_SIZES: Final = 16
_LIMITS: Final = (2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
_STATUSES: Final = 32
_MOST: Final = 600
_BYTES: Final = 2 * mmap.PAGESIZE


class BatchTally(Counts):
    """Counts. Made before the fork."""

    def __init__(self) -> None:
        super().__init__(memoryview(mmap.mmap(-1, _BYTES)))

    def sent(self, calls: int, rows: int) -> None:
        """Count a batch of so many calls and rows."""
        self.add(BATCHES)
        self.add(JOINED, calls)
        self.add(ROWS, rows)
        self.add(_SIZES + bisect_left(_LIMITS, rows))

    def refused(self, status: int) -> None:
        """Count a call that was answered in the model's place."""
        self.add(_STATUSES + min(status, _MOST - 1))

    def refusals(self) -> dict[int, int]:
        """Give the calls that were answered in the model's place, by status."""
        return self._by_status(_STATUSES, _MOST)

    def sizes(self) -> list[tuple[str, float]]:
        """Give how many batches had at most so many rows."""
        counts = accumulate(self._words[_SIZES : _SIZES + len(_LIMITS) + 1])
        return list(zip((*(f"{limit}.0" for limit in _LIMITS), "+Inf"), counts, strict=True))


class BatchCollector(Collector):
    """Shows a tally."""

    def __init__(self, tally: BatchTally) -> None:
        self._tally = tally

    def collect(self) -> Iterable[Metric]:
        """Give the families."""
        for what, name, text in (
            (CALLS, "calls", "Calls that came to the batcher."),
            (JOINED, "joined", "Of them: joined with others into a batch."),
            (FALLBACKS, "fallbacks", "Batches whose calls were then made one by one."),
            (ERRORS, "errors", "Faults of the batcher's own."),
        ):
            yield CounterMetricFamily(f"sidelight_batcher_{name}", text, value=self._tally.get(what))
        yield GaugeMetricFamily("sidelight_batcher_waiting", "Calls that wait.", value=self._tally.get(WAITING))
        rows = HistogramMetricFamily("sidelight_batcher_batch_rows", "Rows of a batch of two calls or more.")
        rows.add_metric((), self._tally.sizes(), self._tally.get(ROWS))
        yield rows
        refused = CounterMetricFamily(
            "sidelight_batcher_refused", "Calls answered in the model's place.", labels=("status",)
        )
        for status, count in sorted(self._tally.refusals().items()):
            refused.add_metric((str(status),), count)
        yield refused
