"""The kinds of values that arguments have: a word of the command line in, its value out, or what was expected."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import Final

_TRUTHS: Final = dict.fromkeys(("true", "t", "yes", "y", "on", "1"), True) | dict.fromkeys(
    ("false", "f", "no", "n", "off", "0"), False
)
"""What KServe's servers take for a boolean; its agent has words of its own, see `agent.py`."""
_LONGEST: Final = 20
"""Digits of a number that has a bound: Python reads no more than some thousands."""


def at_least(least: int) -> Callable[[str], int]:
    """Read a whole number."""

    def parse(text: str) -> int:
        if not _digits(text) or int(text) < least:
            raise argparse.ArgumentTypeError(f"expected a whole number from {least} up, got {text!r}")
        return int(text)

    return parse


def between(least: int, most: int) -> Callable[[str], int]:
    """Read a whole number that has a bound above, too."""

    def parse(text: str) -> int:
        if not (_digits(text) and len(text) <= _LONGEST and least <= int(text) <= most):
            raise argparse.ArgumentTypeError(f"expected a whole number from {least} to {most}, got {text!r}")
        return int(text)

    return parse


def seconds(text: str) -> float:
    """Read a time, which may be none."""
    found = _number(text)
    if not 0 <= found < math.inf:
        raise argparse.ArgumentTypeError(f"expected seconds, got {text!r}")
    return found


def some_seconds(text: str) -> float:
    """Read a time."""
    found = _number(text)
    if not 0 < found < math.inf:
        raise argparse.ArgumentTypeError(f"expected seconds above 0, got {text!r}")
    return found


def boolean(text: str) -> bool:
    """Read a yes or no."""
    found = _TRUTHS.get(text.lower())
    if found is None:
        raise argparse.ArgumentTypeError(f"expected true or false, got {text!r}")
    return found


def _digits(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
