"""Our kernel SHAP against shap's KernelExplainer: same model, same background, same rows allowed.

The error is the largest distance from exact Shapley values, in percent of the largest value, over all explained
instances. CPU time is without the model's, which is the same for both per row and is shown beside.

python benchmarks/bench_explainers.py [INSTANCES]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from explainers.base import Background, Budget
from explainers.library.kernel_shap import KernelShap

Array = np.ndarray[Any, Any]
BACKGROUND = 50
SIZES = ((8, 20_000), (12, 20_000), (12, 250_000), (30, 50_000))
EXACT_UP_TO = 12


@dataclass(slots=True)
class Counted:
    """A model with interactions that counts its rows and its own CPU time."""

    width: int
    rows: int = 0
    seconds: float = 0.0

    def __call__(self, table: Array) -> Array:
        """Give scores (n,) for rows (n, width)."""
        began = time.process_time()
        weights = np.linspace(-1, 2, self.width)
        scores = np.tanh(table @ weights / 3) + table[:, 0] * table[:, 1] - np.maximum(table[:, 2], table[:, 3]) ** 2
        self.rows += len(table)
        self.seconds += time.process_time() - began
        return scores  # type: ignore[no-any-return]


def ours(model: Counted, rows: Array, instance: Array, allowed: int, seed: int) -> Array:
    """Give our values."""
    names = tuple(map(str, range(rows.shape[1])))
    background = Background(rows=rows, weights=np.full(len(rows), 1 / len(rows)), names=names)
    generator = np.random.default_rng(seed)
    found = KernelShap().explain(
        instance, background, lambda table: model(table)[:, None], Budget(max_rows=allowed), generator
    )
    return found.values[0]


def theirs(model: Counted, rows: Array, instance: Array, allowed: int, seed: int) -> Array:
    """Give the values of shap's KernelExplainer."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import shap  # noqa: PLC0415 - it warns while it loads

        np.random.seed(seed)  # noqa: NPY002 - the library draws from the global generator
        explainer = shap.KernelExplainer(model, rows)
        found = explainer.shap_values(instance, nsamples=allowed // len(rows), l1_reg=False, silent=True)
    return np.asarray(found).reshape(-1)


def measure(
    explain: Callable[..., Array], rows: Array, instances: Array, allowed: int, truth: list[Array] | None
) -> tuple[float, float, float, list[Array]]:
    """Give CPU ms and rows per instance, the error in percent, and the values."""
    model = Counted(rows.shape[1])
    began = time.process_time()
    values = [explain(model, rows, instance, allowed, seed) for seed, instance in enumerate(instances)]
    spent = time.process_time() - began - model.seconds
    error = float("nan")
    if truth is not None:
        error = max(
            float(np.abs(found - exact).max() / np.abs(exact).max()) for found, exact in zip(values, truth, strict=True)
        )
    return spent / len(instances) * 1e3, model.rows / len(instances), 100 * error, values


def spread(explain: Callable[..., Array], rows: Array, instance: Array, allowed: int) -> float:
    """Give the standard deviation over seeds, in percent of the largest value: where exact values cost too much."""
    values = np.array([explain(Counted(rows.shape[1]), rows, instance, allowed, seed) for seed in range(5)])
    return float(100 * values.std(axis=0, ddof=1).max() / np.abs(values.mean(axis=0)).max())


def main() -> int:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("instances", nargs="?", type=int, default=10, help="how many (default: %(default)s)")
    count = parser.parse_args().instances
    # Loading the library is not to be measured.
    theirs(Counted(4), np.zeros((2, 4)), np.ones(4), 100, 0)
    print(f"{count} instances, {BACKGROUND} background rows; per instance; CPU without the model's own")
    print(f"{'':<33}{'allowed':>9}{'rows':>9}{'CPU ms':>9}{'error %':>9}{'spread %':>10}{'CPU ratio':>11}")
    for width, allowed in SIZES:
        generator = np.random.default_rng(width)
        rows, instances = generator.normal(size=(BACKGROUND, width)), generator.normal(size=(count, width))
        truth = None
        if width <= EXACT_UP_TO:
            truth = measure(ours, rows, instances, 2**width * BACKGROUND, None)[3]
        costs = []
        for name, explain in (("shap.KernelExplainer", theirs), ("ours", ours)):
            cost, used, error, _ = measure(explain, rows, instances, allowed, truth)
            costs.append(cost)
            wobble = statistics.fmean(spread(explain, rows, instance, allowed) for instance in instances[:3])
            label = f"{name}, {width} features"
            figures = f"{allowed:>9,}{used:>9,.0f}{cost:>9.1f}{error:>9.2f}{wobble:>10.2f}{cost / costs[0]:>10.2f}x"
            print(f"{label:<33}{figures}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
