"""Names of categories to their codes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from inference.categories import Categories
from inference.errors import InvalidInput, ModelLoadFailed

_NAMED = Categories.read({"colour": ["blue", "red"]}, ("size", "colour"), "m")


def test_names_become_codes() -> None:
    """Names become their place in the list; codes pass; unknown names and null are missing."""
    table = np.array([[1.5, "red"], [2, "blue"], [None, 1], [4, "green"], [5, None]], object)

    np.testing.assert_array_equal(
        _NAMED.coded(table, np.float64), np.array([[1.5, 1], [2, 0], [np.nan, 1], [4, np.nan], [5, np.nan]])
    )


def test_numbers_that_are_codes_pass() -> None:
    """A table of numbers is taken as it is where the categories have names."""
    table = np.array([[1.5, 1.0], [2.0, 0.0]])

    assert _NAMED.coded(table, np.float64) is table


def test_numbers_that_are_names_become_codes() -> None:
    """Where the categories themselves are numbers, numbers are names; the caller's table is not written to."""
    categories = Categories({0: [10, 20]}, ("n", "x"))
    table = np.array([[20.0, 3.0], [10.0, 4.0], [0.0, 5.0]])
    mixed = np.array([[20, "3"]], object)

    np.testing.assert_array_equal(categories.coded(table, np.float64), np.array([[1, 3], [0, 4], [np.nan, 5]]))
    assert table[0, 0] == 20.0
    with pytest.raises(InvalidInput, match="column 'x': expected numbers, got text '3'"):
        categories.coded(mixed, np.float64)


def test_text_elsewhere_is_refused() -> None:
    """Text in a column without categories is the caller's mistake, with the column's name."""
    with pytest.raises(InvalidInput, match="column 'size': expected numbers, got text 'big'"):
        _NAMED.coded(np.array([["big", "red"]], object), np.float64)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"shape": ["a"]}, r"m: categories: 'shape' is none of the features \['size', 'colour'\]"),
        ({"size": "a"}, "categories: size: expected a list of different texts, got 'a'"),
        ({"size": [1]}, "expected a list of different texts"),
        ({"size": ["a", "a"]}, "expected a list of different texts"),
    ],
)
def test_wrong_settings_are_refused(given: dict[str, Any], says: str) -> None:
    """A column or list that cannot be meant ends the load."""
    with pytest.raises(ModelLoadFailed, match=says):
        Categories.read(given, ("size", "colour"), "m")
