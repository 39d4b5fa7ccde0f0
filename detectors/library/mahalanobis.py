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
from detectors.errors import InvalidReference
from detectors.settings import ColumnSettings, fraction
from detectors.windows import Windowed

_CONFIDENCE: Final = 0.999
_SHOWN: Final = 10
_SPLIT: Final = 5_318_008_219
"""Seed that splits the reference: none that made-up data are drawn with, or the halves would follow a column."""
_FARTHEST: Final = 1e6
"""Standard deviations beyond which a value counts as this far: squares of it, and an infinite value, stay numbers."""


class Mahalanobis(Windowed):
    """Alarm when more rows of a window are outlying than the reference explains."""

    family: ClassVar[str] = "outlier"

    def __init__(self, setup: Setup, *, window: int = 500, quantile: float = 0.999) -> None:
        super().__init__(setup, window=window)
        quantile = fraction("params.quantile", quantile, 0.5)  # below the middle nothing is outlying
        count = len(setup.reference[setup.columns[0].name])
        # The quantile must come from rows that did not shape the scale, the surprisal or the centre, or new rows would
        # look farther out than old.
        half = np.random.default_rng(_SPLIT).random(count) < 0.5  # noqa: PLR2004 - a half
        least = 10 * len(setup.columns) + 50
        if min(half.sum(), (~half).sum()) < least:
            raise InvalidReference(
                f"mahalanobis over {len(setup.columns)} columns needs about {2 * least} reference rows or more, "
                f"got {count}"
            )
        self._coders = [_Coder(column, setup.reference[column.name][half]) for column in setup.columns]
        points = np.column_stack([coder(setup.reference[coder.name]) for coder in self._coders])
        if not np.ptp(points[half], axis=0).any():
            raise InvalidReference("mahalanobis needs a column that varies; in the reference none does")
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
    """Gives a column as numbers: itself, in standard deviations from the median, or the surprisal of its categories."""

    def __init__(self, column: ColumnSettings, reference: Array) -> None:
        self.name, self._numeric = column.name, column.kind == "numeric"
        if self._numeric:
            present = reference[np.isfinite(reference)]
            if not len(present):
                raise InvalidReference(f"column {column.name!r} of the reference has no finite values")
            # In parts of the largest, for the squares of huge values are no numbers.
            self._largest = float(np.abs(present).max()) or 1.0
            self._middle = float(np.median(present / self._largest))
            self._scale = float((present / self._largest).std()) or 1.0
        else:
            names, counts = np.unique(reference.astype(str), return_counts=True)
            # One more row than seen for what was never seen: Laplace's rule.
            total = counts.sum() + 1
            self._surprisal = dict(zip(names.tolist(), np.log2(total / counts).tolist(), strict=True))
            self._unseen = float(np.log2(total))

    def __call__(self, values: Array) -> Array:
        if self._numeric:
            with np.errstate(over="ignore"):
                scaled: Array = (values / self._largest - self._middle) / self._scale
            # A missing value lies in the middle: where much is missing is for the drift detectors to say.
            return np.clip(np.nan_to_num(scaled, nan=0.0), -_FARTHEST, _FARTHEST)
        return np.array([self._surprisal.get(value, self._unseen) for value in values.astype(str).tolist()])


def _shown(value: object) -> object:
    return value.item() if isinstance(value, np.generic) else value
