"""Traces of requests that are joined in one call, as an OTLP receiver gets them."""

from __future__ import annotations

from pathlib import Path

import pytest

from inference.dataplane import DataPlane
from inference.kafka.plane import PlaneModels
from inference.kafka.settings import StreamSettings
from inference.kafka.stage import InferenceStage
from inference.metrics import PredictorMetrics
from inference.repository import Loaded, Repository
from inference.runtime import Source
from inference.tracing import Tracing
from streams.stage import Batch, Output, Record
from tests.inference.kafka import asking
from tests.inference.kafka.summing import Summing
from tests.receiver import receiving

SETTINGS = StreamSettings(responses="answers", deadletter="dead", model="m")
CONSUMER = 5


def test_every_joined_request_has_a_span_in_its_own_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first has the computation below it; those of the others name that span by a link."""
    traces = {letter: letter * 32 for letter in "abc"}
    asked = [_traced(f"c{letter}", f"00-{trace}-{'1' * 16}-01") for letter, trace in traces.items()]
    asked.insert(1, asking.request("requests", "bare-v1", [[1.0, 2.5]], "plain", b"k"))
    repository = Repository({"m": lambda: Loaded(Summing.load(Source(path=tmp_path)), "3")})
    repository.load("m")
    plane = DataPlane(repository, PredictorMetrics(lambda: 0.0))
    with receiving() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        plane.tracing = Tracing()
        InferenceStage(0, SETTINGS, PlaneModels(plane, repository)).process(Batch(0, _laid(asked)))
        plane.close()
        repository.close()
    calls = {span.trace_id.hex(): span for span in receiver.spans if span.name == "infer m"}
    first = calls[traces["a"]]

    assert calls.keys() == set(traces.values())
    assert {(span.parent_span_id.hex(), span.kind) for span in calls.values()} == {("1" * 16, CONSUMER)}
    below = [span for span in receiver.spans if span.name == "compute"]
    assert [span.parent_span_id for span in below] == [first.span_id]
    assert not first.links
    for letter in "bc":
        (link,) = calls[traces[letter]].links

        assert (link.trace_id, link.span_id) == (first.trace_id, first.span_id)


def _traced(correlation: str, told: str) -> Output:
    plain = asking.request("requests", "bare-v1", [[1.0, 2.5]], correlation, b"k")
    return plain._replace(headers=(*plain.headers, ("traceparent", told.encode())))


def _laid(asked: list[Output]) -> tuple[Record, ...]:
    return tuple(
        Record("requests", 0, place, output.key, output.value, output.headers, 1_760_000_000_500)
        for place, output in enumerate(asked)
    )
