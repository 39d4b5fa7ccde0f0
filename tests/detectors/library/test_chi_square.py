"""Chi-square drift of categorical features."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from detectors.base import Finding
from detectors.errors import InvalidReference
from detectors.library.chi_square import ChiSquareDrift
from tests.detectors.made import alarms, rows, setup

REFERENCE = np.random.default_rng(1).choice(["a", "b", "c"], 2_000, p=[0.5, 0.3, 0.2])
ALARMS = [1199, 1399, 1599, 1999]
STATISTIC = 21.6602
"""Of the golden run: offset of the last row of each alarming window, and a number that it computes."""


def shown(values: Sequence[str], reference: Sequence[str] = tuple(REFERENCE), alpha: float = 0.01) -> Finding:
    """Give the outcome of one window over column c."""
    size = len(values)
    detector = ChiSquareDrift(setup({"c": np.array(reference)}, alpha=alpha, window=size), window=size)
    (finding,) = detector.observe(rows({"c": np.array(values)}))
    return finding


def test_golden_run() -> None:
    """Shares that move from row 1000 on: the windows that end at these rows alarm, and no other."""
    generator = np.random.default_rng(7)
    parts = [generator.choice(["a", "b", "c"], 1_000, p=p) for p in ([0.5, 0.3, 0.2], [0.35, 0.3, 0.35])]
    detector = ChiSquareDrift(setup({"c": REFERENCE}, alpha=1e-4, window=200), window=200)
    found = detector.observe(rows({"c": np.concatenate(parts)}))

    assert alarms(found) == ALARMS
    assert found[5].statistic == pytest.approx(STATISTIC, abs=1e-4)


def test_a_constant_column() -> None:
    """The same category alone is no drift; another one instead of it is."""
    assert not shown(["a"] * 100, ["a"] * 500).alarm
    assert shown(["b"] * 100, ["a"] * 500).alarm


def test_a_handful_of_an_unseen_category_is_found() -> None:
    """A code that never was before, in one row of forty: it does not drown in the categories that are usual."""
    generator = np.random.default_rng(2)
    usual = generator.choice(["a", "b", "c"], 390, p=[0.5, 0.3, 0.2]).tolist()
    finding = shown([*usual, *["new"] * 10], alpha=1e-5)

    assert finding.alarm
    assert finding.evidence["categories"] == ["a", "b", "c", "(other)"]
    assert (finding.evidence["before"][3], finding.evidence["after"][3]) == (0.0, 0.025)


def test_one_row_of_an_unseen_category_is_none() -> None:
    """New categories turn up; one row is no drift."""
    assert not shown([*REFERENCE[:399].tolist(), "new"]).alarm


def test_many_rare_categories_are_one() -> None:
    """A column of names hardly used twice: rare ones are pooled, and seeing other rare ones is no drift."""
    generator = np.random.default_rng(3)
    reference, window = (generator.integers(0, 5_000, size).astype(str).tolist() for size in (2_000, 400))
    finding = shown(window, reference)

    assert finding.evidence["categories"] == ["(other)"]
    assert not finding.alarm


def test_missing_is_a_category() -> None:
    """Text that is missing is empty; a column that goes missing is drift."""
    finding = shown(["", *["a"] * 30, *[""] * 69])

    assert finding.alarm
    assert finding.evidence["after"] == [0.3, 0.0, 0.0, 0.7]


def test_a_tiny_window_has_its_rare_categories_pooled() -> None:
    """Of twenty rows only categories expected five times stand alone."""
    finding = shown(["a"] * 10 + ["b"] * 6 + ["c"] * 4)

    assert finding.evidence["categories"] == ["a", "b", "(other)"]
    assert not finding.alarm


def test_an_empty_reference_is_refused() -> None:
    """Nothing can differ from nothing."""
    with pytest.raises(InvalidReference, match="categorical column of the reference has no values"):
        ChiSquareDrift(setup({"c": np.array([], str)}))
