"""How far a group is behind, on a real Kafka: what it will still read, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest
from confluent_kafka import Consumer, TopicPartition

from deploy.errors import UserError
from deploy.kafka.ports import free_port
from deploy.lag import Lag, end_offsets
from streams.topics import Topics
from tests.deploy.laying import Laid, create, event, expire, lay


@contextmanager
def lag_of(kafka: str, group: str) -> Iterator[Lag]:
    """Ask about a group until the block ends."""
    with closing(Lag(kafka, group)) as lag:
        yield lag


def commit(kafka: str, group: str, topic: str, offsets: dict[int, int]) -> None:
    """Commit for a group."""
    places = [TopicPartition(topic, partition, offset) for partition, offset in offsets.items()]
    with closing(Consumer({"bootstrap.servers": kafka, "group.id": group})) as consumer:
        consumer.commit(offsets=places, asynchronous=False)


@pytest.mark.kafka
def test_lag_is_what_is_left_to_read(kafka: str, topics: Topics) -> None:
    """Per partition and together; before the first commit, everything; to another group it is no concern."""
    topic = create(kafka, topics.payloads, 3)
    lay(kafka, topic, [Laid(event(f"{partition}-{at}"), partition) for partition in (0, 1) for at in range(5)])
    with lag_of(kafka, topics.prefix) as lag:
        before = lag.partitions(topic)
        commit(kafka, topics.prefix, topic, {0: 2, 1: 5})

        assert before == {0: 5, 1: 5, 2: 0}
        assert lag.partitions(topic) == {0: 3, 1: 0, 2: 0}
        assert lag.records(topic) == 3
    with lag_of(kafka, f"{topics.prefix}-other") as other:
        assert other.records(topic) == 10


@pytest.mark.kafka
def test_what_has_expired_is_not_waited_for(kafka: str, topics: Topics) -> None:
    """Records that retention took will never be read: neither before the first commit nor after one."""
    topic = create(kafka, topics.payloads, 2)
    lay(kafka, topic, [Laid(event(f"{partition}-{at}"), partition) for partition in (0, 1) for at in range(5)])
    commit(kafka, topics.prefix, topic, {0: 1})
    expire(kafka, topic, 0, 4)
    expire(kafka, topic, 1, 5)
    with lag_of(kafka, topics.prefix) as lag:
        assert lag.partitions(topic) == {0: 1, 1: 0}


@pytest.mark.kafka
def test_a_position_past_the_end_is_none(kafka: str, topics: Topics) -> None:
    """A topic that was made anew under an old name is read from its beginning; the lag is not less than nothing."""
    topic = create(kafka, topics.payloads)
    lay(kafka, topic, [Laid(event("only"))])
    commit(kafka, topics.prefix, topic, {0: 90})
    with lag_of(kafka, topics.prefix) as lag:
        assert lag.records(topic) == 1


@pytest.mark.kafka
def test_end_offsets_count_what_was_ever_written(kafka: str, topics: Topics) -> None:
    """Over all partitions, expired ones included: what the conservation laws are about. No topic, no records."""
    topic = create(kafka, topics.payloads, 2)
    lay(kafka, topic, [Laid(event(str(at)), at % 2) for at in range(7)])
    expire(kafka, topic, 0, 4)

    assert end_offsets(kafka, topic) == 7
    assert end_offsets(kafka, topics.observations) == 0


@pytest.mark.kafka
def test_a_missing_topic_has_no_lag_that_is_known(kafka: str, topics: Topics) -> None:
    """Unknown is not 0: who waits for 0 goes on waiting."""
    with lag_of(kafka, topics.prefix) as lag:
        assert lag.partitions(topics.payloads) == {}
        assert lag.records(topics.payloads) is None


def test_a_broker_that_does_not_answer() -> None:
    """The lag is unknown; the end offsets, which somebody asked for, are a clear error."""
    kafka = f"127.0.0.1:{free_port()}"
    with lag_of(kafka, "g") as lag:
        assert lag.partitions("t", timeout_s=0.2) == {}
    with pytest.raises(UserError, match=f"Kafka at {kafka} does not answer"):
        end_offsets(kafka, "t", timeout_s=0.2)
