"""V1 instances to arrays, and outputs to predictions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from inference import instances
from inference.errors import InvalidInput
from inference.protocol.v1 import V1Request


@pytest.mark.parametrize(
    ("given", "kind", "shape"),
    [
        ([[1, 2], [3, 4]], "i", (2, 2)),
        ([[1, 2.5], [3, None]], "f", (2, 2)),
        ([1.5, 2.5], "f", (2,)),
        ([True, False], "b", (2,)),
        ([[1, "a"], [2, "b"]], "O", (2, 2)),
        (["a", "b"], "O", (2,)),
        ([[[1], [2]]], "i", (1, 2, 1)),
        ([2**70], "f", (1,)),
    ],
)
def test_lists(given: list[Any], kind: str, shape: tuple[int, ...]) -> None:
    """Lists become one array under the request's key: numbers with their kind, null as NaN, text as objects."""
    (name, array), *rest = instances.arrays(V1Request(instances=given, key="inputs")).items()

    assert (name, array.dtype.kind, array.shape, rest) == ("inputs", kind, shape, [])
    assert "1" not in array.flat


def test_objects() -> None:
    """Objects become one array per feature, whatever the order of their keys."""
    columns = instances.arrays(V1Request(instances=[{"a": 1, "b": "x"}, {"b": "y", "a": None}]))

    assert columns["b"].tolist() == ["x", "y"]
    np.testing.assert_array_equal(columns["a"], [1.0, np.nan])


@pytest.mark.parametrize("given", [[[1], 2], [[1], [2, 3]], [{}], [[[1], [2, 3]]]])
def test_ragged_instances_are_refused(given: list[Any]) -> None:
    """Instances of different shape are the caller's mistake."""
    with pytest.raises(InvalidInput, match="instances"):
        instances.arrays(V1Request(instances=given))


def test_predictions() -> None:
    """One output gives values or lists; several give one object per row."""
    score, label = np.array([[0.5, 0.5], [1.0, 0.0]]), np.array(["a", "b"])

    assert instances.predictions({"score": score}) == [[0.5, 0.5], [1.0, 0.0]]
    assert instances.predictions({"score": score, "label": label}) == [
        {"score": [0.5, 0.5], "label": "a"},
        {"score": [1.0, 0.0], "label": "b"},
    ]
