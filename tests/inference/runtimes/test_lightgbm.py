"""What only the LightGBM runtime promises: the booster's own numbers, categories and linear trees included."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pytest

from inference.directory import open_model
from inference.runtime import iris
from inference.settings import Trust

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
