"""XGBoost boosters in their native formats.

Predictions are the booster's own, as KServe's server gives them: probabilities for logistic objectives, margins with
`output: raw`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from inference import options, xgboost_dense
from inference.categories import Categories
from inference.errors import ModelLoadFailed
from inference.runtime import Source, head, iris, library
from inference.tabular import TabularRuntime, chosen_output
from inference.xgboost_library import Booster, XGBoostRefused


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the file does not say."""

    categories: dict[str, Any] = field(default_factory=dict)
    """Column → names of its categories in the order of their codes, for callers that send names."""


class XGBoost(TabularRuntime):
    """One booster, one thread per prediction."""

    suffixes: ClassVar[tuple[str, ...]] = (".bst", ".json", ".ubj")
    platform: ClassVar[str] = "xgboost_booster"
    options: ClassVar[type[Any]] = Options

    def __init__(self, booster: Booster, source: Source) -> None:
        self._booster = booster
        self._margin = chosen_output(source.settings, ("predict", "raw"), source.path) == "raw"
        width = booster.num_features()
        # Only trees can be predicted in place, and only that is safe from several threads.
        self.thread_safe = self.computes = _in_place(booster, width)
        features = booster.feature_names()
        if given := options.read(Options, source).categories:
            self.categories = Categories.read(given, source.settings.features or features, source.path)
        super().__init__(source.settings, width=width, features=features)

    @classmethod
    def claims(cls, path: Path) -> bool:
        """Read .bst unless it is LightGBM's, and .json when it is called model or looks like a booster."""
        if path.suffix == ".bst":
            return not head(path).startswith(b"tree")
        if path.suffix == ".json":
            return path.stem == "model" or b'"learner"' in head(path)
        return path.suffix in cls.suffixes

    @classmethod
    def load(cls, source: Source) -> Self:
        """Read a booster."""
        try:
            return cls(Booster(source.path), source)
        except (XGBoostRefused, UnicodeDecodeError) as exc:
            raise ModelLoadFailed(f"{source.path}: no XGBoost model: {exc}") from exc

    def predict_table(self, table: NDArray[Any]) -> NDArray[Any]:
        """Predict; NaN is a missing value."""
        if self.thread_safe:
            return xgboost_dense.predict(self._booster, table, margin=self._margin)
        return self._booster.predict(table, margin=self._margin)

    @classmethod
    def example(cls, directory: Path) -> dict[str, NDArray[Any]]:
        """Save a classifier of three classes."""
        rows, labels = iris()
        model = library("xgboost").XGBClassifier(n_estimators=5, max_depth=3, n_jobs=1, random_state=0)
        model.fit(rows, labels)
        model.save_model(directory / "model.ubj")
        return {"input-0": rows}


def _in_place(booster: Booster, width: int) -> bool:
    """Try whether it can be predicted in place: a linear one cannot."""
    try:
        xgboost_dense.predict(booster, np.zeros((1, width), np.float32))
    except XGBoostRefused:
        return booster.kind() != "gblinear"
    return True
