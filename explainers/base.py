"""What an explainer is: one instance and a way to predict in, an explanation out.

`predict` is passed in, so an explainer needs no client, and its work off the event loop is the server's affair: it runs
in a thread, with a generator of its own, and calls `predict` as a plain function.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

Array = np.ndarray[Any, Any]

Predict = Callable[[Array], Array]
"""Rows of shape (n, features) → scores of shape (n, outputs). Blocks; raises `ExplainError`, or `OutOfTime`."""


class OutOfTime(Exception):
    """The deadline passed; what was found so far is the answer, marked partial."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Background:
    """What stands for "feature unknown": rows of shape (k, features), with their weights, which add up to 1."""

    rows: Array
    weights: Array
    names: tuple[str, ...]

    def sample(self, size: int, generator: np.random.Generator) -> Background:
        """Give at most `size` of the rows, chosen without replacement, with equal weights."""
        if size >= len(self.rows):
            return self
        chosen = np.sort(generator.choice(len(self.rows), size, replace=False, p=self.weights))
        return Background(rows=self.rows[chosen], weights=np.full(size, 1 / size), names=self.names)


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """How much an explanation may cost."""

    max_rows: int
    """Rows that it may ask the predictor for."""
    expired: Callable[[], bool] = field(default=lambda: False)
    """Tells whether the deadline has passed; asked between steps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """An attribution of one prediction. Arrays are (outputs, features), or (outputs,)."""

    names: tuple[str, ...]
    values: Array
    base: Array
    prediction: Array
    errors: Array
    """Standard errors of the values; zeros when exact."""
    method: str
    """`exact` or `sampled`."""
    partial: bool
    """The budget ended before the search did."""
    rows: int
    """Rows that the predictor was asked for."""

    def as_json(self) -> dict[str, Any]:
        """Give JSON-able values."""
        return {
            "feature_names": list(self.names),
            "values": self.values.tolist(),
            "base_values": self.base.tolist(),
            "prediction": self.prediction.tolist(),
            "standard_errors": self.errors.tolist(),
            "method": self.method,
            "partial": self.partial,
            "rows": self.rows,
        }


class Explainer(ABC):
    """One method. A fresh object per request: nothing is shared between explanations."""

    name: ClassVar[str]

    @abstractmethod
    def explain(
        self, instance: Array, background: Background, predict: Predict, budget: Budget, generator: np.random.Generator
    ) -> Explanation:
        """Explain one instance of shape (features,).

        Raises:
            InvalidRequest: the instance does not fit the background.
        """


def groups_of(instance: Array, background: Background) -> Sequence[int]:
    """Give the features that can matter: those in which the instance differs from some background row."""
    return [int(at) for at in np.flatnonzero((background.rows != instance).any(axis=0))]
