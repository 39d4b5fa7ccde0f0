"""KS drift of numeric features."""

from __future__ import annotations

import numpy as np
import pytest

from detectors.base import Finding
from detectors.errors import InvalidReference
from detectors.library.ks import Ks
from tests.detectors.made import alarms, rows, setup

REFERENCE = np.random.default_rng(1).normal(size=1_000)
ALARMS = [1199, 1399, 1599, 1799, 1999]
STATISTIC = 0.245
"""Of the golden run: offset of the last row of each alarming window, and a number that it computes."""


def shown(values: object, reference: object = REFERENCE, window: int = 0) -> Finding:
    """Give the outcome of one window over column x."""
    array = np.asarray(values, float)
    size = window or len(array)
    (finding,) = Ks(setup({"x": np.asarray(reference, float)}, window=size), window=size).observe(rows({"x": array}))
    return finding


def test_golden_run() -> None:
    """A shift of 0.6 from row 1000 on: the windows that end at these rows alarm, and no other."""
    generator = np.random.default_rng(7)
    x = np.concatenate([generator.normal(size=1_000), generator.normal(0.6, 1.0, 1_000)])
    found = Ks(setup({"x": REFERENCE}, alpha=1e-4, window=200), window=200).observe(rows({"x": x}))

    assert alarms(found) == ALARMS
    assert found[5].statistic == pytest.approx(STATISTIC, abs=1e-6)


def test_a_constant_column() -> None:
    """The same constant is no drift, another one is, and the histogram has a bin for it."""
    same, other = shown(np.full(100, 5.0), np.full(500, 5.0)), shown(np.full(100, 6.0), np.full(500, 5.0))

    assert (same.alarm, same.statistic, same.p_value) == (False, 0.0, 1.0)
    assert (other.alarm, other.statistic) == (True, 1.0)
    assert (same.evidence["edges"], same.evidence["after"]) == ([4.5, 5.5], [1.0])


def test_a_column_that_goes_missing_is_drift() -> None:
    """All values missing, or many: an alarm, with the shares before and after."""
    generator = np.random.default_rng(2)
    some = np.where(generator.random(200) < 0.3, np.nan, generator.normal(size=200))
    gone, holes = shown(np.full(100, np.nan)), shown(some)

    assert gone.alarm
    assert holes.alarm
    assert gone.evidence["missing"] == [0.0, 1.0]
    assert gone.evidence["mean"][1] is None
    assert gone.evidence["after"] == [0.0] * 10
    assert holes.evidence["missing"][1] == np.isnan(some).mean()


def test_a_column_that_always_has_holes_is_none() -> None:
    """What the reference lacks, too, is usual."""
    generator = np.random.default_rng(3)
    reference, window = (
        np.where(generator.random(size) < 0.3, np.nan, generator.normal(size=size)) for size in (1_000, 300)
    )

    assert not shown(window, reference).alarm


def test_infinite_and_huge_values_are_large_values() -> None:
    """They take part in the ranks, lie in the outer bins, and stop nothing; in the reference, too."""
    huge = np.resize([1e308, -1e308], 500)
    window = np.where(np.arange(100) < 50, np.inf, -np.inf)

    assert shown(window).alarm
    assert shown(window).evidence["after"] == [0.5, *[0.0] * 8, 0.5]
    assert not shown(huge[:100], huge).alarm
    assert not shown([*REFERENCE[:99], np.inf], [*REFERENCE, np.inf, -np.inf]).alarm


def test_a_tiny_window_is_tested_exactly() -> None:
    """Twenty rows against three: the least p-value that such samples can have, and not the asymptotic 0."""
    finding = shown(np.arange(100.0, 120.0), [1.0, 2.0, 3.0])

    # All of one sample above all of the other, on either side: 2 of 23! / (20! 3!) arrangements.
    assert finding.p_value == pytest.approx(2 / 1771)


@pytest.mark.parametrize("reference", [[], [1.0], [np.nan, np.nan, 1.0], [np.inf, -np.inf]])
def test_a_reference_without_two_values_is_refused(reference: list[float]) -> None:
    """Nothing can differ from nothing."""
    with pytest.raises(InvalidReference, match="fewer than two finite values"):
        Ks(setup({"x": np.array(reference, float)}))
