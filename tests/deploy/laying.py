"""Lays records into topics of a real Kafka, each in the partition and with the time that a test wants."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from confluent_kafka import KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from deploy.kafka.topics import ensure_topics
from streams.bindings import to_kafka
from streams.events import NAMESPACE, REQUEST_TYPE, SERVICE, Event, Value, format_time
from streams.stage import Headers
from streams.topics import Topic

NOW_MS = int(time.time() * 1000)
"""Kafka deletes what is a week old, so times are of today. A test may come an hour after this."""
NO_EVENT: tuple[Headers, bytes] = ((), b"no event")


@dataclass(frozen=True, slots=True)
class Laid:
    """One record: an event, or headers and value."""

    content: Event | tuple[Headers, bytes | None]
    partition: int = 0
    time_ms: int = NOW_MS


def event(identity: str, data: bytes | None = b"{}", kind: str = REQUEST_TYPE, **extensions: Value) -> Event:
    """Make an event of service default/credit, unless another one is named."""
    own: dict[str, Value] = {NAMESPACE: "default", SERVICE: "credit"}
    return Event(
        id=identity, source="/tests", type=kind, time=format_time(NOW_MS * 1000), datacontenttype="application/json",
        extensions=own | extensions, data=data,
    )  # fmt: skip


def create(kafka: str, name: str, partitions: int = 1, config: Mapping[str, str] | None = None) -> str:
    """Create a topic; give its name."""
    ensure_topics(kafka, [Topic(name, partitions, config or {})])
    return name


def lay(kafka: str, topic: str, records: Iterable[Laid], settings: Mapping[str, str | int] | None = None) -> None:
    """Write records and wait for every acknowledgement."""
    producer = Producer({"bootstrap.servers": kafka, "linger.ms": 5, **(settings or {})})
    refused: list[object] = []
    for record in records:
        produce(producer, topic, record, refused.append)

    assert producer.flush(30) == 0
    assert [error for error in refused if error is not None] == []


def lay_aborted(kafka: str, topic: str, records: Iterable[Laid]) -> None:
    """Write records in a transaction that is aborted: they take offsets, and no reader ever sees them."""
    producer = Producer({"bootstrap.servers": kafka, "transactional.id": topic})
    producer.init_transactions(30)
    producer.begin_transaction()
    for record in records:
        produce(producer, topic, record, lambda _: None)
    producer.flush(30)
    producer.abort_transaction(30)


def expire(kafka: str, topic: str, partition: int, before: int) -> None:
    """Take the records below an offset away, as retention does."""
    admin = AdminClient({"bootstrap.servers": kafka})
    for answer in admin.delete_records([TopicPartition(topic, partition, before)]).values():
        answer.result(60)


def until(condition: Callable[[], bool]) -> None:
    """Wait for something that will come."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.02)


def produce(producer: Producer, topic: str, record: Laid, answered: Callable[[object], None]) -> None:
    """Queue one record."""
    headers, value = to_kafka(record.content) if isinstance(record.content, Event) else record.content
    producer.produce(
        topic, value, partition=record.partition, timestamp=record.time_ms, headers=list(headers),
        on_delivery=lambda error, _: answered(error and KafkaException(error)),
    )  # fmt: skip
    producer.poll(0)


def spread(items: Sequence[str], partitions: int, step_ms: int = 1_000) -> list[Laid]:
    """Make one event of each name, in turn over the partitions, each a step later than the one before."""
    first = NOW_MS - len(items) * step_ms
    return [Laid(event(name), at % partitions, first + at * step_ms) for at, name in enumerate(items)]
