"""Joining and splitting are each other's inverse."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from inference.batching import joining


@given(st.lists(st.integers(1, 9), min_size=1, max_size=8), st.integers(0, 2))
def test_splitting_undoes_joining(counts: list[int], rank: int) -> None:
    """Every call gets its own rows of every tensor, numbers and texts."""
    parts = [
        {
            "n": np.arange(count * 2**rank, dtype=np.float32).reshape(count, *[2] * rank) + 100 * index,
            "t": np.array([f"{index}.{row}" for row in range(count)], object),
        }
        for index, count in enumerate(counts)
    ]
    joined = joining.join(parts)
    again = joining.split(joined, counts)

    assert {name: len(array) for name, array in joined.items()} == {"n": sum(counts), "t": sum(counts)}
    for part, got in zip(parts, again, strict=True):
        assert_array_equal(got["n"], part["n"])
        assert_array_equal(got["t"], part["t"])
        assert got["n"].dtype == np.float32


@pytest.mark.parametrize("shape", [(), (3,), (4, 5)])
def test_outputs_by_other_than_rows_are_refused(shape: tuple[int, ...]) -> None:
    """Where the first dimension is not the rows, nothing is handed out."""
    with pytest.raises(joining.NotByRows, match="'y'"):
        joining.split({"x": np.zeros(5), "y": np.zeros(shape)}, [2, 3])


def test_rows_need_agreement() -> None:
    """Inputs that differ in their first dimension, scalars and empty ones cannot be joined."""
    assert joining.rows_of({"a": np.zeros((3, 2)), "b": np.zeros(3)}) == 3
    assert joining.rows_of({"a": np.zeros((3, 2)), "b": np.zeros(2)}) == 0
    assert joining.rows_of({"a": np.zeros(())}) == 0
    assert joining.rows_of({}) == 0


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (np.zeros((1, 2)), np.zeros((9, 2)), True),
        (np.zeros((1, 2)), np.zeros((1, 3)), False),
        (np.zeros((1, 2)), np.zeros((1, 2), np.float32), False),
        (np.zeros((1, 2)), np.zeros(1), False),
    ],
)
def test_shapes_tell_what_goes_together(
    one: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
    other: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
    same: bool,  # noqa: FBT001 - a table's column
) -> None:
    """Rows may differ; trailing dimensions, dtypes and names may not."""
    assert (joining.shape_of({"x": one}) == joining.shape_of({"x": other})) is same
    assert joining.shape_of({"x": one}) != joining.shape_of({"y": one})


def test_padding_repeats_the_last_row_and_is_cut_again() -> None:
    """What fills a batch up is a row that the model takes for certain."""
    inputs = {"x": np.array([[1.0], [2.0], [3.0]]), "t": np.array(["a", "b", "c"], object)}
    padded = joining.pad(inputs, 3, 5)

    assert padded["x"].ravel().tolist() == [1, 2, 3, 3, 3]
    assert padded["t"].tolist() == ["a", "b", "c", "c", "c"]
    assert joining.cut(padded, 3)["x"].ravel().tolist() == [1, 2, 3]


def test_padded_sizes() -> None:
    """The smallest size that holds the rows, or the rows themselves beyond the largest."""
    assert [joining.padded_size(rows, (1, 4, 16)) for rows in (1, 2, 4, 5, 16, 17)] == [1, 4, 4, 16, 16, 17]
