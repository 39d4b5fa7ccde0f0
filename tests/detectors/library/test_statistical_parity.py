"""Statistical parity between groups."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from detectors.base import Finding
from detectors.errors import InvalidMonitor
from detectors.library.statistical_parity import StatisticalParity, beyond
from tests.detectors.made import alarms, rows, setup

REFERENCE = {"g": np.array(["m", "w"] * 50), "score": np.linspace(0, 1, 100), "label": np.array(["yes", "no"] * 50)}
USUAL: dict[str, Any] = {"attribute": "g", "privileged": ["m"], "favourable": {"output": "score", "atLeast": 0.5}}
ALARMS = [1599, 1999, 2399]
STATISTIC = -0.275641
"""Of the golden run: offset of the last row of each alarming window, and a number that it computes."""


def detector(window: int = 200, alpha: float = 0.01, **params: Any) -> StatisticalParity:  # noqa: ANN401 - any
    """Build one that watches the score's difference between m and w."""
    return StatisticalParity(setup(REFERENCE, "score", alpha=alpha, window=window), window=window, **USUAL | params)


def groups(*counts: tuple[str, int, int]) -> dict[str, Any]:
    """Give columns with so many (favourable, others) of each group."""
    names = [name for name, good, bad in counts for _ in range(good + bad)]
    scores = [1.0 - (at >= good) for _, good, bad in counts for at in range(good + bad)]
    labels = ["yes" if score else "no" for score in scores]
    return {"g": np.array(names), "score": np.array(scores), "label": np.array(labels)}


def shown(columns: dict[str, Any], **params: Any) -> Finding:  # noqa: ANN401 - any parameter
    """Give the outcome of one window."""
    (finding,) = detector(len(columns["g"]), **params).observe(rows(columns))
    return finding


def test_golden_run() -> None:
    """Women's scores fall from row 1200 on: the windows that end at these rows alarm, and no other."""
    generator = np.random.default_rng(7)
    group = generator.choice(["m", "w"], 2_400)
    score = generator.random(2_400) - np.where((group == "w") & (np.arange(2_400) >= 1_200), 0.35, 0.0)
    found = detector(400, 1e-3).observe(rows({"g": group, "score": score}))

    assert alarms(found) == ALARMS
    assert found[4].statistic == pytest.approx(STATISTIC, abs=1e-6)


def test_either_direction_is_bias() -> None:
    """What counts is the distance from 0; the sign and the ratio say who is worse off."""
    worse, better = shown(groups(("m", 90, 10), ("w", 40, 60))), shown(groups(("m", 40, 60), ("w", 90, 10)))

    assert worse.alarm
    assert better.alarm
    assert [worse.statistic, better.statistic] == pytest.approx([-0.5, 0.5])
    assert worse.evidence["disparate_impact"] == pytest.approx(4 / 9)
    assert worse.evidence["interval"][1] < -0.1 < 0.1 < better.evidence["interval"][0]


def test_a_tolerated_difference_is_none() -> None:
    """However many rows show it: 5 points of 10000 rows are certain, and within the band."""
    finding = shown(groups(("m", 2_750, 2_250), ("w", 2_500, 2_500)))

    assert (finding.alarm, finding.p_value) == (False, 1.0)
    assert shown(groups(("m", 2_750, 2_250), ("w", 2_500, 2_500)), tolerance=0.0).alarm


@pytest.mark.parametrize("columns", [groups(("m", 50, 50)), groups(("w", 50, 50)), groups(("m", 51, 0), ("w", 0, 49))])
def test_a_group_too_small_is_not_compared(columns: dict[str, Any]) -> None:
    """No rows of one group, or fewer than `least`: no alarm, and a message with the numbers."""
    finding = shown(columns)

    assert not finding.alarm
    assert finding.message.startswith("too few rows to compare: ")
    assert finding.message.endswith("each needs 50")
    assert shown(groups(("m", 51, 0), ("w", 0, 49)), least=49).alarm


def test_rates_of_nothing_and_all_are_compared() -> None:
    """All of one group and none of the other: certain, though no share has a spread; the ratio of nobody is none."""
    finding = shown(groups(("m", 0, 60), ("w", 60, 0)))

    assert finding.alarm
    assert finding.evidence["disparate_impact"] is None
    assert not shown(groups(("m", 60, 0), ("w", 60, 0))).alarm


