"""The alarm budget: what is split adds up, the measured rates keep to it, and what is left has power."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from detectors.budget import LARGEST_ALPHA, Budget
from detectors.library.statistical_parity import beyond, newcombe
from detectors.registry import LIBRARY, build
from detectors.settings import monitor_from_mapping
from detectors.two_sample import ChiSquare
from tests.detectors.made import rows, setup

ALPHA = 0.01
SELDOM = 1e-9
"""Probability with which a right detector would fail a test here, if the draws were not seeded."""


@given(
    alarms=st.floats(1e-3, 100),
    period=st.integers(1_000, 10_000_000),
    detectors=st.integers(1, 8),
    features=st.integers(1, 30),
    window=st.integers(20, 20_000),
)
def test_shares_of_rows_add_up_to_the_budget(
    alarms: float, period: int, detectors: int, features: int, window: int
) -> None:
    """Every test of every full window of a period: their error probabilities together are at most what was stated."""
    alpha = Budget(false_alarms=alarms, rows=period).split(detectors).split(features).alpha(window, 1)
    tests = detectors * features * (period // window)

    assert 0 < alpha <= LARGEST_ALPHA
    assert alpha * tests <= alarms * (1 + 1e-9)


@given(st.lists(st.integers(0, 86_400_000_000), max_size=50), st.floats(1e-3, 100))
def test_shares_of_time_add_up_to_the_budget(gaps: list[int], alarms: float) -> None:
    """Windows that close fast get little each, windows after a long pause more; a day's together at most a day's."""
    day = 86_400_000_000
    budget = Budget(false_alarms=alarms, period_us=day)
    spent = sum(budget.alpha(100, gap) for gap in gaps)

    assert spent <= alarms * (sum(gaps) + len(gaps)) / day * (1 + 1e-9)


def _monitor(budget: dict[str, Any]) -> dict[str, Any]:
    columns = [{"name": f"f{number}"} for number in range(5)]
    params = {"window": 100}
    parity = {"attribute": "g", "privileged": ["a"], "favourable": {"output": "score", "atLeast": 0.5}} | params
    return {
        "apiVersion": "sidelight.dev/v1alpha1", "kind": "InferenceMonitor", "metadata": {"name": "m"},
        "spec": {
            "inferenceService": "s", "reference": {"path": "r.parquet"}, "budget": budget,
            "features": [*columns, {"name": "g", "type": "categorical"}], "outputs": [{"name": "score"}],
            "detectors": [
                {"type": "ks", "params": params}, {"name": "few", "type": "ks", "features": ["f1"], "params": params},
                {"type": "chi-square", "params": params}, {"type": "prediction-drift", "params": params},
                {"type": "mahalanobis", "params": params}, {"type": "statistical-parity", "params": parity},
            ],
        },
    }  # fmt: skip


def _columns(generator: np.random.Generator, count: int) -> dict[str, Any]:
    numeric = {f"f{number}": generator.normal(size=count) for number in range(5)}
    return numeric | {"g": generator.choice(["a", "b"], count), "score": generator.random(count)}


@pytest.mark.parametrize(("budget", "allowed"), [("2000 observations", 0.5), ("20s", 0.5)])
def test_a_monitors_tests_spend_what_it_states(budget: str, allowed: float) -> None:
    """Built as in production: the alphas of all findings of a period, all detectors and features, are the budget."""
    document = _monitor({"falseAlarms": allowed, "per": budget})
    detectors = build(monitor_from_mapping(document, Path("/")), _columns(np.random.default_rng(1), 1_000))
    stream = rows(_columns(np.random.default_rng(2), 2_000))
    findings = [finding for detector in detectors.values() for finding in detector.observe(stream)]

    assert len(findings) == 20 * (5 + 1 + 1 + 1 + 1 + 1)
    # The first window's time begins with its first row and not with the end of one before: a hundredth of a window.
    assert sum(finding.alpha for finding in findings) == pytest.approx(allowed, rel=1e-3)
    assert sum(finding.alpha for finding in findings) <= allowed * (1 + 1e-9)


Drawn = Callable[[np.random.Generator, int], dict[str, Any]]
_PARITY = {"attribute": "g", "privileged": ["a"], "favourable": {"output": "y", "atLeast": 0.5}, "least": 10}


def _normal(generator: np.random.Generator, count: int) -> dict[str, Any]:
    return {"x": generator.normal(size=count)}


def _holes(generator: np.random.Generator, count: int) -> dict[str, Any]:
    return {"x": np.where(generator.random(count) < 0.2, np.nan, generator.exponential(size=count))}


def _whole(generator: np.random.Generator, count: int) -> dict[str, Any]:
    return {"x": generator.integers(0, 6, count).astype(float)}


def _categories(generator: np.random.Generator, count: int) -> dict[str, Any]:
    return {"c": generator.choice(list("abcdefgh"), count, p=[0.4, 0.25, 0.15, 0.1, 0.05, 0.03, 0.015, 0.005])}


def _many(generator: np.random.Generator, count: int) -> dict[str, Any]:
    return {"c": generator.zipf(1.5, count).astype(str)}


def _mixed(generator: np.random.Generator, count: int) -> dict[str, Any]:
    # As many names as there are rows in half a reference: a row's own name must not make it look more usual.
    return {"x": generator.standard_t(4, count), "c": generator.integers(0, 300, count).astype(str)}


def _groups(generator: np.random.Generator, count: int) -> dict[str, Any]:
    return {"g": generator.choice(["a", "b"], count, p=[0.8, 0.2]), "y": (generator.random(count) < 0.03).astype(float)}


@pytest.mark.parametrize(
    ("name", "draw", "window", "streams", "least", "params"),
    [
        ("ks", _normal, 40, 1_000, 0.4, {}),
        ("ks", _normal, 120, 1_000, 0.4, {}),
        ("ks", _holes, 120, 1_000, 0.2, {}),
        ("ks", _whole, 120, 1_000, 0.0, {}),
        ("chi-square", _categories, 200, 700, 0.1, {}),
        ("chi-square", _many, 200, 700, 0.1, {}),
        ("prediction-drift", _normal, 60, 1_000, 0.4, {}),
        ("mahalanobis", _mixed, 100, 500, 0.0, {"quantile": 0.95}),
        ("statistical-parity", _groups, 200, 1_000, 0.0, _PARITY | {"tolerance": 0.0}),
        ("statistical-parity", _groups, 200, 1_000, 0.0, _PARITY),
    ],
)
def test_measured_false_alarms_keep_to_their_share(
    name: str, draw: Drawn, window: int, streams: int, least: float, params: dict[str, Any]
) -> None:
    """Window after window with nothing wrong, each with a reference of its own: a binomial bound on the alarms.

    `least` is the part of the share that has to be used, for a detector that never alarms would pass otherwise.
    """
    found: Any = LIBRARY.find(name)
    alarms = tests = 0
    for seed in range(streams):
        generator = np.random.default_rng([seed, window])
        reference = draw(generator, 600)
        names = ("y",) if "y" in reference else ()
        detector = found(setup(reference, *names, alpha=ALPHA, window=window), window=window, **params)
        findings = detector.observe(rows(draw(generator, window)))
        # Each test has the alpha that its finding says; all are equal here.
        assert {round(finding.alpha, 9) for finding in findings} == {round(ALPHA / len(findings), 9)}
        tests += 1
        alarms += any(finding.alarm for finding in findings)

    assert tests == streams
    assert alarms <= stats.binom.isf(SELDOM, streams, ALPHA)
    assert alarms >= stats.binom.ppf(SELDOM, streams, ALPHA * least)


@pytest.mark.parametrize("alpha", [1e-2, 1e-3, 1e-4, 1e-5, 1e-6])
@pytest.mark.parametrize("expected", [1, 5, 8, 30])
def test_a_rare_category_stays_within_far_smaller_shares(expected: int, alpha: float) -> None:
    """Every count that a category may have in a window, weighted by its probability: no simulation reaches 1e-6.

    Pearson's chi-square alone alarms ten times too often here.
    """
    p_values = _p_values(expected)
    probabilities = stats.binom.pmf(np.arange(len(p_values)), 1_000, expected / 1_000)

    assert probabilities[p_values <= alpha].sum() <= alpha


@cache
def _p_values(expected: int) -> np.ndarray[Any, Any]:
    test = ChiSquare(np.repeat(["rare", "usual"], [expected * 100, 100_000 - expected * 100]), 1_000)
    window = np.full(1_000, "usual")
    found = []
    for count in range(90):
        window[:count] = "rare"
        found.append(test(window).p_value)
    return np.array(found)


@pytest.mark.parametrize("tolerance", [0.0, 0.1])
def test_parity_stays_within_far_smaller_shares(tolerance: float) -> None:
    """Every pair of counts of a small group and a large one, at the edge of what is tolerated: Newcombe alone fails."""
    small, large = 25, 100
    pairs = [(one, two) for one in range(small + 1) for two in range(large + 1)]
    for alpha in (1e-2, 1e-4, 1e-6):
        # What does not alarm at one alpha does not at a smaller one.
        pairs = [(one, two) for one, two in pairs if _outside(newcombe((one, small), (two, large), alpha), tolerance)]
        alarms = [(one, two) for one, two in pairs if beyond((one, small), (two, large), tolerance) <= alpha]
        ones, twos = np.array(alarms, int).reshape(-1, 2).T
        rates = [
            (stats.binom.pmf(ones, small, share) * stats.binom.pmf(twos, large, share + tolerance)).sum()
            for share in (0.001, 0.01, 0.03, 0.1, 0.3, 0.5, 0.7, 0.89)
        ]

        assert max(rates) <= alpha


def _outside(interval: tuple[float, float], tolerance: float) -> bool:
    return interval[0] > tolerance or interval[1] < -tolerance


@pytest.mark.parametrize(
    ("name", "shifted", "params", "needed"),
    [
        ("ks", {"x": 0.5}, {"window": 500}, 500),
        ("chi-square", {"c": 0.2}, {"window": 500}, 500),
        ("prediction-drift", {"score": 0.1}, {"window": 500}, 1_000),
        ("mahalanobis", {"far": 0.05}, {"window": 500}, 500),
        ("statistical-parity", {"bias": 0.4}, {"window": 500}, 500),
    ],
)
def test_a_planted_change_is_found_within_stated_rows(
    name: str, shifted: dict[str, float], params: dict[str, Any], needed: int
) -> None:
    """At one false alarm per million rows, in twenty streams of twenty: what was planted, in so many rows after it."""
    found: Any = LIBRARY.find(name)
    if name == "statistical-parity":
        params = params | {"attribute": "c", "privileged": ["a"], "favourable": {"output": "score", "atLeast": 0.5}}
    names = {"ks": ("x",), "chi-square": ("c",), "mahalanobis": ("x", "c")}.get(name, ("score",))
    for seed in range(20):
        generator = np.random.default_rng(seed)
        reference = _planted(generator, 3_000, {})
        budget = Budget(false_alarms=1, rows=1_000_000)
        detector = found(replace(setup(reference, *names), budget=budget), **params)
        before = detector.observe(rows(_planted(generator, 2_000, {})))
        after = detector.observe(rows(_planted(generator, 1_000, shifted), 2_000))
        delays = [finding.last["offset"] - 1_999 for finding in after if finding.alarm]

        assert not any(finding.alarm for finding in before)
        assert min(delays, default=9_999) <= needed


def _planted(generator: np.random.Generator, count: int, shifted: dict[str, float]) -> dict[str, Any]:
    get = shifted.get
    group = np.where(generator.random(count) < 0.5 + get("c", 0.0), "a", "b")
    x = generator.normal(get("x", 0.0), 1.0, count)
    x[generator.random(count) < get("far", 0.0)] += 8.0
    score = generator.random(count) + get("score", 0.0) - get("bias", 0.0) * (group == "b")
    return {"x": x, "c": group, "score": score}
