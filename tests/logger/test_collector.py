"""The collector over a real socket: a 2xx means that the broker has it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx
import pytest
import uvicorn

from logger.collector import Collector, CollectorSettings
from streams.bindings import from_kafka, to_http_batch
from streams.errors import Unavailable
from streams.publishers.memory import MemoryLog, MemoryPublisher
from tests.streams.payloads import event

AGENT = {
    "ce-id": "36a54b7d", "ce-source": "http://localhost:9081/", "ce-specversion": "1.0", "ce-endpoint": "",
    "ce-type": "org.kubeflow.serving.inference.request", "ce-time": "2026-08-05T10:11:12.123456789Z",
    "ce-inferenceservicename": "iris", "ce-namespace": "default", "ce-metadata": "{}",
    "content-type": "application/json",
}  # fmt: skip
BODY = b'{"instances": [[1.0,   2]]}\n'


@dataclass
class Bench:
    """A collector, the topics behind it, and a client."""

    log: MemoryLog
    publisher: MemoryPublisher
    client: httpx.Client


@contextmanager
def serving(delivery_s: float) -> Iterator[Bench]:
    """Serve a collector over a memory broker, which has so much time for an event."""
    log = MemoryLog({"p": 2, "d": 1})
    publisher = MemoryPublisher(log)
    settings = CollectorSettings(topic="p", deadletter="d", max_body=10_000, max_events=5, delivery_s=delivery_s)
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(Collector(settings, publisher).app, log_config=None))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    with httpx.Client(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=30) as client:
        try:
            yield Bench(log, publisher, client)
        finally:
            server.should_exit = True
            thread.join()
            listener.close()


@pytest.fixture
def bench() -> Iterator[Bench]:
    """Serve a collector whose broker has all the time it needs."""
    with serving(60.0) as found:
        yield found


def test_an_agents_event_arrives_byte_for_byte(bench: Bench) -> None:
    """What an unmodified KServe agent posts is on the payload topic, keyed by its correlation, body untouched."""
    answer = bench.client.post("/", content=BODY, headers=AGENT)
    (record,) = bench.log.records("p")

    assert answer.status_code == 202
    assert record.key == b"36a54b7d"
    assert record.value == BODY
    assert from_kafka(record.headers, record.value).service() == "default/iris"


def test_a_batch_arrives_whole(bench: Bench) -> None:
    """Every event of a batch is a record of its own; request and response of one call share a partition."""
    headers, body = to_http_batch([event("a", "request"), event("a", "response")])
    answer = bench.client.post("/any/path", content=body, headers=dict(headers))
    records = bench.log.records("p")

    assert answer.status_code == 202
    assert len(records) == 2
    assert len({record.partition for record in records}) == 1


@pytest.mark.parametrize("trouble", ["held", "fail"])
def test_no_2xx_without_the_broker(trouble: str) -> None:
    """Silent or failing, the broker does not have it: 503, and the sender is told to come again; then it works."""
    with serving(1.5) as bench:
        if trouble == "held":
            bench.publisher.held = True
        else:
            bench.publisher.fail = Unavailable("away")
        answer = bench.client.post("/", content=BODY, headers=AGENT)
        bench.publisher.held, bench.publisher.fail = False, None
        again = bench.client.post("/", content=BODY, headers=AGENT)

    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "2"
    assert again.status_code == 202


@pytest.mark.parametrize(
    ("headers", "body", "reason"),
    [
        ({"content-type": "application/json"}, b"{}", "not-a-cloudevent"),
        ({"content-type": "application/cloudevents+json"}, b"{broken", "malformed-json"),
        ({name: value for name, value in AGENT.items() if name != "ce-id"}, BODY, "missing-attribute"),
    ],
)
def test_what_is_no_event_is_kept_and_named(bench: Bench, headers: dict[str, str], body: bytes, reason: str) -> None:
    """The sender hears what was wrong, and the original bytes are on the dead-letter topic with the reason."""
    answer = bench.client.post("/", content=body, headers=headers)
    (letter,) = bench.log.records("d")

    assert answer.status_code == 400
    assert answer.json()["error"].startswith(reason)
    assert letter.value == body
    assert dict(letter.headers)["sl_reason"] == reason.encode()
    assert bench.log.records("p") == []


def test_limits_have_their_statuses(bench: Bench) -> None:
    """Too large is 413, an unknown event format is 415; neither is a dead letter."""
    large = bench.client.post("/", content=b"x" * 20_000, headers=AGENT)
    avro = bench.client.post("/", content=b"x", headers={"content-type": "application/cloudevents+avro"})

    assert (large.status_code, avro.status_code) == (413, 415)
    assert bench.log.records("d") == []
