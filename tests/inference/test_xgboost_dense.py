"""The direct way to XGBoost's C interface: the same numbers as the library's own, and its own words for a refusal."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import xgboost
from numpy.typing import NDArray

from inference.runtime import iris
from inference.xgboost_dense import predict
from inference.xgboost_library import XGBoostRefused


def _booster(objective: str, labels: NDArray[Any], **more: object) -> Any:  # noqa: ANN401 - the library has no types
    rows, _ = iris()
    return xgboost.train({"objective": objective, "nthread": 1, **more}, xgboost.DMatrix(rows, labels), 4)


@pytest.mark.parametrize("margin", [False, True])
@pytest.mark.parametrize("objective", ["reg:squarederror", "binary:logistic", "multi:softprob", "multi:softmax"])
def test_the_numbers_are_the_librarys_own(objective: str, margin: bool) -> None:  # noqa: FBT001 - a parameter
    """Values and margins equal those of the Python interface in every bit and in shape, whatever the objective."""
    rows, labels = iris()
    classes = {"num_class": 3} if objective.startswith("multi") else {}
    booster = _booster(objective, labels > 0 if objective == "binary:logistic" else labels, **classes)
    rows[::3, 1] = np.nan

    for table in (rows, rows.astype(np.float32), np.asfortranarray(rows), rows[::2], rows[:1]):
        expected = booster.inplace_predict(table, predict_type="margin" if margin else "value", validate_features=False)
        np.testing.assert_array_equal(predict(booster, table, margin=margin), expected)


def test_threads_get_their_own_answers() -> None:
    """Several threads that ask one booster at once each get what belongs to their rows, and keep it."""
    rows, labels = iris()
    booster = _booster("reg:squarederror", labels)
    expected = predict(booster, rows)

    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda at: predict(booster, rows[at : at + 1]), list(range(len(rows))) * 4))

    np.testing.assert_array_equal(np.concatenate(found), np.tile(expected, 4))


def test_a_refusal_is_told_in_the_librarys_words() -> None:
    """A table that the library does not take raises, with its reason, instead of giving numbers of nothing."""
    rows, labels = iris()

    with pytest.raises(XGBoostRefused, match="Complex floating point"):
        predict(_booster("reg:squarederror", labels), rows.astype(np.complex64))


def test_boosters_take_turns_on_one_thread() -> None:
    """What a thread keeps between calls is no booster's own: tables of other widths and types go through it in turn."""
    rows, labels = iris()
    narrow = xgboost.train({"nthread": 1}, xgboost.DMatrix(rows[:, :2], labels), 3)
    wide = _booster("multi:softprob", labels, num_class=3)
    expected = [narrow.inplace_predict(rows[:, :2]), wide.inplace_predict(rows.astype(np.float32))]

    for _ in range(3):
        np.testing.assert_array_equal(predict(narrow, rows[:, :2]), expected[0])
        with pytest.raises(XGBoostRefused):
            predict(wide, rows.astype(np.complex64))
        np.testing.assert_array_equal(predict(wide, rows.astype(np.float32)), expected[1])
