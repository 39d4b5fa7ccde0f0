"""Shadow versions of a model that answers over Kafka: their answers and failures are events beside the users' own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, TopicPartition
from numpy.typing import NDArray

from inference.runtime import Arrays
from streams.bindings import from_kafka
from streams.events import Event
from streams.publishers.confluent import ConfluentPublisher, PublisherSettings
from streams.publishing import publish_all
from streams.topics import Topics
from tests.e2e.killing import Worker
from tests.inference.kafka import asking
from tests.inference.serving import eventually
from tests.inference.shelves import Answering, write

pytestmark = [pytest.mark.kafka, pytest.mark.e2e]

CALLS = 5
FAILING = "tests.e2e.test_stream_shadows:Failing"


class Failing(Answering):
    """Answers with its number, unless that is below nought."""

    def predict(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Answer, or fail as a model with a fault does."""
        if self.number < 0:
            raise ArithmeticError("below nought")
        return super().predict(inputs)


def test_shadows_of_a_stream_leave_events(kafka: str, topics: Topics, tmp_path: Path) -> None:
    """Each request has an exchange with every version: the user's, the shadow's, and that of the shadow that fails."""
    folder = tmp_path / "m"
    for number, answer in (("1", 1.0), ("2", 2.0), ("3", -1.0)):
        write(folder / number, answer)
    (folder / "rollout.yaml").write_text("{stable: 1, shadows: [{version: 2}, {version: 3}]}")
    publisher = ConfluentPublisher(PublisherSettings(bootstrap=kafka, client_id="asking"))
    words = (
        "stream", "--model_name", "m", "--model_dir", str(folder), "--runtime", FAILING, "--kafka", kafka,
        "--prefix", topics.prefix, "--log_payloads", "--partitions", "1",
    )  # fmt: skip
    worker = Worker(words, tmp_path / "stream.log")
    try:
        eventually(worker.at_work, "its partition")
        asked = [
            asking.request(topics.requests, "bare-v1", [[1.0]], f"c{number}", b"k", **{"x-sidelight-synthetic": "true"})
            if number == 0
            else asking.request(topics.requests, "v2-binary", [[1.0], [2.0]], f"c{number}", b"k")
            for number in range(CALLS)
        ]
        publish_all(publisher, asked, 30.0)
        events = _events(kafka, topics.payloads, 6 * CALLS)
        worker.stop()
    finally:
        worker.end()
        publisher.close()
    answers = [event for event in events if event.type.endswith("response")]
    by = {
        name: {event.correlation(): event.text("statuscode") for event in answers if event.observed_as() == name}
        for name in {event.observed_as() for event in answers}
    }
    second = [event for event in answers if event.text("modelversion") == "2"]
    third = [event for event in answers if event.text("modelversion") == "3"]
    calls = [f"c{number}" for number in range(CALLS)]

    assert by["default/m"] == dict.fromkeys(calls, "200")
    assert sorted(event.correlation() for event in second) == calls
    assert {(event.observed_as(), event.text("statuscode")) for event in second} == {("default/m/shadow", "200")}
    assert sorted(event.correlation() for event in third) == calls
    assert {(event.observed_as(), event.text("statuscode")) for event in third} == {("default/m/shadow", "500")}
    assert {event.correlation() for event in events if event.text("synthetic")} == {"c0"}
    assert len([event for event in events if event.text("synthetic")]) == 6


def _events(kafka: str, topic: str, count: int) -> list[Event]:
    consumer = Consumer({"bootstrap.servers": kafka, "group.id": f"{topic}-reader"})
    consumer.assign([TopicPartition(topic, 0, 0)])
    found: list[Event] = []

    def read() -> bool:
        for message in consumer.consume(100, timeout=0.2):
            assert message.error() is None
            found.append(from_kafka(tuple(message.headers() or ()), message.value()))  # type: ignore[arg-type]
        return len(found) >= count

    try:
        eventually(read, f"{count} events")
    finally:
        consumer.close()
    return found
