"""LightGBM boosters in their text format.

Predictions are the booster's own: probabilities for classifiers, sums of leaves with `output: raw`.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from inference import lightgbm_text, openmp, options
from inference.categories import Categories
from inference.errors import ModelLoadFailed
from inference.runtime import Source, head, iris, library
from inference.tabular import TabularRuntime, chosen_output


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the file may not say."""

    categories: dict[str, Any] = field(default_factory=dict)
    """Column → names of its categories in the order of their codes; a model trained on a frame brings them."""


class LightGBM(TabularRuntime):
    """One booster, one thread per prediction."""

    suffixes: ClassVar[tuple[str, ...]] = (".bst", ".lgb", ".txt")
    platform: ClassVar[str] = "lightgbm_booster"
    options: ClassVar[type[Any]] = Options

    def __init__(self, booster: Any, source: Source) -> None:  # noqa: ANN401 - the library is imported late
        self._booster = booster
        self._raw = chosen_output(source.settings, ("predict", "raw"), source.path) == "raw"
        names = tuple(booster.feature_name())
        numbered = names == tuple(f"Column_{index}" for index in range(len(names)))
        features = () if numbered else names
        if given := options.read(Options, source).categories:
            self.categories = Categories.read(given, source.settings.features or features, source.path)
        elif own := _categories(booster, names):
            self.categories = Categories(own, names)
        super().__init__(source.settings, width=booster.num_feature(), features=features)

    @classmethod
    def claims(cls, path: Path) -> bool:
        """Read .txt and .bst by their first line, because other things are called so, too."""
        if path.suffix == ".lgb" or path.name == "model.txt":
            return True
        return path.suffix in cls.suffixes and head(path).startswith(b"tree")

    @classmethod
    def load(cls, source: Source) -> Self:
        """Read a booster."""
        lightgbm = _library()
        content = source.path.read_bytes()
        try:
            lightgbm_text.check(content)
            booster = lightgbm.Booster(model_str=content.decode())
        except (lightgbm.basic.LightGBMError, ValueError) as exc:
            raise ModelLoadFailed(f"{source.path}: no LightGBM model: {exc}") from exc
        return cls(booster, source)

    def predict_table(self, table: NDArray[Any]) -> NDArray[Any]:
        """Predict; NaN is a missing value."""
        return np.asarray(self._booster.predict(table, raw_score=self._raw, num_threads=1))

    @classmethod
    def example(cls, directory: Path) -> dict[str, NDArray[Any]]:
        """Save a classifier of three classes."""
        rows, labels = iris()
        lightgbm = _library()
        parameters = {"objective": "multiclass", "num_class": 3, "num_threads": 1, "verbosity": -1, "seed": 0}
        booster = lightgbm.train(parameters, lightgbm.Dataset(rows, labels), num_boost_round=5)
        booster.save_model(directory / "model.txt")
        return {"input-0": rows}


def _categories(booster: Any, names: tuple[str, ...]) -> dict[int, list[Any]]:  # noqa: ANN401 - imported late
    """Give the categories of the frame that a booster was trained on, by column."""
    # A column of one category is none to the booster: it does not even say that it is categorical.
    lists = [each for each in booster.pandas_categorical or () if len(each) > 1]
    if not lists:
        return {}
    described = booster.dump_model(num_iteration=1)["feature_infos"]
    columns = [at for at, name in enumerate(names) if described.get(name, {}).get("values")]
    return dict(zip(columns, lists, strict=True)) if len(columns) == len(lists) else {}


def _library() -> Any:  # noqa: ANN401 - a module has no narrower type
    if importlib.util.find_spec("lightgbm") is not None:
        openmp.provide()
    return library("lightgbm")
