"""Mahalanobis outliers."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
import pytest

from detectors.errors import InvalidMonitor, InvalidReference
from detectors.library.mahalanobis import Mahalanobis
from tests.detectors.made import alarms, rows, setup

ALARMS = [1799, 1999]
COUNTS = [1, 0, 1, 0, 0, 8, 8, 8, 18, 10]
THRESHOLD = 13.7005179
"""Of the golden run: offset of the last row of each alarming window, outlying rows of each window, and their limit."""


def people(generator: np.random.Generator, count: int) -> dict[str, Any]:
    """Draw two columns that go together, and one of categories."""
    x = generator.normal(size=count)
    return {"x": x, "y": 10 * x + generator.normal(size=count), "c": generator.choice(["a", "b"], count, p=[0.9, 0.1])}


REFERENCE = people(np.random.default_rng(1), 3_000)


def detector(window: int = 200, alpha: float = 1e-4, **params: Any) -> Mahalanobis:  # noqa: ANN401 - any parameter
    """Build one over all three columns."""
    return Mahalanobis(setup(REFERENCE, alpha=alpha, window=window), window=window, **params)


def test_golden_run() -> None:
    """Four per cent of far rows from row 1000 on: the windows that end at these rows alarm, and no other."""
    generator = np.random.default_rng(7)
    columns = people(generator, 2_000)
    far = (generator.random(2_000) < 0.04) & (np.arange(2_000) >= 1_000)
    columns["y"] = columns["y"] + np.where(far, 30.0, 0.0)
    under = detector()
    found = under.observe(rows(columns))

    assert alarms(found) == ALARMS
    assert [int(finding.statistic) for finding in found] == COUNTS
    assert under.threshold == pytest.approx(THRESHOLD, rel=1e-6)


def test_the_farthest_rows_are_named_with_what_put_them_there() -> None:
    """Usual in each column but not together: the row's place, and the columns whose parts add up to its distance."""
    columns = people(np.random.default_rng(3), 200)
    columns["x"][17], columns["y"][17] = 2.0, -20.0
    (found,) = detector().observe(rows(columns))
    worst = found.evidence["outliers"][0]

    assert (worst["id"], worst["offset"], worst["row"]) == ("id-17", 17, 0)
    assert set(list(worst["contributions"])[:2]) == {"x", "y"}
    assert sum(worst["contributions"].values()) == pytest.approx(worst["distance"])
    assert worst["values"] == {"x": 2.0, "y": -20.0, "c": columns["c"][17]}


@pytest.mark.parametrize("value", [np.inf, -np.inf, 1e308, -1e308, 1e200])
def test_infinite_and_huge_values_are_outlying(value: float) -> None:
    """They are far out, and neither stop the arithmetic nor the writing of the evidence."""
    columns = people(np.random.default_rng(3), 200)
    columns["x"][:20] = value
    (found,) = detector().observe(rows(columns))

    assert found.alarm
    assert found.statistic >= 20
    assert {outlier["id"] for outlier in found.evidence["outliers"]} <= {f"id-{at}" for at in range(20)}
    assert orjson.dumps(dict(found.evidence))


def test_missing_values_are_not_outlying() -> None:
    """A missing number lies in the middle: that much is missing is what the drift detectors say."""
    columns = {name: np.full(200, np.nan) for name in "xy"} | {"c": np.full(200, "a")}
    (found,) = detector().observe(rows(columns))

    assert (found.alarm, found.statistic) == (False, 0.0)


def test_an_unseen_category_counts_as_the_rarest() -> None:
    """It has the surprisal of one row of the reference: here more than either category that is usual."""
    columns = people(np.random.default_rng(3), 200)
    columns["c"] = np.full(200, "never seen")
    (found,) = detector().observe(rows(columns))

    assert found.alarm
    assert found.statistic == 200
    assert "c" in found.evidence["outliers"][0]["contributions"]


def test_a_constant_column_does_no_harm() -> None:
    """It adds nothing while it stays, and makes rows outlying when it does not."""
    generator = np.random.default_rng(4)
    reference = {"x": generator.normal(size=1_000), "k": np.full(1_000, 0.1)}
    same = {"x": generator.normal(size=100), "k": np.full(100, 0.1)}
    under = Mahalanobis(setup(reference, window=100), window=100)
    findings = under.observe(rows(same)) + under.observe(rows(same | {"k": np.full(100, 0.2)}))

    assert [finding.alarm for finding in findings] == [False, True]


@pytest.mark.parametrize("names", [600, 4])
def test_new_rows_lie_no_farther_out_than_stated(names: int) -> None:
    """Not even in a column of names hardly used twice: the rate that is tested against bounds the true one."""
    exceeded = 0
    for seed in range(60):
        generator = np.random.default_rng([seed, names])
        reference, new = (
            {"x": generator.standard_t(5, n), "c": generator.integers(0, names, n).astype(str)} for n in (1_200, 4_000)
        )
        under = Mahalanobis(setup(reference, alpha=1.0, window=4_000), window=4_000, quantile=0.9)
        (found,) = under.observe(rows(new))
        exceeded += found.statistic / 4_000 > under.rate

    # The bound holds in 999 of 1000 references; the share of 4000 rows errs by a little itself.
    assert exceeded <= 2


@pytest.mark.parametrize("count", [0, 1, 50, 150])
def test_a_small_reference_is_refused(count: int) -> None:
    """With too few rows the quantile would be a guess; the message says how many are needed."""
    with pytest.raises(InvalidReference, match=rf"over 3 columns needs about 160 reference rows or more, got {count}"):
        Mahalanobis(setup({name: values[:count] for name, values in REFERENCE.items()}))


def test_a_reference_that_never_varies_is_refused() -> None:
    """Without any spread there is no distance."""
    with pytest.raises(InvalidReference, match="needs a column that varies"):
        Mahalanobis(setup({"x": np.full(500, 2.0), "y": np.zeros(500)}))


def test_a_reference_without_numbers_is_refused() -> None:
    """The column is named."""
    with pytest.raises(InvalidReference, match="column 'y' of the reference has no finite values"):
        Mahalanobis(setup({"x": np.arange(500.0), "y": np.full(500, np.nan)}))


@pytest.mark.parametrize("quantile", [0.4, 1.0, float("nan"), "0.9", None, True])
def test_a_quantile_that_is_none_is_refused(quantile: Any) -> None:  # noqa: ANN401 - the point
    """The field, the range, and what was given."""
    with pytest.raises(InvalidMonitor, match=r"params\.quantile: expected a number from 0\.5 to below 1, got"):
        detector(quantile=quantile)
