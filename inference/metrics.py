"""The predictor's Prometheus metrics: KServe's histograms under their own names, and metrics of ours.

Labels come from closed sets: a name that no model carries is counted as `unknown`, and beyond the first 200 models
the rest share the label `other`, because each model's histograms are a hundred lines of the page.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any, Final, TypeAlias

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from inference.batching.call import Call

_SECONDS: Final = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip
_SIZES: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0)
_MOST_MODELS: Final = 200
OTHER: Final = "other"

_HISTOGRAMS: Final = {
    "request_preprocess_seconds": ("Decoding the body.", _SECONDS),
    "request_predict_seconds": ("The model's own time; joined calls share it.", _SECONDS),
    "request_postprocess_seconds": ("Encoding the answer.", _SECONDS),
    "sidelight_predictor_queue_seconds": ("From a call's arrival to a thread.", _SECONDS),
    "sidelight_predictor_batch_rows": ("Rows that were predicted on at once.", _SIZES),
    "sidelight_predictor_batch_calls": ("Calls that were predicted on at once.", _SIZES),
    "sidelight_predictor_compute_seconds": ("A batch's prediction.", _SECONDS),
}


Told: TypeAlias = tuple[list[tuple[str, float]], float]
_ESCAPES: Final = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n"})


class _Histogram:
    """Observations in buckets. Guarded by the lock of the metrics: the library's own takes one for each observation."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def told(self) -> Told:
        """Give cumulative buckets by their upper bounds, and the sum."""
        bounds = [*map(str, self._bounds), "+Inf"]
        return list(zip(bounds, map(float, accumulate(self._counts)), strict=True)), self._sum


class _Model:
    """What is known of one model."""

    __slots__ = ("batch_calls", "batch_rows", "compute", "histograms", "postprocess", "predict", "preprocess", "queue")

    def __init__(self) -> None:
        self.histograms = {name: _Histogram(bounds) for name, (_, bounds) in _HISTOGRAMS.items()}
        (
            self.preprocess, self.predict, self.postprocess, self.queue,
            self.batch_rows, self.batch_calls, self.compute,
        ) = self.histograms.values()  # fmt: skip


