"""Our statistics against scipy, aif360 and alibi-detect on the same numbers."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from detectors.library.statistical_parity import newcombe
from detectors.two_sample import ChiSquare, KolmogorovSmirnov

REFERENCE = np.random.default_rng(0).normal(size=3_000)
WINDOW = np.random.default_rng(1).normal(0.15, 1.0, 400)


def test_ks_equals_scipys() -> None:
    """Statistic and asymptotic p-value are those of `scipy.stats.ks_2samp`."""
    ours = KolmogorovSmirnov(REFERENCE)(WINDOW)
    theirs = stats.ks_2samp(REFERENCE, WINDOW, method="asymp")

    assert ours.statistic == pytest.approx(theirs.statistic, rel=1e-12)
    assert ours.p_value == pytest.approx(theirs.pvalue, rel=1e-9)


def test_chi_square_is_scipys() -> None:
    """With no rare category the statistic is the plain contingency table's, and the p-value hardly above its."""
    generator = np.random.default_rng(2)
    reference = generator.choice(["a", "b", "c"], 3_000, p=[0.5, 0.3, 0.2])
    window = generator.choice(["a", "b", "c"], 400, p=[0.4, 0.35, 0.25])
    table = [[(part == name).sum() for name in "abc"] for part in (reference, window)]
    expected = stats.chi2_contingency(table, correction=False)
    ours = ChiSquare(reference, 400)(window)

    # A tenth of the error is kept for categories never seen; the larger of two p-values is taken.
    assert ours.statistic == pytest.approx(expected.statistic)
    assert ours.p_value == pytest.approx(expected.pvalue / 0.9, rel=0.1)
    assert ours.p_value >= expected.pvalue / 0.9


def test_drift_agrees_with_alibi_detect() -> None:
    """The optional plug-in's library gives the same statistics on the same window, and p-values close to ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from alibi_detect.cd import ChiSquareDrift, KSDrift  # noqa: PLC0415 - warns when imported, and takes seconds

        ks = KSDrift(REFERENCE[:, None], alternative="two-sided").predict(WINDOW[:, None], return_p_val=True)
        generator = np.random.default_rng(3)
        codes = generator.integers(0, 3, 3_000)
        later = generator.choice(3, 400, p=[0.4, 0.3, 0.3])
        chi = ChiSquareDrift(codes[:, None]).predict(later[:, None], return_p_val=True)

    # Theirs is exact where it can be, ours asymptotic: they differ by a few per cent at this size.
    assert KolmogorovSmirnov(REFERENCE)(WINDOW).p_value == pytest.approx(ks["data"]["p_val"][0], rel=0.05)
    ours = ChiSquare(codes.astype(str), 400)(later.astype(str))
    assert ours.statistic == pytest.approx(chi["data"]["distance"][0], rel=1e-5)
    assert ours.p_value == pytest.approx(chi["data"]["p_val"][0] / 0.9, rel=0.1)


def test_parity_equals_aif360s() -> None:
    """Difference and ratio of favourable rates are AIF360's statistical parity difference and disparate impact."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from aif360.datasets import BinaryLabelDataset  # noqa: PLC0415 - warns when imported
        from aif360.metrics import BinaryLabelDatasetMetric  # noqa: PLC0415 - likewise

        generator = np.random.default_rng(4)
        group = generator.integers(0, 2, 1_000).astype(float)
        label = (generator.random(1_000) < np.where(group == 1, 0.5, 0.35)).astype(float)
        frame = pd.DataFrame({"g": group, "y": label})
        dataset = BinaryLabelDataset(df=frame, label_names=["y"], protected_attribute_names=["g"])
        metric = BinaryLabelDatasetMetric(dataset, unprivileged_groups=[{"g": 0}], privileged_groups=[{"g": 1}])
        difference, ratio = metric.statistical_parity_difference(), metric.disparate_impact()

    rates = [label[group == value].mean() for value in (0, 1)]
    assert difference == pytest.approx(rates[0] - rates[1])
    assert ratio == pytest.approx(rates[0] / rates[1])


def test_newcombes_interval_is_his() -> None:
    """Newcombe 1998, table II, example (a): 56/70 against 48/80, method 10: 0.0524 to 0.3339."""
    low, high = newcombe((56, 70), (48, 80), 0.05)

    assert low == pytest.approx(0.0524, abs=5e-5)
    assert high == pytest.approx(0.3339, abs=5e-5)
