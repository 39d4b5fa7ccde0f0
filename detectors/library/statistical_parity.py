"""Bias: statistical parity difference between groups of a protected attribute, with an interval.

Counts per group over a window decide, so the value is exact. An alert opens only when the whole interval lies outside
the tolerated band, at the confidence that the budget leaves. Sources: Newcombe 1998, method 10, for the interval of a
difference of proportions (from Wilson 1927); Wilks 1938 for the likelihood ratio; Feldman et al. 2015 for disparate
impact.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Final, Self

import numpy as np
from scipy import special, stats

from detectors import examples
from detectors.base import Array, Finding, Rows, Setup
from detectors.errors import InvalidMonitor
from detectors.frames import spelt
from detectors.settings import fraction, whole
from detectors.windows import Windowed

_HALVINGS: Final = 40
"""Bisections for a share: to the twelfth digit."""


class StatisticalParity(Windowed):
    """Alarm when the favourable outcome is rarer or more frequent outside the privileged group than the band allows."""

    family: ClassVar[str] = "bias"
    watches: ClassVar[str] = "outputs"

    def __init__(
        self,
        setup: Setup,
        *,
        attribute: object,
        privileged: object,
        favourable: object,
        window: int = 2_000,
        tolerance: float = 0.1,
        least: int = 50,
    ) -> None:
        super().__init__(setup, window=window)
        self._least, self._tolerance = whole("params.least", least, 1), fraction("params.tolerance", tolerance, 0.0)
        if not isinstance(attribute, str) or attribute not in setup.reference:
            known = ", ".join(setup.reference)
            raise InvalidMonitor(
                "params.attribute", f"expected a column of the monitor, one of {known}, got {attribute!r}"
            )
        self._attribute = attribute
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
        # Whose group is not known is in neither.
        outside = ~inside & (groups != "")
        counts = [(int(favoured[part].sum()), int(part.sum())) for part in (outside, inside)]
        alpha = self.setup.budget.alpha(len(rows), elapsed_us)
        (k_un, n_un), (k_pr, n_pr) = counts
        if min(n_un, n_pr) < self._least:
            message = f"too few rows to compare: {n_un} unprivileged, {n_pr} privileged; each needs {self._least}"
            return [self._finding(rows, alpha, 0.0, (-1.0, 1.0), 1.0, counts, message, alarm=False)]
        difference = k_un / n_un - k_pr / n_pr
        low, high = newcombe(counts[0], counts[1], alpha)
        p_value = beyond(counts[0], counts[1], self._tolerance)
        alarm = (low > self._tolerance or high < -self._tolerance) and p_value <= alpha
        message = (
            f"favourable outcome for {k_un / n_un:.1%} of unprivileged and {k_pr / n_pr:.1%} of privileged rows "
            f"of {self._attribute!r}: difference {difference:+.3f}, interval {low:+.3f} to {high:+.3f}"
        )
        return [self._finding(rows, alpha, difference, (low, high), p_value, counts, message, alarm=alarm)]

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
        p_value: float,
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
            "unknown": len(rows) - n_un - n_pr,
        }  # fmt: skip
        return Finding(
            key=self._attribute, alarm=alarm, message=message, statistic=difference, threshold=self._tolerance,
            p_value=p_value, rows=len(rows), first=rows.row_id(0), last=rows.row_id(len(rows) - 1), alpha=alpha,
            evidence=evidence,
        )  # fmt: skip


class _Favourable:
    """Tells which rows had the favourable outcome."""

    def __init__(self, settings: object, setup: Setup) -> None:
        known = {"output", "atLeast", "equals"}
        if not isinstance(settings, Mapping) or "output" not in settings or not set(settings) <= known:
            raise InvalidMonitor("params.favourable", f"expected 'output' and 'atLeast' or 'equals', got {settings!r}")
        if ("atLeast" in settings) == ("equals" in settings):
            raise InvalidMonitor("params.favourable", "expected exactly one of 'atLeast' and 'equals'")
        if settings["output"] not in list(setup.reference):
            known_columns = ", ".join(setup.reference)
            raise InvalidMonitor(
                "params.favourable.output",
                f"expected a column of the monitor, one of {known_columns}, got {settings['output']!r}",
            )
        self._output, self._least = settings["output"], settings.get("atLeast")
        self._check_least(setup.reference[self._output])
        self._equals = spelt(settings.get("equals"))

    def _check_least(self, reference: Array) -> None:
        least = self._least
        if least is None:
            return
        if isinstance(least, bool) or not isinstance(least, int | float):
            raise InvalidMonitor("params.favourable.atLeast", f"expected a number, got {least!r}")
        if reference.dtype.kind != "f":
            raise InvalidMonitor(
                "params.favourable.atLeast",
                f"expected a numeric column, {self._output!r} is categorical: name its favourable value with 'equals'",
            )

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


def beyond(first: tuple[int, int], second: tuple[int, int], tolerance: float) -> float:
    """Give the p-value of a difference of shares no further from 0 than `tolerance`: the likelihood ratio's, doubled.

    It stands beside the interval because Newcombe's errs by ten times at a confidence of 1 - 1e-5 where one group is
    small and shares are near 0 or 1. Doubled, for with fifty rows a group the ratio's own tail errs by up to 1.7.
    """
    difference = first[0] / first[1] - second[0] / second[1]
    if abs(difference) <= tolerance:
        return 1.0
    shift = tolerance if difference > 0 else -tolerance
    share = _constrained(first, second, shift)
    free = _log_likelihood(first, first[0] / first[1]) + _log_likelihood(second, second[0] / second[1])
    bound = _log_likelihood(first, share + shift) + _log_likelihood(second, share)
    return min(1.0, 2 * float(stats.chi2.sf(2 * (free - bound), 1)))


def _constrained(first: tuple[int, int], second: tuple[int, int], shift: float) -> float:
    """Give the likeliest second share when the first is larger by `shift`: where the likelihood stops to rise."""
    low, high = max(0.0, -shift), min(1.0, 1.0 - shift)
    for _ in range(_HALVINGS):
        share = (low + high) / 2
        if _slope(first, share + shift) + _slope(second, share) > 0:
            low = share
        else:
            high = share
    return (low + high) / 2


def _slope(counts: tuple[int, int], share: float) -> float:
    successes, trials = counts
    return float(np.divide(successes, share) - np.divide(trials - successes, 1 - share))


def _log_likelihood(counts: tuple[int, int], share: float) -> float:
    successes, trials = counts
    return float(special.xlogy(successes, share) + special.xlog1py(trials - successes, -share))


def _wilson(successes: int, trials: int, alpha: float) -> tuple[float, float, float]:
    z = float(stats.norm.isf(alpha / 2))
    share = successes / trials
    middle = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * float(np.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials)))
    return middle - half, share, middle + half
