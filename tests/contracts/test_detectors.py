"""One list of promises, kept by every detector that the registry finds."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from detectors import examples
from detectors.base import Detector, Finding, Rows
from detectors.errors import DetectorError
from detectors.registry import LIBRARY

NAMES = LIBRARY.names()
COUNT = 2_000


def stream(shift: float = 0.0, seed: int = 3) -> Rows:
    """Give rows; with a shift, the second half differs from the reference."""
    quiet = examples.rows(seed, COUNT)
    return quiet.followed_by([examples.rows(seed + 1, COUNT, shift, start=COUNT)])


def build(name: str) -> Detector:
    """Build a detector's own example."""
    return LIBRARY.find(name).example()  # type: ignore[no-any-return]


def feed(detector: Detector, rows: Rows, cuts: Sequence[int]) -> list[Finding]:
    """Show rows in pieces cut at these places."""
    places = [0, *sorted(cuts), len(rows)]
    return [item for a, b in itertools.pairwise(places) for item in detector.observe(rows[a:b])]


@pytest.mark.parametrize("name", NAMES)
def test_cuts_change_nothing(name: str) -> None:
    """Row by row, in pieces or whole: the same findings."""
    rows = stream(1.0)
    whole = feed(build(name), rows, ())
    some = feed(build(name), rows, (1, 7, 499, 500, 501, 2_500))

    assert whole
    assert some == whole


@pytest.mark.parametrize("name", NAMES)
def test_a_restart_changes_nothing(name: str) -> None:
    """State put away and taken up again, at any place, in a new object: the same findings."""
    rows = stream(1.0)
    whole = feed(build(name), rows, ())
    found: list[Finding] = []
    detector = build(name)
    for start in range(0, len(rows), 333):
        fresh = build(name)
        fresh.restore(detector.snapshot())
        detector = fresh
        found += detector.observe(rows[start : start + 333])

    assert found == whole


@pytest.mark.parametrize("name", NAMES)
def test_input_is_left_as_it_was(name: str) -> None:
    """A detector shares its rows with others, so it must not write into them."""
    rows = stream(1.0)
    before = copy.deepcopy(rows.columns)
    build(name).observe(rows)

    assert all(np.array_equal(before[column], rows.columns[column]) for column in before)


@pytest.mark.parametrize("name", NAMES)
def test_state_is_bounded(name: str) -> None:
    """The state after many rows is no larger than after one window."""
    detector = build(name)
    sizes = []
    for part in range(8):
        detector.observe(examples.rows(part, 1_999, start=part * 1_999))
        sizes.append(len(detector.snapshot()))

    assert max(sizes) < 200_000


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_column_is_our_error(name: str) -> None:
    """Rows of another shape are refused with a message, not with a traceback from inside a library."""
    rows = stream()
    lacking = Rows(columns={"other": rows.columns["x"]}, ids=rows.ids, times_us=rows.times_us, places=rows.places)
    with pytest.raises(DetectorError):
        build(name).observe(lacking)


@pytest.mark.parametrize("name", NAMES)
def test_a_planted_change_is_found(name: str) -> None:
    """Quiet while nothing changes, alarming after the change; the finding carries its evidence."""
    findings = feed(build(name), stream(1.5), ())
    alarms = [finding for finding in findings if finding.alarm]

    assert alarms
    assert all(int(finding.first["offset"]) >= COUNT - 500 for finding in alarms)
    assert all(finding.message and finding.evidence and finding.rows for finding in alarms)


@pytest.mark.parametrize("name", NAMES)
def test_false_alarms_stay_within_the_budget(name: str) -> None:
    """Over many stationary streams, tests alarm no oftener than their alphas add up to, chance allowed for."""
    expected = 0.0
    alarms = 0
    for seed in range(40):
        for finding in build(name).observe(examples.rows(1_000 + seed, 2_000)):
            expected += finding.alpha
            alarms += finding.alarm

    # Poisson with mean at most `expected`: above this bound once in ten thousand suites.
    assert alarms <= expected + 4 * np.sqrt(expected) + 2


@pytest.mark.parametrize("name", NAMES)
def test_each_has_its_paragraph(name: str) -> None:
    """What a detector does, and when to use it, stands in the folder's README."""
    text = (Path(__file__).parents[2] / "detectors" / "README.md").read_text()

    assert f"**{name}**" in text
