"""Tumbling windows: where they end, what time they span, and state that holds every kind of value."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors.base import Finding, Rows
from detectors.errors import InvalidMonitor
from detectors.windows import Windowed
from tests.detectors.made import rows, setup

REFERENCE = {"x": np.arange(10.0), "c": np.array(["a", "b"] * 5)}


class Spans(Windowed):
    """Tells of every window what it was shown."""

    family = "drift"

    @classmethod
    def example(cls) -> Self:
        return cls(setup(REFERENCE), window=20)

    def test(self, rows: Rows, elapsed_us: int) -> list[Finding]:
        shown = {
            "x": rows.columns["x"].tolist(), "c": rows.columns["c"].tolist(), "ids": rows.ids.tolist(),
            "places": rows.places.tolist(), "times": rows.times_us.tolist(), "elapsed": elapsed_us,
        }  # fmt: skip
        return [Finding(
            key="", alarm=False, message="", statistic=0.0, threshold=0.0, rows=len(rows), first=rows.row_id(0),
            last=rows.row_id(len(rows) - 1), alpha=0.0, evidence=shown,
        )]  # fmt: skip


def drawn(count: int, start: int = 0) -> Rows:
    """Give rows with odd values: missing numbers, infinities, empty and long texts."""
    x = np.resize([1.5, np.inf, -0.0, 1e308, -np.inf], count)
    return rows({"x": x, "c": np.resize(["", "a", "ü" * 50, "b\n"], count)}, start)


@given(st.lists(st.integers(0, 70), max_size=8), st.booleans())
def test_windows_do_not_depend_on_cuts_or_restarts(sizes: list[int], restart: bool) -> None:  # noqa: FBT001 - drawn
    """Pieces of any size, empty ones too, with the state put away between them: the same windows of twenty rows."""
    whole = Spans.example()
    expected = whole.observe(drawn(sum(sizes)))
    detector, found, at = Spans.example(), [], 0
    everything = drawn(sum(sizes))
    for size in sizes:
        found += detector.observe(everything[at : at + size])
        at += size
        if restart:
            fresh = Spans.example()
            fresh.restore(detector.snapshot())
            detector = fresh

    assert [dict(item.evidence) for item in found] == [dict(item.evidence) for item in expected]
    assert [item.rows for item in found] == [20] * (sum(sizes) // 20)


def test_elapsed_time_adds_up() -> None:
    """Each window's time begins where the last one's ended, so that no time is budgeted twice."""
    found = Spans.example().observe(drawn(100))

    assert [item.evidence["elapsed"] for item in found] == [190_000] + [200_000] * 4


def test_time_that_goes_back_is_budgeted_once() -> None:
    """Rows that come late, or a clock set back: no window counts less than a microsecond, none counts time again."""
    first, late, then = drawn(20, 1_000), drawn(20, 0), drawn(20, 1_020)
    found = Spans.example().observe(first.followed_by([late, then]))

    assert [item.evidence["elapsed"] for item in found] == [190_000, 1, 200_000]


@pytest.mark.parametrize("window", [19, 0, -5, 100_001, 1 << 70, 100.0, "100", None, True, float("nan")])
def test_a_window_that_is_none_is_refused(window: Any) -> None:  # noqa: ANN401 - the point
    """Settings are YAML: too small, no whole number, or no number at all; the message names field and least."""
    with pytest.raises(InvalidMonitor, match=r"params\.window: expected .* from 20 to 100000, got") as caught:
        Spans(setup(REFERENCE), window=window)

    assert repr(window) in str(caught.value)


def test_an_empty_detector_has_a_state() -> None:
    """Before the first row, and right after a window, there is nothing but the last end."""
    detector, fresh = Spans.example(), Spans.example()
    fresh.restore(detector.snapshot())
    once = fresh.observe(drawn(20))
    restored = Spans.example()
    restored.restore(fresh.snapshot())

    assert len(once) == 1
    assert restored.observe(drawn(20, 20))[0].evidence["elapsed"] == 200_000
