"""Outliers: squared Mahalanobis distance from the reference, with shrunk covariance.

A category counts as its surprisal in the reference, -log2 of its share there, so that rare categories and rare
combinations lie far out. A row is outlying above the reference's own quantile; an alert opens when a window holds more
outlying rows than the budget's share of chance allows. Sources: Mahalanobis 1936; Ledoit and Wolf 2004 for the
shrinkage; Clopper and Pearson 1934 for the quantile's own uncertainty.
"""

from __future__ import annotations

from typing import ClassVar, Final, Self

import numpy as np
from scipy import stats
from sklearn.covariance import ledoit_wolf

from detectors import examples
from detectors.base import Array, Finding, Rows, Setup
from detectors.errors import InvalidMonitor, InvalidReference
from detectors.settings import ColumnSettings
from detectors.windows import Windowed

_CONFIDENCE: Final = 0.999
_SHOWN: Final = 10


class Mahalanobis(Windowed):
    """Alarm when more rows of a window are outlying than the reference explains."""

    family: ClassVar[str] = "outlier"

    def __init__(self, setup: Setup, *, window: int = 500, quantile: float = 0.999) -> None:
        super().__init__(setup, window=window)
        if not 0.5 <= quantile < 1:  # noqa: PLR2004 - below the middle nothing is outlying
            raise InvalidMonitor("params.quantile", f"expected 0.5 up to below 1, got {quantile}")
        coders = [_Coder(column, setup.reference[column.name]) for column in setup.columns]
        self._coders = coders
        points = np.column_stack([coder(setup.reference[coder.name]) for coder in coders])
        # The quantile must come from rows that did not shape the centre, or new rows would look farther out than old.
        half = np.random.default_rng(0).random(len(points)) < 0.5  # noqa: PLR2004 - a half
        if min(half.sum(), (~half).sum()) < 10 * len(coders) + 50:
            raise InvalidReference(
                f"mahalanobis needs more reference rows than {len(points)} for {len(coders)} columns"
            )
        self._centre = points[half].mean(axis=0)
        covariance, _ = ledoit_wolf(points[half])
        self._inverse = np.linalg.inv(covariance)
        distances = self._distances(points[~half])
        self.threshold = float(np.quantile(distances, quantile))
        beyond = int((distances > self.threshold).sum())
        self.rate = float(stats.beta.ppf(_CONFIDENCE, beyond + 1, len(distances) - beyond))

    @classmethod
    def example(cls) -> Self:
        """Build one over all features."""
        return cls(examples.setup("x", "y", "c"), window=200, quantile=0.99)

    def test(self, rows: Rows, elapsed_us: int) -> list[Finding]:
        """Count the outlying rows of a window."""
        distances = self._distances(np.column_stack([coder(rows.columns[coder.name]) for coder in self._coders]))
        outlying = np.flatnonzero(distances > self.threshold)
        p_value = float(stats.binom.sf(len(outlying) - 1, len(rows), self.rate)) if len(outlying) else 1.0
        alpha = self.setup.budget.alpha(len(rows), elapsed_us)
        worst = outlying[np.argsort(-distances[outlying], kind="stable")][:_SHOWN]
        alarm = p_value <= alpha
        return [Finding(
            key="", alarm=alarm, statistic=float(len(outlying)), threshold=self.threshold, p_value=p_value, alpha=alpha,
            rows=len(rows), first=rows.row_id(0), last=rows.row_id(len(rows) - 1),
            message=f"{len(outlying)} of {len(rows)} rows are outlying; {self.rate * len(rows):.1f} at most are usual",
            evidence={"outliers": [self._outlier(rows, int(index), distances) for index in worst], "rate": self.rate},
        )]  # fmt: skip

    def _distances(self, points: Array) -> Array:
        away = points - self._centre
        distances: Array = np.einsum("ij,jk,ik->i", away, self._inverse, away)
        return distances

    def _outlier(self, rows: Rows, index: int, distances: Array) -> dict[str, object]:
        point = np.array([coder(rows.columns[coder.name][index : index + 1])[0] for coder in self._coders])
        away = point - self._centre
        # The distance is the sum of these, so they say which columns put the row there.
        shares = away * (self._inverse @ away)
        order = np.argsort(-shares, kind="stable")[:3]
        return {
            **rows.row_id(index),
            "distance": float(distances[index]),
            "contributions": {self._coders[at].name: float(shares[at]) for at in order},
            "values": {self._coders[at].name: _shown(rows.columns[self._coders[at].name][index]) for at in order},
        }


class _Coder:
    """Gives a column as numbers: itself, scaled robustly, or the surprisal of its categories."""

    def __init__(self, column: ColumnSettings, reference: Array) -> None:
        self.name, self._numeric = column.name, column.kind == "numeric"
        if self._numeric:
            present = reference[~np.isnan(reference)]
            if not len(present):
                raise InvalidReference(f"column {column.name!r} of the reference has no values")
            self._middle = float(np.median(present))
            self._scale = float(present.std()) or 1.0
        else:
            names, counts = np.unique(reference.astype(str), return_counts=True)
            # One more row than seen for what was never seen: Laplace's rule.
            total = counts.sum() + 1
            self._surprisal = dict(zip(names.tolist(), np.log2(total / counts).tolist(), strict=True))
            self._unseen = float(np.log2(total))

    def __call__(self, values: Array) -> Array:
        if self._numeric:
            scaled: Array = (values - self._middle) / self._scale
            return np.nan_to_num(scaled, nan=0.0)
        return np.array([self._surprisal.get(value, self._unseen) for value in values.astype(str).tolist()])


def _shown(value: object) -> object:
    return value.item() if isinstance(value, np.generic) else value
