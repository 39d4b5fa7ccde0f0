"""Creates topics that are missing, and refuses to go on with ones that do not fit."""

from __future__ import annotations

import time
from collections.abc import Sequence

from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._listoffsets import OffsetSpec
from confluent_kafka.cimpl import NewTopic

from deploy.errors import UserError
from streams.topics import Topic


def ensure_topics(kafka: str, topics: Sequence[Topic], timeout_s: float = 30.0) -> None:
    """Create what is missing and wait until every topic can be used; calling it again changes nothing.

    Raises:
        UserError: the broker does not answer, or a topic exists with another number of partitions.
    """
    admin = AdminClient({"bootstrap.servers": kafka})
    try:
        existing = {name: len(topic.partitions) for name, topic in admin.list_topics(timeout=timeout_s).topics.items()}
    except KafkaException as exc:
        raise UserError(f"Kafka at {kafka} does not answer: {exc.args[0].str()}") from exc
    for topic in topics:
        found = existing.get(topic.name, topic.partitions)
        if found != topic.partitions:
            raise UserError(f"topic {topic.name!r}: expected {topic.partitions} partitions, got {found}")
    missing = [topic for topic in topics if topic.name not in existing]
    _create(admin, missing, timeout_s)
    _wait(admin, {topic.name: topic.partitions for topic in missing}, timeout_s)


def partitions_of(kafka: str, topic: str, timeout_s: float = 10.0) -> int:
    """Give a topic's number of partitions.

    Raises:
        UserError: the broker does not answer, or has no such topic.
    """
    try:
        found = AdminClient({"bootstrap.servers": kafka}).list_topics(topic, timeout=timeout_s).topics[topic]
    except KafkaException as exc:
        raise UserError(f"Kafka at {kafka} does not answer: {exc.args[0].str()}") from exc
    if found.error is not None or not found.partitions:
        raise UserError(f"topic {topic!r} does not exist at {kafka}; create it, or start with `sidelight up`")
    return len(found.partitions)


def _create(admin: AdminClient, topics: Sequence[Topic], timeout_s: float) -> None:
    if not topics:
        return
    asked = [NewTopic(topic.name, topic.partitions, -1, config=dict(topic.config)) for topic in topics]
    for name, future in admin.create_topics(asked, operation_timeout=timeout_s).items():
        try:
            future.result(timeout_s)
        except KafkaException as exc:
            # Someone else was quicker: that is what we wanted.
            if exc.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise UserError(f"topic {name!r} could not be created: {exc.args[0].str()}") from exc


def _wait(admin: AdminClient, wanted: dict[str, int], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while wanted and not _led(admin, wanted, timeout_s):
        if time.monotonic() > deadline:
            raise UserError(f"topics did not appear in {timeout_s:.0f} s: {', '.join(sorted(wanted))}")
        time.sleep(0.05)


def _led(admin: AdminClient, wanted: dict[str, int], timeout_s: float) -> bool:
    """Tell whether each partition's leader answers: it may be known before it knows itself."""
    places = [TopicPartition(name, partition) for name, count in wanted.items() for partition in range(count)]
    latest = OffsetSpec.latest()  # type: ignore[no-untyped-call] # the client leaves it unannotated
    answers = admin.list_offsets(dict.fromkeys(places, latest), request_timeout=timeout_s)
    try:
        for answer in answers.values():
            answer.result(timeout_s)
    except KafkaException:
        return False
    return True
