"""Kernel SHAP against closed forms, brute force, and the shap library."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from explainers.base import Background, Budget, Explanation, OutOfTime
from explainers.errors import InvalidRequest
from explainers.library.kernel_shap import KernelShap

Array = np.ndarray[Any, Any]
PLENTY = Budget(max_rows=10**7)


def background(rows: Array) -> Background:
    """Give rows equal weights."""
    names = tuple(f"f{at}" for at in range(rows.shape[1]))
    return Background(rows=rows, weights=np.full(len(rows), 1 / len(rows)), names=names)


def explain(
    model: Callable[[Array], Array], instance: Array, rows: Array, budget: Budget = PLENTY, seed: int = 0
) -> Explanation:
    """Explain one instance of a model."""

    def predict(table: Array) -> Array:
        return model(table).reshape(len(table), -1)

    return KernelShap().explain(instance, background(rows), predict, budget, np.random.default_rng(seed))


def brute_force(model: Callable[[Array], Array], instance: Array, rows: Array) -> Array:
    """Give Shapley values by averaging over every order of the features."""
    players = len(instance)

    def worth(known: tuple[int, ...]) -> float:
        table = rows.copy()
        table[:, list(known)] = instance[list(known)]
        return float(model(table).mean())

    values = np.zeros(players)
    for order in itertools.permutations(range(players)):
        for at, player in enumerate(order):
            values[player] += worth(order[: at + 1]) - worth(order[:at])
    return values / math.factorial(players)


def curved(table: Array) -> Array:
    """Give a model with interactions."""
    return table[:, 0] * table[:, 1] + np.sin(table[:, 2]) - table[:, 3] ** 2 * table[:, 0]  # type: ignore[no-any-return]


GENERATOR = np.random.default_rng(5)
ROWS = GENERATOR.normal(size=(12, 4))
INSTANCE = GENERATOR.normal(size=4)


def test_a_linear_model_has_a_closed_form() -> None:
    """For b + w.x the value of feature i is w_i (x_i - mean_i), to float error."""
    weights = np.array([2.0, -1.0, 0.5, 3.0])
    found = explain(lambda table: 7 + table @ weights, INSTANCE, ROWS)

    assert found.method == "exact"
    assert found.values[0] == pytest.approx(weights * (INSTANCE - ROWS.mean(axis=0)), abs=1e-12)


def test_exact_equals_brute_force() -> None:
    """With interactions, too, every coalition weighed as Shapley says."""
    found = explain(curved, INSTANCE, ROWS)

    assert found.values[0] == pytest.approx(brute_force(curved, INSTANCE, ROWS), abs=1e-12)


def test_exact_equals_the_shap_library() -> None:
    """`shap.KernelExplainer`, enumerating, finds the same values."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import shap  # noqa: PLC0415 - slow to import, and warns

        theirs = shap.KernelExplainer(curved, ROWS).shap_values(INSTANCE, nsamples=100, silent=True)

    assert explain(curved, INSTANCE, ROWS).values[0] == pytest.approx(theirs, abs=1e-8)


def test_sampling_converges_within_its_errors() -> None:
    """With 20 features, sampled values lie within a few standard errors of the closed form, and add up exactly."""
    weights = GENERATOR.normal(size=20)
    rows, instance = GENERATOR.normal(size=(10, 20)), GENERATOR.normal(size=20)

    def model(table: Array) -> Array:
        return np.tanh(table @ weights / 4)  # type: ignore[no-any-return]

    few = explain(model, instance, rows, Budget(max_rows=8_000))
    many = explain(model, instance, rows, Budget(max_rows=80_000), seed=1)
    away = np.abs(few.values - many.values) / np.sqrt(few.errors**2 + many.errors**2)

    assert few.method == "sampled"
    assert few.rows <= 8_000
    assert np.quantile(away, 0.9) < 4
    assert few.values.sum() == pytest.approx(float((few.prediction - few.base)[0]), abs=1e-9)


def test_a_deadline_gives_what_was_found() -> None:
    """When time runs out in the middle, the answer is partial, adds up, and says so."""
    rows, instance = GENERATOR.normal(size=(5, 20)), GENERATOR.normal(size=20)
    asked = itertools.count()

    def model(table: Array) -> Array:
        if next(asked) > 3:
            raise OutOfTime
        return table.sum(axis=1)  # type: ignore[no-any-return]

    found = explain(model, instance, rows, Budget(max_rows=50_000))

    assert found.partial
    assert found.values.sum() == pytest.approx(float((found.prediction - found.base)[0]))


def test_too_small_a_budget_is_refused() -> None:
    """A budget that cannot determine the values is an error that names the parameter, not a wrong answer."""
    with pytest.raises(InvalidRequest, match=r"parameters\.max_rows"):
        explain(curved_wide, np.ones(20), np.zeros((50, 20)), Budget(max_rows=200))


def curved_wide(table: Array) -> Array:
    """Give a model of many features."""
    return table.sum(axis=1)  # type: ignore[no-any-return]


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=25)
def test_the_axioms_hold(seed: int) -> None:
    """Local accuracy; a feature that does not matter gets nothing; features that act alike get alike."""
    generator = np.random.default_rng(seed)
    rows = generator.normal(size=(6, 5))
    rows[:, 1] = rows[:, 0]
    instance = generator.normal(size=5)
    instance[1] = instance[0]
    weights = generator.normal(size=3)

    def game(table: Array) -> Array:
        alike = table[:, 0] + table[:, 1]
        return alike * weights[0] + np.cos(table[:, 2] * weights[1]) * alike + weights[2] * table[:, 3]  # type: ignore[no-any-return]

    found = explain(game, instance, rows)

    assert found.values.sum() == pytest.approx(float((found.prediction - found.base)[0]), abs=1e-9)
    assert found.values[0, 4] == pytest.approx(0.0, abs=1e-12)
    assert found.values[0, 0] == pytest.approx(found.values[0, 1], abs=1e-9)


def test_the_same_seed_gives_the_same_bytes() -> None:
    """Nothing but the seed decides what a sampled explanation is."""
    rows, instance = GENERATOR.normal(size=(5, 18)), GENERATOR.normal(size=18)
    first, second = (explain(curved_wide, instance, rows, Budget(max_rows=5_000), seed=9) for _ in range(2))

    assert first.values.tobytes() == second.values.tobytes()


def test_text_columns_are_explained() -> None:
    """Rows may hold text; only the feature that the model reads gets a value."""
    rows = np.array([["red", 1.0], ["blue", 2.0]], dtype=object)
    instance = np.array(["red", 5.0], dtype=object)
    found = explain(lambda table: (table[:, 0] == "red").astype(float), instance, rows)

    assert found.values[0].tolist() == [0.5, 0.0]
