"""XGBoost's library without its Python package: the same numbers, and none of what the package imports."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xgboost

from inference.runtime import iris
from inference.xgboost_library import Booster, XGBoostRefused

_SERVED = """
import sys
from pathlib import Path

import numpy as np

from inference.directory import open_model
from inference.settings import Trust

runtime = open_model(Path(sys.argv[1]), Trust())
rows = np.ones((2, 4), np.float32)
served = runtime.predict({"x": rows})["output-0"]
print(*sorted({"pandas", "scipy", "sklearn", "xgboost"} & set(sys.modules)))
import xgboost
booster = xgboost.Booster(model_file=sys.argv[1] + "/model.ubj")
print(np.array_equal(booster.inplace_predict(rows), served))
print(np.array_equal(runtime.predict({"x": rows})["output-0"], served))
"""


@pytest.mark.parametrize("kind", ["gbtree", "gblinear"])
def test_a_model_is_served_without_the_package_and_beside_it(tmp_path: Path, kind: str) -> None:
    """Serving one imports nothing that only training needs; a process that imports it as well gets the same numbers."""
    rows, labels = iris()
    booster = xgboost.train({"nthread": 1, "booster": kind}, xgboost.DMatrix(rows, labels), 3)
    booster.save_model(tmp_path / "model.ubj")
    served = (
        _SERVED.replace("inplace_predict(rows)", "predict(xgboost.DMatrix(rows))") if kind == "gblinear" else _SERVED
    )

    run = subprocess.run((sys.executable, "-c", served, str(tmp_path)), capture_output=True, text=True, check=False)

    assert run.stdout.split("\n") == ["", "True", "True", ""], run.stderr


@pytest.mark.parametrize("margin", [False, True])
@pytest.mark.parametrize("kind", ["gbtree", "dart", "gblinear"])
def test_a_matrix_gets_the_librarys_own_numbers(tmp_path: Path, kind: str, margin: bool) -> None:  # noqa: FBT001 - a parameter
    """Whatever it is made of and however the table lies in memory, a booster gives what the Python package gives."""
    rows, labels = iris()
    rows[::3, 1] = np.nan if kind != "gblinear" else 0.0
    settings = {"nthread": 1, "booster": kind, "objective": "multi:softprob", "num_class": 3}
    booster = xgboost.train(settings, xgboost.DMatrix(rows, labels), 3)
    booster.save_model(tmp_path / "model.json")
    expected = booster.predict(xgboost.DMatrix(rows), output_margin=margin)
    ours = Booster(tmp_path / "model.json")

    np.testing.assert_array_equal(ours.predict(rows, margin=margin), expected)
    np.testing.assert_array_equal(ours.predict(np.asfortranarray(rows), margin=margin), expected)
    np.testing.assert_array_equal(ours.predict(rows[::2], margin=margin), expected[::2])


def test_a_booster_says_what_it_takes(tmp_path: Path) -> None:
    """Its columns, their names where its file has them, and what it is made of are the file's."""
    rows, labels = iris()
    named = xgboost.DMatrix(rows, labels, feature_names=["länge", "b", "c", "d"])
    xgboost.train({"nthread": 1}, named, 2).save_model(tmp_path / "named.ubj")
    xgboost.train({"nthread": 1, "booster": "dart"}, xgboost.DMatrix(rows, labels), 2).save_model(
        tmp_path / "bare.json"
    )
    first, second = Booster(tmp_path / "named.ubj"), Booster(tmp_path / "bare.json")

    assert (first.num_features(), first.feature_names(), first.kind()) == (4, ("länge", "b", "c", "d"), "gbtree")
    assert (second.num_features(), second.feature_names(), second.kind()) == (4, (), "dart")


def test_a_file_that_is_no_booster_is_refused_in_the_librarys_words(tmp_path: Path) -> None:
    """What the file lacks is told in one line, and a file that is not there by its name."""
    (tmp_path / "model.json").write_text('{"learner": ')

    with pytest.raises(XGBoostRefused, match=r"Expecting.*EOF"):
        Booster(tmp_path / "model.json")
    with pytest.raises(XGBoostRefused, match=r"none\.ubj"):
        Booster(tmp_path / "none.ubj")
