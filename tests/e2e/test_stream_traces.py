"""Traces of requests over Kafka, as an OTLP receiver gets them from a real worker."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from streams.publishers.confluent import ConfluentPublisher, PublisherSettings
from streams.publishing import publish_all
from streams.stage import Output
from streams.topics import Topics
from tests.e2e.test_stream import Client, workers
from tests.inference.kafka import asking
from tests.inference.serving import eventually
from tests.inference.test_tracing import PARENT, TRACE
from tests.receiver import Receiver, receiving

pytestmark = [pytest.mark.kafka, pytest.mark.e2e]

CONSUMER = 5


@pytest.fixture(name="receiver")
def _receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


def test_traces_go_on_through_kafka(
    kafka: str, topics: Topics, receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request's trace is continued by the prediction, with its computation below, and named by the answer."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    told = f"00-{TRACE}-{PARENT}-01"
    plain = asking.request(topics.requests, "v1", [[1.0, 2.0]], "c1", b"k")
    asked = Output(plain.topic, plain.key, plain.value, (*plain.headers, ("traceparent", told.encode())))
    client = Client(kafka, topics)
    publisher = ConfluentPublisher(PublisherSettings(bootstrap=kafka, client_id="asking"))
    publish_all(publisher, [asked], timeout_s=30.0)
    publisher.close()
    client.asked = {"c1": (0, 3.0)}
    with workers(kafka, topics, tmp_path, 1):
        client.await_all()
        eventually(lambda: len(receiver.spans) == 3, "three spans")
    client.close()

    call, queue, compute = (
        {span.name: span for span in receiver.spans}[name] for name in ("infer m", "queue", "compute")
    )
    assert (call.trace_id.hex(), call.parent_span_id.hex(), call.kind) == (TRACE, PARENT, CONSUMER)
    assert queue.parent_span_id == compute.parent_span_id == call.span_id
    assert client.answers[0].event.text("traceparent") == told
