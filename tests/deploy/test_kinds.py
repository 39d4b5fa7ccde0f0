"""What the words of a command line may be."""

from __future__ import annotations

import argparse
from collections.abc import Callable

import pytest

from deploy.kinds import at_least, between, boolean, seconds, some_seconds

_HUGE = "9" * 5_000


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (at_least(1), "1", 1),
        (at_least(0), "0", 0),
        (between(1, 60), "60", 60),
        (seconds, "0", 0.0),
        (some_seconds, "1e-3", 0.001),
        (boolean, "Yes", True),
        (boolean, "OFF", False),
    ],
)
def test_what_is_of_a_kind_is_read(kind: Callable[[str], object], text: str, value: object) -> None:
    """Bounds belong to what they bound."""
    assert kind(text) == value


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        *((at_least(1), text) for text in ("0", "-1", "1.5", "", "one", "\u0661")),
        *((between(1, 60), text) for text in ("0", "61", "\u0663", _HUGE, f"{1:020}99")),
        *((seconds, text) for text in ("-1", "nan", "inf", "soon", "")),
        *((some_seconds, text) for text in ("0", "nan", "inf", "soon", "")),
        *((boolean, text) for text in ("", "maybe", "2")),
    ],
)
def test_what_is_of_no_kind_says_what_was_expected(kind: Callable[[str], object], text: str) -> None:
    """And what was found in its place."""
    with pytest.raises(argparse.ArgumentTypeError, match=r"^expected .*, got '"):
        kind(text)
