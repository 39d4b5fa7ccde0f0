"""What only the LightGBM runtime promises: the booster's own numbers, categories and linear trees included."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pandas as pd
import pytest

from inference.directory import open_model
from inference.errors import InvalidInput
from inference.runtime import iris
from inference.settings import SETTINGS_FILE, Trust

_QUIET = {"verbosity": -1, "num_threads": 1, "min_data_in_leaf": 5, "min_data_per_group": 1, "cat_smooth": 0}


@pytest.mark.parametrize(
    ("parameters", "categorical"),
    [
        ({"objective": "regression"}, []),
        ({"objective": "binary"}, []),
        ({"objective": "regression", "linear_tree": True}, []),
        ({"objective": "regression", "boosting": "dart"}, []),
        ({"objective": "regression", "max_cat_to_onehot": 1}, [4]),
    ],
)
def test_predicts_like_the_booster(tmp_path: Path, parameters: dict[str, Any], categorical: list[int]) -> None:
    """Every kind of tree passes the check of the file and predicts what the trained booster predicts."""
    rows, labels = iris()
    rows = np.column_stack([rows, np.arange(len(rows)) % 7])
    target = (labels > 0) * 1.0 + (rows[:, 4] % 3 == 1) * (parameters["objective"] != "binary")
    data = lightgbm.Dataset(rows, target, categorical_feature=categorical, params={"verbosity": -1})
    booster = lightgbm.train(_QUIET | parameters, data, num_boost_round=4)
    booster.save_model(tmp_path / "model.txt")

    np.testing.assert_allclose(
        open_model(tmp_path, Trust()).predict({"x": rows})["output-0"], booster.predict(rows), rtol=1e-12
    )


def test_constant_model(tmp_path: Path) -> None:
    """Trees of a single leaf are models, too."""
    rows, _ = iris()
    booster = lightgbm.train(_QUIET, lightgbm.Dataset(rows, np.ones(len(rows))), num_boost_round=2)
    booster.save_model(tmp_path / "model.txt")

    np.testing.assert_allclose(
        open_model(tmp_path, Trust()).predict({"x": rows})["output-0"], booster.predict(rows), rtol=1e-12
    )


def test_names_in_the_file_are_used(tmp_path: Path) -> None:
    """A booster trained with names takes columns by name."""
    rows, labels = iris()
    data = lightgbm.Dataset(rows, labels, feature_name=["d", "c", "b", "a"])
    lightgbm.train(_QUIET, data, num_boost_round=2).save_model(tmp_path / "model.txt")
    runtime = open_model(tmp_path, Trust())
    columns = {name: rows[:, "dcba".index(name)] for name in "abcd"}

    np.testing.assert_array_equal(runtime.predict(columns)["output-0"], runtime.predict({"x": rows})["output-0"])


def _frame() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "size": np.arange(300.0),
            "colour": pd.Categorical(["red", "blue", "green"] * 100),
            "year": pd.Categorical([2019, 2021, 2020] * 100),
            "same": pd.Categorical(["only"] * 300),
        }
    )


def test_categories_of_a_frame_come_from_the_file(tmp_path: Path) -> None:
    """A booster trained on a frame takes its categories by name, numbers among them, as the library does itself."""
    frame = _frame()
    target = (frame["colour"] == "red") * 1.0 + (frame["year"] == 2021) * 2.0 + frame["size"] / 300
    booster = lightgbm.train(_QUIET, lightgbm.Dataset(frame, target, params={"verbosity": -1}), num_boost_round=4)
    booster.save_model(tmp_path / "model.txt")
    runtime = open_model(tmp_path, Trust())
    rows = frame.iloc[:7]
    columns = {str(name): rows[name].to_numpy(object if name in {"colour", "same"} else None) for name in frame}
    columns["year"] = rows["year"].astype(int).to_numpy()
    columns["same"] = np.zeros(7)

    np.testing.assert_allclose(runtime.predict(columns)["output-0"], booster.predict(rows), rtol=1e-12)
    mixed = np.array([[row.size, row.colour, row.year, 0] for row in rows.itertuples()], object)
    np.testing.assert_allclose(runtime.predict({"x": mixed})["output-0"], booster.predict(rows), rtol=1e-12)


def test_categories_from_the_settings(tmp_path: Path) -> None:
    """A booster that knows codes only takes names once the settings say them."""
    codes = np.arange(300) % 3
    data = lightgbm.Dataset(
        np.column_stack([np.arange(300.0), codes]), (codes == 1) * 1.0, categorical_feature=[1],
        feature_name=["size", "colour"], params={"verbosity": -1},
    )  # fmt: skip
    booster = lightgbm.train(_QUIET, data, num_boost_round=4)
    booster.save_model(tmp_path / "model.txt")
    by_name = {"size": np.arange(4.0), "colour": np.array(["a", "b", "c", "unknown"], object)}

    with pytest.raises(InvalidInput, match="expected numbers, got text"):
        open_model(tmp_path, Trust()).predict(by_name)
    (tmp_path / SETTINGS_FILE).write_text('{"options": {"categories": {"colour": ["a", "b", "c"]}}}')
    got = open_model(tmp_path, Trust()).predict(by_name)["output-0"]
    np.testing.assert_allclose(got, booster.predict([[0, 0], [1, 1], [2, 2], [3, np.nan]]), rtol=1e-12)
