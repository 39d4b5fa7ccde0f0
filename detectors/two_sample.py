"""Two-sample tests against a fixed reference: Kolmogorov-Smirnov for numbers, chi-square for categories.

The reference's part is computed once. Sources: Hodges 1958 for the KS distribution with the effective sample size (as
in SciPy's `ks_2samp`), Pearson 1900 for chi-square, Cochran 1954 for the pooling of rare categories, Williams 1976 for
the likelihood ratio, Fisher 1934 for rare categories.
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
_FOR_RARE: Final = 0.1
"""Share of a test's error that goes to categories too rare for chi-square."""
_SMALL: Final = 50
"""Samples below this size get KS's exact distribution,"""
_EXACT: Final = 10_000_000
"""unless the product of both sizes, which is what that costs, reaches this."""
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
    """Two-sample KS. With ties (whole numbers, say) it is conservative: it alarms less often than it may.

    A missing value counts as one below every number, so that a column that goes missing is a change like any other.
    """

    def __init__(self, reference: Array) -> None:
        present = np.sort(reference[np.isfinite(reference)])
        if len(present) < 2:  # noqa: PLR2004 - no distribution without two values
            raise InvalidReference("a numeric column of the reference has fewer than two finite values")
        self._reference = np.sort(_ranked(reference))
        # By place, not interpolated: the distance between two doubles need not be one.
        edges = np.unique(present[np.linspace(0, len(present) - 1, _BINS + 1).round().astype(int)])
        self._edges = edges if len(edges) > 1 else np.array([edges[0] - 0.5, edges[0] + 0.5])
        self._before, self._mean = _shares(reference, self._edges), _mean(reference)
        self._missing = float(np.isnan(reference).mean())

    def __call__(self, window: Array) -> Outcome:
        """Test the values of a window, the missing ones included."""
        values = np.sort(_ranked(window))
        both = np.concatenate([self._reference, values])
        distance = np.searchsorted(self._reference, both, side="right") / len(self._reference) - np.searchsorted(
            values, both, side="right"
        ) / len(values)
        statistic = float(np.abs(distance).max())
        evidence = {
            "edges": self._edges.tolist(),
            "before": self._before,
            "after": _shares(window, self._edges),
            "mean": [self._mean, _mean(window)],
            "missing": [self._missing, float(np.isnan(window).mean())],
        }
        return Outcome(statistic, self._p_value(statistic, values), evidence)

    def _p_value(self, statistic: float, values: Array) -> float:
        smaller, product = min(len(self._reference), len(values)), len(self._reference) * len(values)
        if smaller < _SMALL and product < _EXACT:
            # The asymptotic distribution errs by up to 1.6 times at twenty rows and an alpha of 1e-5.
            return float(stats.ks_2samp(self._reference, values, method="exact").pvalue)
        effective = product / (len(self._reference) + len(values))
        return float(stats.kstwo.sf(statistic, max(round(effective), 1)))


class ChiSquare:
    """Two-sample chi-square of the categories that the reference lets expect five times in a window.

    The rarer ones and the unseen are one more category when together they are expected five times; else they have an
    exact test of their own, and a tenth of the error. Which of both is decided by the reference alone.
    """

    def __init__(self, reference: Array, window: int) -> None:
        names, counts = np.unique(reference.astype(str), return_counts=True)
        total = counts.sum()
        if not total:
            raise InvalidReference("a categorical column of the reference has no values")
        common = counts * window / total >= _LEAST_EXPECTED
        self._names = [str(name) for name in names[common]]
        self._reference = np.append(counts[common], counts[~common].sum()).astype(float)
        self._pooled = bool(self._reference[-1] * window / total >= _LEAST_EXPECTED)

    def __call__(self, window: Array) -> Outcome:
        """Test the counts of a window."""
        names, counts = np.unique(window.astype(str), return_counts=True)
        found = dict(zip(names.tolist(), counts.tolist(), strict=True))
        observed = np.array([found.pop(name, 0) for name in self._names] + [sum(found.values())], float)
        evidence = {
            "categories": [*self._names, OTHER],
            "before": (self._reference / self._reference.sum()).round(6).tolist(),
            "after": (observed / observed.sum()).round(6).tolist(),
        }
        table = np.array([self._reference, observed])
        if self._pooled:
            return Outcome(*_homogeneity(table), evidence)
        statistic, p_value = _homogeneity(table[:, :-1])
        rare, everything = table[:, -1].sum(), table.sum()
        p_rare = float(stats.hypergeom.sf(observed[-1] - 1, everything, rare, observed.sum()))
        return Outcome(statistic, min(1.0, p_value / (1 - _FOR_RARE), p_rare / _FOR_RARE), evidence)


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


def _homogeneity(table: Array) -> tuple[float, float]:
    """Give Pearson's statistic, and its p-value or the likelihood ratio's, whichever is larger.

    Pearson's is off by ten times and more at an alpha of 1e-5 where a category is expected five times; the likelihood
    ratio's tail, with Williams' correction of 1976, holds there, but errs where many categories are that rare.
    """
    if table.shape[1] < 2 or not table.sum(axis=1).all():  # noqa: PLR2004 - one category cannot differ
        return 0.0, 1.0
    statistic, pearson, freedom, _ = stats.chi2_contingency(table, correction=False)
    ratio = stats.chi2_contingency(table, correction=False, lambda_="log-likelihood").statistic
    total = table.sum()
    rows, columns = ((total / table.sum(axis=axis)).sum() - 1 for axis in (1, 0))
    williams = 1 + rows * columns / (6 * total * freedom)
    return float(statistic), float(max(pearson, stats.chi2.sf(ratio / williams, freedom)))


def _ranked(values: Array) -> Array:
    return np.where(np.isnan(values), -np.inf, values)


def _mean(values: Array) -> float | None:
    finite = values[np.isfinite(values)]
    # Divided first, for the sum of huge values is no number.
    return float((finite / len(finite)).sum()) if len(finite) else None


def _shares(values: Array, edges: Array) -> list[float]:
    """Give the share of the present values per bin; what lies outside counts to the outer bins."""
    present = values[~np.isnan(values)]
    counts, _ = np.histogram(np.clip(present, edges[0], edges[-1]), edges)
    shares: list[float] = (counts / max(len(present), 1)).round(6).tolist()
    return shares
