"""What only the XGBoost runtime promises: the booster's own numbers, names, missing values, linear boosters."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xgboost

from inference.directory import open_model
from inference.errors import InvalidInput
from inference.runtime import iris
from inference.settings import Trust


@pytest.mark.parametrize("name", ["model.json", "model.ubj"])
def test_binary_classifiers_give_one_probability(tmp_path: Path, name: str) -> None:
    """A logistic model's prediction is the probability of the second class, one number per row."""
    rows, labels = iris()
    model = xgboost.XGBClassifier(n_estimators=4, n_jobs=1).fit(rows, labels > 0)
    model.save_model(tmp_path / name)
    predicted = open_model(tmp_path, Trust()).predict({"x": rows})["output-0"]

    np.testing.assert_array_equal(predicted, model.predict_proba(rows)[:, 1])


def test_names_in_the_file_are_used(tmp_path: Path) -> None:
    """A booster trained with names takes columns by name, in any order."""
    rows, labels = iris()
    names = ["d", "c", "b", "a"]
    booster = xgboost.train({"nthread": 1}, xgboost.DMatrix(rows, labels, feature_names=names), 4)
    booster.save_model(tmp_path / "model.ubj")
    runtime = open_model(tmp_path, Trust())
    columns = {name: rows[:, index] for index, name in enumerate(names)}

    by_name = runtime.predict(dict(sorted(columns.items())))["output-0"]

    np.testing.assert_array_equal(by_name, runtime.predict({"x": rows})["output-0"])


def test_nan_is_a_missing_value(tmp_path: Path) -> None:
    """NaN goes the way that training chose for missing values instead of being refused."""
    rows, labels = iris()
    model = xgboost.XGBRegressor(n_estimators=4, n_jobs=1).fit(rows, labels)
    model.save_model(tmp_path / "model.json")
    holes = rows.copy()
    holes[::2, 2] = np.nan

    np.testing.assert_array_equal(open_model(tmp_path, Trust()).predict({"x": holes})["output-0"], model.predict(holes))


def test_linear_boosters_take_turns(tmp_path: Path) -> None:
    """A linear booster cannot be shared by threads, says so, and predicts what it was trained to."""
    rows, labels = iris()
    model = xgboost.XGBRegressor(booster="gblinear", n_estimators=4, n_jobs=1).fit(rows, labels)
    model.save_model(tmp_path / "model.json")
    runtime = open_model(tmp_path, Trust())

    assert not runtime.thread_safe
    np.testing.assert_allclose(runtime.predict({"x": rows})["output-0"], model.predict(rows), rtol=1e-6)


def test_text_is_refused(tmp_path: Path) -> None:
    """A booster takes numbers only."""
    rows, labels = iris()
    xgboost.XGBRegressor(n_estimators=1, n_jobs=1).fit(rows, labels).save_model(tmp_path / "model.json")

    with pytest.raises(InvalidInput, match="expected numbers, got text"):
        open_model(tmp_path, Trust()).predict({"x": np.array([["a"] * 4], object)})
