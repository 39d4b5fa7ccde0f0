"""Drift of a model's answers: the same tests as on features, whatever kind the outputs are."""

from __future__ import annotations

import numpy as np
import pytest

from detectors.library.chi_square import ChiSquareDrift
from detectors.library.ks import Ks
from detectors.library.prediction_drift import PredictionDrift
from tests.detectors.made import alarms, rows, setup

GENERATOR = np.random.default_rng(1)
REFERENCE = {"score": GENERATOR.beta(2, 5, 2_000), "label": GENERATOR.choice(["no", "yes"], 2_000, p=[0.7, 0.3])}
ALARMS = [1249, 1499, 1749, 1999]
STATISTIC = 0.23
"""Of the golden run: offset of the last row of each alarming window, and a number that it computes."""


def test_golden_run() -> None:
    """Scores that move from row 1000 on: the windows that end at these rows alarm, and no other."""
    generator = np.random.default_rng(7)
    scores = np.concatenate([generator.beta(2, 5, 1_000), generator.beta(3, 5, 1_000)])
    detector = PredictionDrift(setup(REFERENCE, "score", alpha=1e-4, window=250), window=250)
    found = detector.observe(rows({"score": scores}))

    assert alarms(found) == ALARMS
    assert found[4].statistic == pytest.approx(STATISTIC, abs=1e-6)


def test_each_kind_of_output_has_its_test() -> None:
    """Scores as KS, labels as chi-square, each with half of the share; only the messages speak of outputs."""
    generator = np.random.default_rng(2)
    window = {"score": generator.random(200), "label": np.resize(["no", "yes"], 200)}
    both = PredictionDrift(setup(REFERENCE, window=200), window=200).observe(rows(window))
    single = [
        found(setup(REFERENCE, name, window=200), window=200).observe(rows(window))[0]
        for found, name in ((Ks, "score"), (ChiSquareDrift, "label"))
    ]

    assert [(item.key, item.statistic, item.p_value) for item in both] == [
        (item.key, item.statistic, item.p_value) for item in single
    ]
    assert [item.alpha * 2 for item in both] == [item.alpha for item in single]
    assert [item.message.partition(" ")[0] for item in (*both, *single)] == ["output", "output", "feature", "feature"]


def test_a_model_that_answers_nothing_or_always_the_same_is_found() -> None:
    """NaN for every score, one score for all, one label for all, infinities: each is a change."""
    for window in (
        {"score": np.full(200, np.nan), "label": REFERENCE["label"][:200]},
        {"score": np.full(200, 0.28), "label": REFERENCE["label"][:200]},
        {"score": np.full(200, np.inf), "label": REFERENCE["label"][:200]},
        {"score": REFERENCE["score"][:200], "label": np.full(200, "no")},
        {"score": REFERENCE["score"][:200], "label": np.full(200, "")},
    ):
        found = PredictionDrift(setup(REFERENCE, alpha=1e-5, window=200), window=200).observe(rows(window))

        assert sum(item.alarm for item in found) == 1
