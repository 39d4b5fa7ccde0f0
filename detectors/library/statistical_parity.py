"""Bias: statistical parity difference between groups of a protected attribute, with an interval.

Counts per group over a window decide, so the value is exact. An alert opens only when the whole interval lies outside
the tolerated band, at the confidence that the budget leaves. Sources: Newcombe 1998, method 10, for the interval of a
difference of proportions (from Wilson 1927); Feldman et al. 2015 for disparate impact.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
from scipy import stats

from detectors import examples
from detectors.base import Array, Finding, Rows, Setup
from detectors.errors import InvalidMonitor
from detectors.frames import spelt
from detectors.windows import Windowed


class StatisticalParity(Windowed):
    """Alarm when the favourable outcome is rarer or more frequent outside the privileged group than the band allows."""

    family: ClassVar[str] = "bias"
    watches: ClassVar[str] = "outputs"

    def __init__(
        self,
        setup: Setup,
        *,
        attribute: str,
        privileged: Sequence[object],
        favourable: Mapping[str, Any],
        window: int = 2_000,
        tolerance: float = 0.1,
        least: int = 50,
    ) -> None:
        super().__init__(setup, window=window)
        self._attribute, self._least, self._tolerance = attribute, least, tolerance
        if attribute not in setup.reference:
            known = ", ".join(setup.reference)
            raise InvalidMonitor(
                "params.attribute", f"expected a column of the monitor, one of {known}, got {attribute!r}"
            )
        if not isinstance(privileged, list | tuple) or not privileged:
            raise InvalidMonitor("params.privileged", f"expected a list of values of {attribute!r}, got {privileged!r}")
        self._privileged = tuple(spelt(value) for value in privileged)
        self._favourable = _Favourable(favourable, setup)

    @classmethod
    def example(cls) -> Self:
        """Build one that compares the groups of `c`."""
        return cls(
            examples.setup("score"),
            attribute="c", privileged=["a"], favourable={"output": "score", "atLeast": 0.5}, window=500,
        )  # fmt: skip

    def test(self, rows: Rows, elapsed_us: int) -> list[Finding]:
        """Compare the two groups of a window."""
        groups = np.array([spelt(value) for value in rows.columns[self._attribute].tolist()])
        inside = np.isin(groups, self._privileged)
        favoured = self._favourable(rows)
        counts = [(int(favoured[part].sum()), int(part.sum())) for part in (~inside, inside)]
        alpha = self.setup.budget.alpha(len(rows), elapsed_us)
        (k_un, n_un), (k_pr, n_pr) = counts
        if min(n_un, n_pr) < self._least:
            message = f"too few rows to compare: {n_un} unprivileged, {n_pr} privileged; each needs {self._least}"
            return [self._finding(rows, alpha, 0.0, (-1.0, 1.0), counts, message, alarm=False)]
        difference = k_un / n_un - k_pr / n_pr
        low, high = newcombe(counts[0], counts[1], alpha)
        alarm = low > self._tolerance or high < -self._tolerance
        message = (
            f"favourable outcome for {k_un / n_un:.1%} of unprivileged and {k_pr / n_pr:.1%} of privileged rows "
            f"of {self._attribute!r}: difference {difference:+.3f}, interval {low:+.3f} to {high:+.3f}"
        )
        return [self._finding(rows, alpha, difference, (low, high), counts, message, alarm=alarm)]

    def check(self, rows: Rows) -> None:
        """Refuse rows without the attribute, too."""
        super().check(rows)
        if self._attribute not in rows.columns:
            raise InvalidMonitor("params.attribute", f"rows have no column {self._attribute!r}")

    def _finding(
        self,
        rows: Rows,
        alpha: float,
        difference: float,
        interval: tuple[float, float],
        counts: Sequence[tuple[int, int]],
        message: str,
        *,
        alarm: bool,
    ) -> Finding:
        (k_un, n_un), (k_pr, n_pr) = counts
        ratio = (k_un / n_un) / (k_pr / n_pr) if n_un and k_pr else None
        evidence = {
            "attribute": self._attribute, "interval": list(interval), "confidence": 1 - alpha,
            "disparate_impact": ratio,
            "unprivileged": {"favourable": k_un, "rows": n_un}, "privileged": {"favourable": k_pr, "rows": n_pr},
        }  # fmt: skip
        return Finding(
            key=self._attribute, alarm=alarm, message=message, statistic=difference, threshold=self._tolerance,
            rows=len(rows), first=rows.row_id(0), last=rows.row_id(len(rows) - 1), alpha=alpha, evidence=evidence,
        )  # fmt: skip


class _Favourable:
    """Tells which rows had the favourable outcome."""

    def __init__(self, settings: Mapping[str, Any], setup: Setup) -> None:
        known = {"output", "atLeast", "equals"}
        if "output" not in settings or not set(settings) <= known:
            raise InvalidMonitor("params.favourable", f"expected 'output' and 'atLeast' or 'equals', got {settings!r}")
        if ("atLeast" in settings) == ("equals" in settings):
            raise InvalidMonitor("params.favourable", "expected exactly one of 'atLeast' and 'equals'")
        if settings["output"] not in setup.reference:
            raise InvalidMonitor("params.favourable.output", f"the monitor has no column {settings['output']!r}")
        self._output, self._least = settings["output"], settings.get("atLeast")
        self._equals = spelt(settings.get("equals"))

    def __call__(self, rows: Rows) -> Array:
        values = rows.columns[self._output]
        if self._least is not None:
            favoured: Array = values >= self._least
            return favoured
        return np.array([spelt(value) == self._equals for value in values.tolist()])


def newcombe(first: tuple[int, int], second: tuple[int, int], alpha: float) -> tuple[float, float]:
    """Give the interval of p1 - p2 at confidence 1 - alpha, from (successes, trials) of each."""
    (low1, p1, high1), (low2, p2, high2) = (_wilson(*counts, alpha) for counts in (first, second))
    difference = p1 - p2
    below = float(np.hypot(p1 - low1, high2 - p2))
    above = float(np.hypot(high1 - p1, p2 - low2))
    return difference - below, difference + above


def _wilson(successes: int, trials: int, alpha: float) -> tuple[float, float, float]:
    z = float(stats.norm.isf(alpha / 2))
    share = successes / trials
    middle = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * float(np.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials)))
    return middle - half, share, middle + half
