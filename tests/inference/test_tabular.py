"""Named arrays to one table."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from inference.errors import InvalidInput
from inference.tabular import Table


def _table(width: int | None = 2, features: tuple[str, ...] = ("a", "b")) -> Table:
    return Table(width=width, features=features, datatype="FP64")


@pytest.mark.parametrize(
    "inputs",
    [
        {"anything": np.array([[1, 2], [3, 4]], np.int8)},
        {"a": np.array([[1, 2], [3, 4]], np.float32)},
        {"b": np.array([2, 4]), "a": np.array([1, 3])},
        {"b": np.array([[2], [4]]), "a": np.array([1.0, 3.0])},
    ],
)
def test_ways_to_send_rows(inputs: dict[str, NDArray[Any]]) -> None:
    """A matrix, flat columns and [rows, 1] columns give the same table, cast to the configured type."""
    table = _table().matrix(inputs)

    assert table.dtype == np.float64
    assert table.tolist() == [[1.0, 2.0], [3.0, 4.0]]


def test_one_column_models_take_flat_tensors() -> None:
    """A model of one column takes [rows] as well as [rows, 1], by any name."""
    for name in ("a", "x"):
        for array in (np.array([1.0, 2.0]), np.array([[1.0], [2.0]])):
            assert _table(1, ("a",)).matrix({name: array}).tolist() == [[1.0], [2.0]]


def test_numbers_beside_text_stay_numbers() -> None:
    """A table with a column of text holds objects; the numbers in it are still numbers."""
    table = _table().matrix({"a": np.array(["x", "y"], object), "b": np.array([1, 2])})

    assert table.tolist() == [["x", 1.0], ["y", 2.0]]


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ({"a": np.ones(2)}, r"missing \['b'\], unknown \[\]; expected \['a', 'b'\]"),
        ({"a": np.ones(2), "c": np.ones(2)}, r"missing \['b'\], unknown \['c'\]"),
        ({"a": np.ones(2), "b": np.ones(3)}, r"as many rows in each, got {'a': 2, 'b': 3}"),
        ({"a": np.ones((2, 2)), "b": np.ones(2)}, r"input 'a': expected shape \[rows\] or \[rows, 1\], got \[2, 2\]"),
        ({"x": np.ones((2, 3))}, r"input 'x': expected shape \[rows, 2\], got \[2, 3\]"),
    ],
)
def test_what_does_not_fit_is_refused(inputs: dict[str, NDArray[Any]], says: str) -> None:
    """Names, lengths and shapes that do not make up the table are named."""
    with pytest.raises(InvalidInput, match=says):
        _table().matrix(inputs)


def test_columns_need_known_names() -> None:
    """Without names from the model, columns have no order: they are refused instead of guessed."""
    with pytest.raises(InvalidInput, match="names no features"):
        _table(2, ()).matrix({"a": np.ones(2), "b": np.ones(2)})
