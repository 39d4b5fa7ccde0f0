"""Triton's classification extension: the highest scores of each row as texts."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from inference.classification import asked, classified
from inference.errors import InvalidInput


def test_the_highest_come_first_with_their_places() -> None:
    """As many as were asked for, as Triton writes them; equal ones in their order, and what is no number last."""
    scores = np.array([[0.25, 0.5, 0.25], [np.nan, -1.0, 3.0]], np.float32)

    assert classified("y", scores, 2).tolist() == [["0.500000:1", "0.250000:0"], ["3.000000:2", "-1.000000:1"]]
    assert classified("y", scores, 9)[1].tolist() == ["3.000000:2", "-1.000000:1", "nan:0"]


def test_labels_come_along() -> None:
    """Where there are some; an index beyond them has none."""
    assert classified("y", np.array([[0.25, 0.5, 0.125]]), 3, ("cat", "dog")).tolist() == [
        ["0.500000:1:dog", "0.250000:0:cat", "0.125000:2"]
    ]


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        (np.array([7, 2]), [["7.000000:0"], ["2.000000:0"]]),
        (np.array([[[1, 2], [3, 0]]], np.uint8), [["3.000000:2"]]),
        (np.array([[False, True]]), [["1.000000:1"]]),
        (np.zeros((0, 3)), []),
        (np.zeros((2, 0)), [[], []]),
    ],
)
def test_every_shape_of_numbers_has_scores(scores: NDArray[np.generic], expected: list[list[str]]) -> None:
    """A row's numbers count as one list, however they are arranged; there may be none."""
    assert classified("y", scores, 1).tolist() == expected


def test_what_is_no_number_is_refused() -> None:
    """Texts have no highest, and a count is a whole number from 0 up."""
    with pytest.raises(InvalidInput, match="output 'y': classification: expected numbers, the model gives object"):
        classified("y", np.array([["a"]], object), 1)
    for wrong in (-1, 1.5, "2", True):
        with pytest.raises(InvalidInput, match="output 'y': classification: expected a number of classes"):
            asked("y", {"classification": wrong})
    assert (asked("y", {}), asked("y", {"classification": 3})) == (0, 3)
