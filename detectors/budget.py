"""The alarm budget: how many false alarms a monitor may raise, and what that leaves for each single test.

A monitor states B false alarms per period, a time or a number of rows. The budget is split evenly over its detectors,
and by each of them over its features. A test on a window of `rows` rows that took `elapsed` time may then err with
probability alpha = share * rows / period rows (or elapsed / period time). By linearity of expectation the false alarms
of any period add up to at most B, however the tests depend on each other: that is Bonferroni, spent along the stream.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

LARGEST_ALPHA: Final = 0.01
"""No single test may err more often than this, however generous the budget: such an alarm would say nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """False alarms allowed per period; the period is `rows` rows, or `period_us` microseconds of event time."""

    false_alarms: float = 1.0
    rows: int = 0
    period_us: int = 0

    def split(self, parts: int) -> Budget:
        """Give one of so many even shares."""
        return replace(self, false_alarms=self.false_alarms / max(parts, 1))

    def alpha(self, rows: int, elapsed_us: int) -> float:
        """Give the error probability that one test on a window may have.

        Args:
            rows: rows in the window.
            elapsed_us: event time from the last window's end to this one's.
        """
        part = rows / self.rows if self.rows else max(elapsed_us, 1) / max(self.period_us, 1)
        return min(self.false_alarms * part, LARGEST_ALPHA)
