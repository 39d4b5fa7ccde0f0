"""The predictor's Prometheus metrics: KServe's histograms under their own names, and counters of ours.

Labels come from closed sets: a name that no model carries is counted as `unknown`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from functools import lru_cache
from typing import TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

M = TypeVar("M", Counter, Histogram)


class Step(StrEnum):
    """The timed steps of a request, by KServe's names."""

    PREPROCESS = "preprocess"
    """Decoding the body."""
    PREDICT = "predict"
    POSTPROCESS = "postprocess"
    """Encoding the answer."""


class PredictorMetrics:
    """One process's metrics. Thread-safe."""

    def __init__(self, in_progress: Callable[[], float]) -> None:
        self._registry = CollectorRegistry()
        self._steps = {
            step: Histogram(
                f"request_{step}_seconds", f"{step} request latency", ("model_name",),
                registry=self._registry, buckets=_SECONDS,
            )
            for step in Step
        }  # fmt: skip
        self._requests = Counter(
            "sidelight_predictor_requests", "Inference requests answered, by HTTP status.",
            ("model_name", "protocol", "status", "synthetic"), registry=self._registry,
        )  # fmt: skip
        self._errors = Counter(
            "sidelight_predictor_errors", "Inference requests refused or failed, by kind of error.",
            ("model_name", "error"), registry=self._registry,
        )  # fmt: skip
        self._rows = Counter(
            "sidelight_predictor_rows", "Rows predicted.", ("model_name", "protocol"), registry=self._registry
        )
        gauge = Gauge("sidelight_predictor_in_progress", "Calls that run or wait.", registry=self._registry)
        gauge.set_function(in_progress)
        # The library looks labels up under a lock and by text; there are few of them, so each is looked up once.
        self._child = lru_cache(maxsize=None)(_labelled)

    @contextmanager
    def timed(self, step: Step, model: str) -> Iterator[None]:
        """Time one step of a request."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._child(self._steps[step], model).observe(time.perf_counter() - start)

    def answered(self, model: str, protocol: str, status: int, *, synthetic: bool) -> None:
        """Count an answer."""
        self._child(self._requests, model, protocol, str(status), "true" if synthetic else "false").inc()

    def failed(self, model: str, error: str) -> None:
        """Count an error by its class."""
        self._child(self._errors, model, error).inc()

    def predicted(self, model: str, protocol: str, rows: int) -> None:
        """Count predicted rows."""
        self._child(self._rows, model, protocol).inc(rows)

    def page(self) -> bytes:
        """Write the page in Prometheus' text format."""
        return generate_latest(self._registry)


def _labelled(metric: M, *labels: str) -> M:
    return metric.labels(*labels)
