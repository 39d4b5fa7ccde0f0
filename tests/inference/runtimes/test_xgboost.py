"""What only the XGBoost runtime promises: the booster's own numbers, names, missing values, linear boosters."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xgboost

from inference.directory import open_model
from inference.errors import InvalidInput, ModelLoadFailed
from inference.runtime import iris
from inference.settings import SETTINGS_FILE, Trust


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


def test_categories_come_by_code_or_by_name(tmp_path: Path) -> None:
    """A booster of categories predicts from codes, and from names once the settings say them."""
    frame = pd.DataFrame({"size": np.arange(90.0), "colour": pd.Categorical(["red", "blue", "green"] * 30)})
    model = xgboost.XGBClassifier(n_estimators=4, n_jobs=1, enable_categorical=True, tree_method="hist")
    model.fit(frame, frame["colour"] == "red")
    model.save_model(tmp_path / "model.ubj")
    codes = np.column_stack([frame["size"], frame["colour"].cat.codes])
    expected = model.predict_proba(frame)[:, 1]
    by_name = {"colour": frame["colour"].to_numpy(object), "size": frame["size"].to_numpy()}

    np.testing.assert_array_equal(open_model(tmp_path, Trust()).predict({"x": codes})["output-0"], expected)
    with pytest.raises(InvalidInput, match="expected numbers, got text"):
        open_model(tmp_path, Trust()).predict(by_name)
    (tmp_path / SETTINGS_FILE).write_text('{"options": {"categories": {"colour": ["blue", "green", "red"]}}}')
    np.testing.assert_array_equal(open_model(tmp_path, Trust()).predict(by_name)["output-0"], expected)
    (tmp_path / SETTINGS_FILE).write_text('{"options": {"categories": {"colour": "blue"}}}')
    with pytest.raises(ModelLoadFailed, match="categories: colour: expected a list of different texts"):
        open_model(tmp_path, Trust())


@pytest.mark.parametrize("objective", ["multi:softmax", "multi:softprob", "count:poisson", "rank:pairwise"])
def test_every_objective_gives_what_the_library_gives(tmp_path: Path, objective: str) -> None:
    """Classes, probabilities, counts and ranks come as the booster's own prediction of a matrix."""
    rows, labels = iris()
    classes = {"num_class": 3} if objective.startswith("multi") else {}
    booster = xgboost.train({"objective": objective, "nthread": 1, **classes}, xgboost.DMatrix(rows, labels), 3)
    booster.save_model(tmp_path / "model.json")

    np.testing.assert_allclose(
        open_model(tmp_path, Trust()).predict({"x": rows})["output-0"],
        booster.predict(xgboost.DMatrix(rows)),
        rtol=1e-6,
    )


@pytest.mark.parametrize(("kind", "shared"), [("gbtree", True), ("dart", True), ("gblinear", False)])
def test_large_files_are_told_apart_as_small_ones_are(tmp_path: Path, kind: str, *, shared: bool) -> None:
    """Of a file that is too large to search, the booster itself says whether threads may share it."""
    rows, labels = iris()
    names = [letter * (1 << 19) for letter in "abcd"]
    booster = xgboost.train(
        {"nthread": 1, "booster": kind}, xgboost.DMatrix(rows, labels, feature_names=names, nthread=1), 2
    )
    booster.save_model(tmp_path / "model.json")

    assert open_model(tmp_path, Trust()).thread_safe is shared
