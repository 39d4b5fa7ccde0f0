"""What the repository holds and did, as Prometheus metrics of few lines, however many models there are."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from inference.metrics import OTHER
from inference.repository import Repository
from inference.residency import resident_bytes
from inference.weighing import LOAD_SECONDS

_MOST_MODELS: Final = 200


class Inventory(Collector):
    """Reads the repository when the page is asked for."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository

    def _held(self) -> dict[str, int]:
        """Give what models hold of a GPU, the largest first; beyond so many the rest together."""
        largest = sorted(self._repository.gpu_bytes().items(), key=lambda model: -model[1])
        rest = sum(size for _, size in largest[_MOST_MODELS:])
        return dict(largest[:_MOST_MODELS]) | ({OTHER: rest} if rest else {})

    def collect(self) -> Iterator[Metric]:
        """Give the metrics. Called by the registry."""
        counts = self._repository.counts
        loaded, weight = self._repository.resident
        models = GaugeMetricFamily("sidelight_models", "Models by name, and versions in memory.", labels=("state",))
        models.add_metric(("known",), len(self._repository.names()))
        models.add_metric(("loaded",), loaded)
        models.add_metric(("stuck",), self._repository.stuck)
        yield models
        yield GaugeMetricFamily("sidelight_models_weight_bytes", "What the loaded ones weigh, by estimate.", weight)
        yield GaugeMetricFamily("sidelight_resident_bytes", "The process's resident set.", resident_bytes())
        yield GaugeMetricFamily("sidelight_memory_bound_bytes", "Kept below it; 0: no bound.", self._repository.bound)
        _, on_device, device_bound = self._repository.on_device
        yield GaugeMetricFamily("sidelight_models_gpu_bytes", "What the loaded ones hold of a GPU's memory.", on_device)
        each = GaugeMetricFamily(
            "sidelight_model_gpu_bytes", "What a model holds of a GPU's memory.", labels=("model_name",)
        )
        for name, size in self._held().items():
            each.add_metric((name,), size)
        yield each
        yield GaugeMetricFamily("sidelight_gpu_memory_bound_bytes", "Kept below it; 0: no bound.", device_bound)
        yield CounterMetricFamily("sidelight_model_load_failures", "Loads that failed.", counts.failures)
        yield CounterMetricFamily("sidelight_model_evictions", "Models unloaded to make room.", counts.evictions)
        bounds = [*map(str, LOAD_SECONDS), "+Inf"]
        buckets = list(zip(bounds, map(float, accumulate(counts.buckets)), strict=True))
        yield HistogramMetricFamily("sidelight_model_load_seconds", "Loads that succeeded.", buckets, counts.seconds)