class PredictorMetrics(Collector):
    """One process's metrics. Thread-safe."""

    def __init__(self, in_progress: Callable[[], float]) -> None:
        self._registry = CollectorRegistry()
        self._lock = threading.Lock()
        self._apart = threading.local()
        self._models: dict[str, _Model] = {}
        self._rows: defaultdict[tuple[str, str], int] = defaultdict(int)
        self._requests: defaultdict[tuple[str, str, str, str], int] = defaultdict(int)
        self._errors = Counter(
            "sidelight_predictor_errors", "Inference requests refused or failed, by kind of error.",
            ("model_name", "error"), registry=self._registry,
        )  # fmt: skip
        self._shadows = Counter(
            "sidelight_predictor_shadow_errors", "Copies of requests that a shadow version failed on.",
            ("model_name", "version", "error"), registry=self._registry,
        )  # fmt: skip
        self._pieces = Counter(
            "sidelight_predictor_text_pieces", "Pieces of generated text, for most models tokens.",
            ("model_name",), registry=self._registry,
        )  # fmt: skip
        gauge = Gauge("sidelight_predictor_in_progress", "Calls that run or wait.", registry=self._registry)
        gauge.set_function(in_progress)
        self._registry.register(self)

    @property
    def registry(self) -> CollectorRegistry:
        """The registry, for what others have to show on the same page."""
        return self._registry

    def predicted(self, calls: Sequence[Call], rows: int) -> None:
        """Take note of calls that were predicted on together: the batcher's observer."""
        first = calls[0]
        lease = first.lease
        assert lease is not None  # noqa: S101 - it was predicted on with it
        with self._lock:
            label = self._label(first.model)
            model = self._labelled(label)
            model.batch_rows.observe(rows)
            model.batch_calls.observe(len(calls))
            model.compute.observe(first.compute_s)
            batches = lease.record.take(first.computed, rows, len(calls), first.compute_s)
            for call in calls:
                queued = call.started - call.arrived
                model.queue.observe(queued)
                model.preprocess.observe(call.decode_s)
                model.predict.observe(call.compute_s)
                model.postprocess.observe(call.finish_s)
                if call.error is None:
                    batches.queue_s += queued
                    batches.decode_s += call.decode_s
                    batches.finish_s += call.finish_s
                else:
                    batches.calls -= 1
                    batches.calls_s -= call.compute_s
                    lease.record.fail(time.monotonic() - call.arrived)
                self._rows[label, call.terms.protocol] += call.rows or rows

    def unread(self, call: Call) -> None:
        """Take note of a call that could not be decoded: the batcher's observer, too."""
        with self._lock:
            self._labelled(self._label(call.model)).preprocess.observe(call.decode_s)
            _failed(call)

    def spoilt(self, call: Call) -> None:
        """Take note of a call that its model did not answer, of whichever reason: the same."""
        with self._lock:
            _failed(call)

    def served(self, call: Call, seconds: float) -> None:
        """Take note of a text or an explanation, for which a call has the model for itself: the same."""
        if call.lease is not None:
            with self._lock:
                call.lease.record.take(time.monotonic(), 1, 1, seconds).queue_s += call.started - call.arrived

    def answered(self, model: str, protocol: str, status: int, *, synthetic: bool) -> None:
        """Count an answer."""
        with self._lock:
            self._requests[self._label(model), protocol, str(status), "true" if synthetic else "false"] += 1

    def failed(self, model: str, error: str) -> None:
        """Count an error by its class."""
        with self._lock:
            label = self._label(model)
        self._errors.labels(label, error).inc()

    def shadow_failed(self, model: str, version: str, error: str) -> None:
        """Count a copy of a request that failed."""
        with self._lock:
            label = self._label(model)
        self._shadows.labels(label, version, error).inc()

    def generated(self, model: str) -> None:
        """Count a piece of text that a model made: for most models a token."""
        with self._lock:
            label = self._label(model)
        self._pieces.labels(label).inc()

    def page(self) -> bytes:
        """Write the page in Prometheus' text format; the histograms by hand: the library takes 0.7 ms for a model's."""
        self._apart.histograms = True
        try:
            page = generate_latest(self._registry)
        finally:
            self._apart.histograms = False
        return page + "".join(_lines(self._told())).encode()

    def collect(self) -> Iterator[Metric]:
        """Give what is counted here rather than by the library. Called by the registry."""
        with self._lock:
            rows, requests = dict(self._rows), dict(self._requests)
        apart = getattr(self._apart, "histograms", False)
        models = {} if apart else self._told()
        for key, (text, _) in ({} if apart else _HISTOGRAMS).items():
            family = HistogramMetricFamily(key, text, labels=("model_name",))
            for name, told in models.items():
                family.add_metric((name,), *told[key])
            yield family
        yield _counter("sidelight_predictor_rows", "Rows predicted.", ("model_name", "protocol"), rows)
        yield _counter(
            "sidelight_predictor_requests", "Inference requests answered, by HTTP status.",
            ("model_name", "protocol", "status", "synthetic"), requests,
        )  # fmt: skip

    def _told(self) -> dict[str, dict[str, Told]]:
        with self._lock:
            return {
                name: {key: kept.told() for key, kept in model.histograms.items()}
                for name, model in self._models.items()
            }

    def _labelled(self, label: str) -> _Model:
        model = self._models.get(label)
        if model is None:
            model = self._models[label] = _Model()
        return model

    def _label(self, name: str) -> str:
        return name if name in self._models or len(self._models) < _MOST_MODELS else OTHER


def _failed(call: Call) -> None:
    if call.lease is not None:
        call.lease.record.fail(time.monotonic() - call.arrived)


def _lines(models: Mapping[str, Mapping[str, Told]]) -> Iterator[str]:
    labels = {name: name.translate(_ESCAPES) for name in models}
    for key, (text, _) in _HISTOGRAMS.items():
        yield f"# HELP {key} {text}\n# TYPE {key} histogram\n"
        for name, told in models.items():
            label = f'model_name="{labels[name]}"'
            buckets, total = told[key]
            for bound, count in buckets:
                yield f'{key}_bucket{{{label},le="{bound}"}} {count}\n'
            yield f"{key}_count{{{label}}} {buckets[-1][1]}\n{key}_sum{{{label}}} {total}\n"


def _counter(name: str, text: str, labels: tuple[str, ...], counts: Mapping[Any, int]) -> CounterMetricFamily:
    family = CounterMetricFamily(name, text, labels=labels)
    for values, count in counts.items():
        family.add_metric(values, count)
    return family
