"""The predictor's metrics page, part of which is written by hand."""

from __future__ import annotations

from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from inference.batching.call import Call
from inference.batching.terms import Terms
from inference.farewell import Farewells
from inference.folders import Loaded
from inference.lease import Lease
from inference.metrics import PredictorMetrics
from inference.residency import Shortage
from inference.statistics import Record
from tests.inference.halves import Halves


def _samples(page: bytes) -> list[tuple[str, tuple[tuple[str, str], ...], float]]:
    families = text_string_to_metric_families(page.decode())
    return sorted(
        (sample.name, tuple(sorted(sample.labels.items())), sample.value)
        for family in families
        for sample in family.samples
    )


def _used(models: int) -> PredictorMetrics:
    metrics = PredictorMetrics(lambda: 3.0)
    for number in range(models):
        call = Call(f'm"{number}\\', None, None, alone=None, terms=Terms(), timeout_s=1.0)
        call.lease = Lease("m", Loaded(Halves(), "1"), Shortage(), Record(), Farewells(1.0))
        call.started = call.arrived + 0.003 * number
        metrics.predicted([call], number)
        metrics.answered(call.model, "v2", 200, synthetic=False)
    metrics.failed("m", "InvalidInput")
    return metrics


def test_the_page_is_what_the_library_would_write() -> None:
    """Written by hand for speed, every sample is as the library has it, names with quotes included."""
    metrics = _used(5)

    assert _samples(metrics.page()) == _samples(generate_latest(metrics.registry))
    assert len(_samples(metrics.page())) > 5 * 7 * 10


def test_thousands_of_models_share_a_label() -> None:
    """The page stays of a size that can be read: models beyond the first 200 are one."""
    samples = _samples(_used(1000).page())
    models = {dict(labels).get("model_name") for _, labels, _ in samples}
    counts = {
        dict(labels)["model_name"]: value for name, labels, value in samples if name == "request_predict_seconds_count"
    }

    assert "other" in models
    assert len(counts) == 201
    assert (sum(counts.values()), counts["other"]) == (1000.0, 800.0)