def test_who_belongs_to_no_group_is_not_counted() -> None:
    """Rows without an attribute are in neither group, for text and for numbers; the evidence says how many."""
    mixed = groups(("m", 60, 40), ("w", 60, 40), ("", 0, 300))
    numbers = {name: np.array([1.0, 2.0, np.nan])[[["m", "w", ""].index(g) for g in mixed["g"]]] for name in ("g",)}
    text = shown(mixed)
    under = StatisticalParity(
        setup(REFERENCE | {"g": np.ones(100)}, "score", window=500), window=500, **USUAL | {"privileged": [1]}
    )
    (number,) = under.observe(rows(mixed | numbers))

    for finding in (text, number):
        assert (finding.alarm, finding.statistic, finding.evidence["unknown"]) == (False, 0.0, 300)


def test_a_missing_outcome_is_not_favourable() -> None:
    """No answer is no loan; infinities are numbers like others."""
    columns = groups(("m", 100, 0), ("w", 100, 0))
    columns["score"][100:] = np.nan
    columns["score"][:100] = np.inf
    finding = shown(columns)

    assert finding.alarm
    assert finding.evidence["unprivileged"] == {"favourable": 0, "rows": 100}


def test_a_category_can_be_favourable() -> None:
    """Labels instead of scores; the value is spelt as in every other place."""
    finding = shown(groups(("m", 90, 10), ("w", 40, 60)), favourable={"output": "label", "equals": "yes"})

    assert finding.evidence["privileged"] == {"favourable": 90, "rows": 100}


def test_the_p_value_is_the_likelihood_ratios() -> None:
    """Without tolerance it is the G-test of the two-by-two table, doubled; with it, farther differences are rarer."""
    ratio = 2 * (30 * np.log(30 / 20) + 70 * np.log(70 / 80) + 10 * np.log(10 / 20) + 90 * np.log(90 / 80))

    assert beyond((30, 100), (10, 100), 0.0) == pytest.approx(2 * stats.chi2.sf(ratio, 1))
    assert beyond((30, 100), (10, 100), 0.1) > beyond((30, 100), (10, 100), 0.05) > beyond((30, 100), (10, 100), 0.0)
    assert beyond((30, 100), (10, 100), 0.2) == 1.0


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"attribute": "sex"}, "params.attribute: expected a column of the monitor, one of g, score, label, got 'sex'"),
        ({"attribute": ["g"]}, "params.attribute: expected a column of the monitor, one of g, score, label, got ['g']"),
        ({"privileged": "m"}, "params.privileged: expected a list of values of 'g', got 'm'"),
        ({"privileged": []}, "params.privileged: expected a list of values of 'g', got []"),
        ({"favourable": "score"}, "params.favourable: expected 'output' and 'atLeast' or 'equals', got 'score'"),
        ({"favourable": {"output": "score"}}, "params.favourable: expected exactly one of 'atLeast' and 'equals'"),
        ({"favourable": {"output": "score", "atLeast": 1, "equals": 1}}, "expected exactly one of 'atLeast' and"),
        ({"favourable": {"output": "score", "atleast": 1}}, "expected 'output' and 'atLeast' or 'equals', got"),
        ({"favourable": {"output": "x", "equals": 1}}, "params.favourable.output: expected a column of the monitor"),
        ({"favourable": {"output": ["x"], "equals": 1}}, "params.favourable.output: expected a column of the monitor"),
        ({"favourable": {"output": "score", "atLeast": "0.5"}}, "params.favourable.atLeast: expected a number, got"),
        ({"favourable": {"output": "label", "atLeast": 1}},
         "params.favourable.atLeast: expected a numeric column, 'label' is categorical: name its favourable value"),
        ({"tolerance": -0.1}, "params.tolerance: expected a number from 0 to below 1, got -0.1"),
        ({"tolerance": "low"}, "params.tolerance: expected a number from 0 to below 1, got 'low'"),
        ({"least": 0}, "params.least: expected a whole number from 1 up, got 0"),
        ({"least": 5.5}, "params.least: expected a whole number from 1 up, got 5.5"),
    ],
)  # fmt: skip
def test_settings_that_cannot_work_are_refused_at_start(params: dict[str, Any], message: str) -> None:
    """Before the first row: the field, what it takes, and what was given."""
    with pytest.raises(InvalidMonitor) as caught:
        detector(**params)

    assert message in str(caught.value)
