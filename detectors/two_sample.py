"""Two-sample tests against a fixed reference: Kolmogorov-Smirnov for numbers, chi-square for categories.

The reference's part is computed once. Sources: Hodges 1958 for the KS distribution with the effective sample size (as
in SciPy's `ks_2samp`), Pearson 1900 for chi-square, Cochran 1954 for the pooling of rare categories.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
from scipy import stats

from detectors.base import Array, Finding, Rows, Setup
from detectors.errors import InvalidReference
from detectors.settings import ColumnSettings

_BINS: Final = 10
_LEAST_EXPECTED: Final = 5.0
OTHER: Final = "(other)"


@dataclass(frozen=True, slots=True)
class Outcome:
    """A test's statistic and p-value, and the shares that it compared."""

    statistic: float
    p_value: float
    evidence: dict[str, Any]


class Test(Protocol):
    """One column's test."""

    def __call__(self, window: Array) -> Outcome:
        """Test a window against the reference."""
        ...


class KolmogorovSmirnov:
    """Two-sample KS. With ties (whole numbers, say) it is conservative: it alarms less often than it may."""

    def __init__(self, reference: Array) -> None:
        self._reference = np.sort(reference[~np.isnan(reference)])
        if len(self._reference) < 2:  # noqa: PLR2004 - no distribution without two values
            raise InvalidReference("a numeric column of the reference has fewer than two values")
        edges = np.unique(np.quantile(self._reference, np.linspace(0, 1, _BINS + 1)))
        self._edges = edges if len(edges) > 1 else np.array([edges[0] - 0.5, edges[0] + 0.5])
        self._before = _shares(self._reference, self._edges)

    def __call__(self, window: Array) -> Outcome:
        """Test the values that are there; missing ones are counted in the evidence."""
        present = np.sort(window[~np.isnan(window)])
        evidence = {"edges": self._edges.tolist(), "before": self._before, "missing": len(window) - len(present)}
        if not len(present):
            return Outcome(0.0, 1.0, evidence)
        both = np.concatenate([self._reference, present])
        distance = np.searchsorted(self._reference, both, side="right") / len(self._reference) - np.searchsorted(
            present, both, side="right"
        ) / len(present)
        statistic = float(np.abs(distance).max())
        effective = len(self._reference) * len(present) / (len(self._reference) + len(present))
        p_value = float(stats.kstwo.sf(statistic, max(round(effective), 1)))
        evidence |= {
            "after": _shares(present, self._edges),
            "mean": [float(self._reference.mean()), float(present.mean())],
        }
        return Outcome(statistic, p_value, evidence)


class ChiSquare:
    """Two-sample chi-square. Categories expected fewer than five times in the window, and new ones, are pooled."""

    def __init__(self, reference: Array, window: int) -> None:
        names, counts = np.unique(reference.astype(str), return_counts=True)
        total = counts.sum()
        if not total:
            raise InvalidReference("a categorical column of the reference has no values")
        common = counts * window / total >= _LEAST_EXPECTED
        self._names = [str(name) for name in names[common]]
        self._reference = np.append(counts[common], counts[~common].sum()).astype(float)

    def __call__(self, window: Array) -> Outcome:
        """Test the counts of a window."""
        names, counts = np.unique(window.astype(str), return_counts=True)
        found = dict(zip(names.tolist(), counts.tolist(), strict=True))
        observed = np.array([found.pop(name, 0) for name in self._names] + [sum(found.values())], float)
        shown = [*self._names, OTHER]
        evidence = {
            "categories": shown,
            "before": (self._reference / self._reference.sum()).round(6).tolist(),
            "after": (observed / observed.sum()).round(6).tolist(),
        }
        table = np.array([self._reference, observed])
        expected = table.sum(axis=1, keepdims=True) * table.sum(axis=0) / table.sum()
        used = _pooled(table, expected)
        if used.shape[1] < 2:  # noqa: PLR2004 - one category cannot differ
            return Outcome(0.0, 1.0, evidence)
        statistic, p_value, *_ = stats.chi2_contingency(used, correction=False)
        return Outcome(float(statistic), float(p_value), evidence)


def column_test(column: ColumnSettings, reference: Array, window: int) -> Test:
    """Give the test that suits a column."""
    if column.kind == "numeric":
        return KolmogorovSmirnov(reference)
    return ChiSquare(reference, window)


def judge(setup: Setup, tests: dict[str, Test], rows: Rows, elapsed_us: int, what: str) -> list[Finding]:
    """Test each column of a window at its share of the budget; `what` names the kind of column in the messages."""
    alpha = setup.budget.split(len(tests)).alpha(len(rows), elapsed_us)
    findings = []
    for name, test in tests.items():
        outcome = test(rows.columns[name])
        alarm = outcome.p_value <= alpha
        verdict = "differs from" if alarm else "is as in"
        findings.append(Finding(
            key=name, alarm=alarm, statistic=outcome.statistic, threshold=alpha, p_value=outcome.p_value, alpha=alpha,
            rows=len(rows), first=rows.row_id(0), last=rows.row_id(len(rows) - 1), evidence=outcome.evidence,
            message=f"{what} {name!r} {verdict} the reference over {len(rows)} rows (p = {outcome.p_value:.2g})",
        ))  # fmt: skip
    return findings


def _shares(values: Array, edges: Array) -> list[float]:
    """Give the share of values per bin; what lies outside counts to the outer bins."""
    counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
    shares: list[float] = (counts / len(values)).round(6).tolist()
    return shares


def _pooled(table: Array, expected: Array) -> Array:
    """Put columns whose expected count in the window is below five together, and drop what stays empty."""
    rare = expected[1] < _LEAST_EXPECTED
    pooled = np.column_stack([table[:, ~rare], table[:, rare].sum(axis=1)])
    if pooled[:, -1].sum() and rare.any():
        share = pooled[:, -1].sum() * pooled[1].sum() / pooled.sum()
        if share < _LEAST_EXPECTED and pooled.shape[1] > 2:  # noqa: PLR2004 - a neighbour to pool with
            smallest = int(np.argmin(pooled[:, :-1].sum(axis=0)))
            pooled[:, smallest] += pooled[:, -1]
            pooled = pooled[:, :-1]
    return pooled[:, pooled.sum(axis=0) > 0]
