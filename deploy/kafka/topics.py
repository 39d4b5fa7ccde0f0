"""Creates topics that are missing, refuses ones that do not fit, and warns about settings that lose records."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import ConfigResource
from confluent_kafka.admin._listoffsets import OffsetSpec
from confluent_kafka.admin._metadata import ClusterMetadata, TopicMetadata
from confluent_kafka.admin._resource import ResourceType
from confluent_kafka.cimpl import NewTopic

from deploy.errors import UserError
from streams.topics import Topic

log = logging.getLogger(__name__)

_ATTEMPT_S: Final = 2.0
_PAUSE_S: Final = 0.05
_CONFIG_S: Final = 5.0
_FIND_S: Final = 10.0


def ensure_topics(
    kafka: str, topics: Sequence[Topic], timeout_s: float = 30.0, *, extra: Mapping[str, str] = {}
) -> None:
    """Create what is missing and wait until every topic can be used; calling it again changes nothing.

    `extra` holds further client settings: TLS, SASL.

    Raises:
        UserError: the broker does not answer, refuses a topic, or a topic exists with another number of partitions.
    """
    admin = _admin(kafka, extra)
    before = _metadata(admin, kafka, timeout_s)
    _fit(topics, before.topics)
    missing = [topic for topic in topics if topic.name not in before.topics]
    _create(admin, missing, timeout_s)
    after = _wait(admin, missing, timeout_s) if missing else before
    existing = [topic for topic in topics if topic.name in before.topics]
    configs = _configs(admin, [topic.name for topic in existing])
    for topic in topics:
        replicas = min(len(partition.replicas) for partition in after.topics[topic.name].partitions.values())
        for risk in risks(topic, replicas, len(after.brokers), configs.get(topic.name, topic.config)):
            log.warning("topic %s: %s", topic.name, risk)


def partitions_of(kafka: str, topic: str, timeout_s: float = 10.0, *, extra: Mapping[str, str] = {}) -> int:
    """Give a topic's number of partitions.

    Raises:
        UserError: the broker does not answer, or has no such topic.
    """
    # All topics, not this one: asking for one by its name creates it where the broker is set to do so.
    found = _metadata(_admin(kafka, extra), kafka, timeout_s).topics.get(topic)
    if found is None or not found.partitions:
        raise UserError(f"topic {topic!r} does not exist at {kafka}; create it, or start with `sidelight up`")
    return len(found.partitions)


def ensured_partitions(kafka: str, topic: Topic, *, extra: Mapping[str, str] = {}) -> int:
    """Give how many partitions a topic has; one that is missing is created as declared.

    Raises:
        UserError: the broker does not answer, or refuses the topic.
    """
    found = _metadata(_admin(kafka, extra), kafka, _FIND_S).topics.get(topic.name)
    if found is not None and found.partitions:
        return len(found.partitions)
    ensure_topics(kafka, (topic,), extra=extra)
    return topic.partitions


def risks(asked: Topic, replicas: int, brokers: int, config: Mapping[str, str]) -> list[str]:
    """Say what about a topic could lose records. Pure.

    Args:
        asked: the topic as we want it.
        replicas: how many copies its least replicated partition has.
        brokers: how many brokers the cluster has.
        config: the topic's settings as they are.
    """
    found = []
    if replicas == 1 < brokers:
        found.append(f"one replica on a cluster of {brokers} brokers: losing that broker loses its records")
    policy, wanted = config.get("cleanup.policy", "delete"), asked.config.get("cleanup.policy", "delete")
    if policy != wanted:
        lost = "checkpoints would be deleted by age" if wanted == "compact" else "records of one key replace each other"
        found.append(f"cleanup.policy: expected {wanted}, got {policy}: {lost}")
    limit, needed = config.get("max.message.bytes", ""), asked.config.get("max.message.bytes", "")
    if needed and limit and int(limit) < int(needed):
        found.append(f"max.message.bytes: expected {needed} or more, got {limit}: larger records will be refused")
    return found


def known(topics: Iterable[Topic], found: Mapping[str, TopicMetadata]) -> bool:
    """Tell whether a broker's answer names every partition of all topics. Pure."""
    return all(topic.name in found and len(found[topic.name].partitions) >= topic.partitions for topic in topics)


def _admin(kafka: str, extra: Mapping[str, str]) -> AdminClient:
    return AdminClient({"bootstrap.servers": kafka, "log_level": 2, **extra})


def _metadata(admin: AdminClient, kafka: str, timeout_s: float) -> ClusterMetadata:
    try:
        return admin.list_topics(timeout=timeout_s)
    except KafkaException as exc:
        raise UserError(f"Kafka at {kafka} does not answer: {exc.args[0].str()}") from exc


def _fit(topics: Iterable[Topic], existing: Mapping[str, TopicMetadata]) -> None:
    for topic in topics:
        found = len(existing[topic.name].partitions) if topic.name in existing else topic.partitions
        if found != topic.partitions:
            raise UserError(f"topic {topic.name!r}: expected {topic.partitions} partitions, got {found}")


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


def _wait(admin: AdminClient, topics: Sequence[Topic], timeout_s: float) -> ClusterMetadata:
    """Wait until each partition's leader answers: others may know it before it knows itself."""
    deadline = time.monotonic() + timeout_s
    places = [TopicPartition(topic.name, partition) for topic in topics for partition in range(topic.partitions)]
    while True:
        # Asked each time: the client keeps an early "no leader yet" for ever, unless it hears of something newer.
        found = admin.list_topics(timeout=timeout_s)
        # The broker that is asked may hear of the topics after their leaders do: its answer must name them, too.
        if known(topics, found.topics) and _led(admin, places):
            return found
        if time.monotonic() > deadline:
            _fit(topics, found.topics)
            names = ", ".join(sorted(topic.name for topic in topics))
            raise UserError(f"topics could not be used {timeout_s:.0f} s after they were created: {names}")
        time.sleep(_PAUSE_S)


def _led(admin: AdminClient, places: Sequence[TopicPartition]) -> bool:
    latest = OffsetSpec.latest()  # type: ignore[no-untyped-call] # the client leaves it unannotated
    answers = admin.list_offsets(dict.fromkeys(places, latest), request_timeout=_ATTEMPT_S)
    try:
        for answer in answers.values():
            answer.result(_ATTEMPT_S * 2)
    except (KafkaException, TimeoutError):
        return False
    return True


def _configs(admin: AdminClient, names: Sequence[str]) -> dict[str, dict[str, str]]:
    """Give the settings of topics, as far as we may read them."""
    found: dict[str, dict[str, str]] = {}
    resources = [ConfigResource(ResourceType.TOPIC, name) for name in names]
    if not resources:
        return found
    for resource, future in admin.describe_configs(resources, request_timeout=_CONFIG_S).items():
        try:
            entries = future.result(_CONFIG_S * 2)
        except (KafkaException, TimeoutError) as exc:
            log.debug("topic %s: its settings cannot be read: %s", resource.name, exc)
            continue
        found[resource.name] = {name: entry.value for name, entry in entries.items() if entry.value is not None}
    return found
