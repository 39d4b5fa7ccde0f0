"""Topic creation on a real broker, and the judgement of settings."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from deploy.errors import UserError
from deploy.kafka import ports
from deploy.kafka.topics import ensure_topics, known, partitions_of, risks
from streams.topics import Topic, Topics, state_topic


def partitions(kafka: str, prefix: str) -> dict[str, int]:
    """Give the topics under a prefix, with their number of partitions."""
    known = AdminClient({"bootstrap.servers": kafka}).list_topics(timeout=30).topics
    return {name: len(topic.partitions) for name, topic in known.items() if name.startswith(prefix)}


@pytest.mark.kafka
def test_topics_are_created_and_a_second_call_changes_nothing(kafka: str, topics: Topics) -> None:
    """Every start may call it."""
    wanted = (*topics.declared(3), state_topic(topics, "assembler", 3))
    ensure_topics(kafka, wanted)
    ensure_topics(kafka, wanted)

    assert partitions(kafka, topics.prefix) == {topic.name: 3 for topic in wanted}
    assert partitions_of(kafka, topics.payloads) == 3


@pytest.mark.kafka
@pytest.mark.parametrize("_round", range(3))
def test_a_created_topic_can_be_used_at_once(kafka: str, topics: Topics, _round: int) -> None:
    """When the call returns, each partition's leader answers the first request: no retry, no lost start."""
    ensure_topics(kafka, topics.declared(4))
    consumer = Consumer({"bootstrap.servers": kafka, "group.id": "g"})
    found = {consumer.get_watermark_offsets(TopicPartition(topics.payloads, at), timeout=30) for at in range(4)}
    consumer.close()

    assert found == {(0, 0)}


@pytest.mark.kafka
def test_a_broker_that_has_not_heard_of_all_is_asked_again(kafka: str, topics: Topics) -> None:
    """Its answer is used for what it names: a topic or a partition that it does not know yet must not be looked up."""
    ensure_topics(kafka, [Topic(topics.payloads, 2, {})])
    answer = AdminClient({"bootstrap.servers": kafka}).list_topics(timeout=30).topics

    assert known([Topic(topics.payloads, 2, {})], answer)
    assert not known([Topic(topics.payloads, 2, {}), Topic(topics.observations, 1, {})], answer)
    assert not known([Topic(topics.payloads, 3, {})], answer)


@pytest.mark.kafka
def test_another_number_of_partitions_is_refused(kafka: str, topics: Topics) -> None:
    """Keys would go elsewhere than they did: the message says which topic, what was expected and what is there."""
    ensure_topics(kafka, [Topic(topics.payloads, 2, {})])

    with pytest.raises(UserError, match=rf"topic '{topics.payloads}': expected 3 partitions, got 2"):
        ensure_topics(kafka, [Topic(topics.payloads, 3, {}), Topic(topics.observations, 3, {})])
    assert topics.observations not in partitions(kafka, topics.prefix)


@pytest.mark.kafka
def test_parallel_starts_agree(kafka: str, topics: Topics) -> None:
    """Several workers that start at once all go on."""
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: ensure_topics(kafka, topics.declared(2)), range(4)))

    assert set(partitions(kafka, topics.prefix).values()) == {2}


@pytest.mark.kafka
def test_a_state_topic_takes_a_large_checkpoint(kafka: str, topics: Topics) -> None:
    """The broker allows what a topic asks for: a checkpoint of 20 MiB is stored."""
    state = state_topic(topics, "detectors", 1)
    ensure_topics(kafka, [state])
    failures: list[object] = []
    producer = Producer({"bootstrap.servers": kafka, "message.max.bytes": 64 << 20})
    producer.produce(
        state.name, b"\0" * (20 << 20), key=b"k", on_delivery=lambda error, _message: failures.append(error)
    )

    assert producer.flush(60) == 0
    assert failures == [None]


def _said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Give what the module has said: threads of other tests may have something to say as well."""
    return [record.message for record in caplog.records if record.name == "deploy.kafka.topics"]


@pytest.mark.kafka
def test_an_existing_topic_that_loses_records_is_warned_about(
    kafka: str, topics: Topics, caplog: pytest.LogCaptureFixture
) -> None:
    """A topic that someone made by hand, without compaction, would lose checkpoints by age: the log says so."""
    state = state_topic(topics, "detectors", 1)
    by_hand = NewTopic(state.name, 1, 1, config={"cleanup.policy": "delete", "max.message.bytes": "1000"})
    admin = AdminClient({"bootstrap.servers": kafka})
    admin.create_topics([by_hand])[state.name].result(60)
    with caplog.at_level(logging.WARNING, "deploy.kafka.topics"):
        ensure_topics(kafka, [state])

    policy, size = _said(caplog)
    assert policy.startswith(f"topic {state.name}: cleanup.policy: expected compact, got delete")
    assert size.startswith(f"topic {state.name}: max.message.bytes: expected 67108864 or more, got 1000")


@pytest.mark.kafka
def test_good_topics_give_no_warning(kafka: str, topics: Topics, caplog: pytest.LogCaptureFixture) -> None:
    """Our own topics on our own broker are as they should be, new and existing."""
    with caplog.at_level(logging.WARNING, "deploy.kafka.topics"):
        for _ in range(2):
            ensure_topics(kafka, (*topics.declared(1), state_topic(topics, "detectors", 1)))

    assert _said(caplog) == []


@pytest.mark.kafka
def test_a_topic_that_is_not_there_is_named_and_not_made(kafka: str, topics: Topics) -> None:
    """Asking for a topic does not create it."""
    with pytest.raises(UserError, match=rf"topic '{topics.payloads}' does not exist at {kafka}"):
        partitions_of(kafka, topics.payloads)
    assert partitions(kafka, topics.prefix) == {}


def test_a_broker_that_does_not_answer_is_named() -> None:
    """A wrong address is one sentence with that address."""
    address = f"127.0.0.1:{ports.free_port()}"

    with pytest.raises(UserError, match=rf"Kafka at {address} does not answer"):
        ensure_topics(address, [Topic("a", 1, {})], timeout_s=0.5)
    with pytest.raises(UserError, match=rf"Kafka at {address} does not answer"):
        partitions_of(address, "a", timeout_s=0.5)


@pytest.mark.parametrize(
    ("asked", "replicas", "brokers", "config", "said"),
    [
        ({}, 1, 1, {}, []),
        ({}, 3, 3, {"cleanup.policy": "delete"}, []),
        ({}, 1, 3, {}, ["one replica on a cluster of 3 brokers"]),
        ({}, 2, 2, {"cleanup.policy": "compact"}, ["cleanup.policy: expected delete, got compact"]),
        ({"cleanup.policy": "compact"}, 1, 1, {}, ["cleanup.policy: expected compact, got delete"]),
        (
            {"max.message.bytes": "10"},
            1,
            1,
            {"max.message.bytes": "9"},
            ["max.message.bytes: expected 10 or more, got 9"],
        ),
        ({"max.message.bytes": "10"}, 1, 1, {"max.message.bytes": "10"}, []),
    ],
)
def test_risks(asked: dict[str, str], replicas: int, brokers: int, config: dict[str, str], said: list[str]) -> None:
    """Each setting that loses records is named, with what was expected; good ones are not."""
    found = risks(Topic("a", 1, asked), replicas, brokers, config)

    assert len(found) == len(said)
    assert all(risk.startswith(start) for risk, start in zip(found, said, strict=True))
