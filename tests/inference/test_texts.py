"""Texts and bytes, each turned into what a model takes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from inference.errors import InvalidInput
from inference.texts import fitted


def _objects(*items: object) -> NDArray[Any]:
    array = np.empty(len(items), object)
    array[:] = items
    return array


@given(st.lists(st.text(st.characters(codec="utf-8"))))
def test_text_survives_both_ways(items: list[str]) -> None:
    """Text becomes UTF-8 and text again, whatever it is; what is as wanted stays."""
    as_bytes = fitted({"x": _objects(*items)}, as_bytes=True)
    back = fitted(as_bytes, as_bytes=False)

    assert as_bytes["x"].tolist() == [item.encode() for item in items]
    assert back["x"].tolist() == items
    assert fitted(back, as_bytes=False)["x"].tolist() == items


def test_numbers_stay_as_they_are() -> None:
    """Neither tensors of numbers nor numbers beside text are touched, and the names keep their order."""
    inputs = {"b": np.ones((2, 2)), "a": _objects("x", 1.5, None)}
    given = fitted(inputs, as_bytes=True)

    assert given["b"] is inputs["b"]
    assert list(given) == ["b", "a"]
    assert given["a"].tolist() == [b"x", 1.5, None]
    assert inputs["a"].tolist() == ["x", 1.5, None]


def test_shapes_are_kept() -> None:
    """A matrix of texts stays one."""
    matrix = _objects(b"a", b"b", b"c", b"d").reshape(2, 2)

    assert fitted({"x": matrix}, as_bytes=False)["x"].tolist() == [["a", "b"], ["c", "d"]]


def test_the_element_that_is_no_text_is_named() -> None:
    """Where text is wanted, the message says which tensor and which of its elements is none."""
    inputs = {"words": _objects(b"fine", b"\xff\xd8\xff\xe0", b"fine")}

    with pytest.raises(InvalidInput, match=r"tensor 'words': element 1: expected UTF-8 text: .* byte 0xff"):
        fitted(inputs, as_bytes=False)
