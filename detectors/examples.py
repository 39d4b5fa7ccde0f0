"""Seeded example data with which each detector builds its own example for the contract tests."""

from __future__ import annotations

from typing import Final

import numpy as np

from detectors.base import Array, Rows, Setup
from detectors.budget import Budget
from detectors.settings import ColumnSettings

COLUMNS: Final = {
    "x": ColumnSettings(name="x", kind="numeric"),
    "y": ColumnSettings(name="y", kind="numeric"),
    "c": ColumnSettings(name="c", kind="categorical"),
    "score": ColumnSettings(name="score", kind="numeric"),
}


def columns(generator: np.random.Generator, count: int, shift: float = 0.0) -> dict[str, Array]:
    """Draw values; a shift moves the numbers, the categories' shares and the scores of group `b`."""
    group = np.where(generator.random(count) < 0.5 + shift / 10, "b", "a")
    noise = generator.normal(size=count)
    score = 1 / (1 + np.exp(-noise + shift * (group == "b")))
    return {
        "x": generator.normal(shift, 1.0, count), "y": generator.normal(shift, 2.0, count), "c": group, "score": score
    }  # fmt: skip


def rows(seed: int, count: int, shift: float = 0.0, start: int = 0) -> Rows:
    """Draw rows, 10 ms apart, numbered from `start`."""
    numbers = np.arange(start, start + count)
    places = np.column_stack([np.zeros(count, np.int64), numbers, np.zeros(count, np.int64)])
    return Rows(
        columns=columns(np.random.default_rng(seed), count, shift),
        ids=np.array([f"id-{number}" for number in numbers]),
        times_us=1_700_000_000_000_000 + numbers * 10_000,
        places=places,
    )


def setup(*names: str, false_alarms: float = 1.0, per_rows: int = 1_000_000) -> Setup:
    """Set a detector up over some of the example's columns."""
    reference = columns(np.random.default_rng(0), 5_000)
    budget = Budget(false_alarms=false_alarms, rows=per_rows)
    return Setup(columns=tuple(COLUMNS[name] for name in names), reference=reference, budget=budget)
