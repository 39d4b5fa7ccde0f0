"""Checkpoints: whole or refused, and on a real Kafka always the newest one, whatever lies around it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import pytest
from confluent_kafka import Producer
from hypothesis import given
from hypothesis import strategies as st

from deploy.kafka.topics import ensure_topics
from streams.errors import Refused, StreamError, Unavailable
from streams.publishers.confluent import ConfluentPublisher, PublisherSettings
from streams.publishers.memory import MemoryLog, MemoryPublisher
from streams.publishing import publish_all
from streams.stage import Checkpoint, Output, StateStore
from streams.state import KafkaStateStore, MemoryStateStore, decode, encode
from streams.topics import Topics, state_topic

MIB = 1 << 20
_CHECKPOINTS = st.builds(Checkpoint, st.integers(0, 2**63 - 1), st.binary(max_size=64))


@given(_CHECKPOINTS)
def test_a_checkpoint_comes_back(checkpoint: Checkpoint) -> None:
    """Position and state, the empty state too."""
    assert decode(encode(checkpoint)) == checkpoint


@given(_CHECKPOINTS, st.data())
def test_a_checkpoint_that_is_not_whole_is_refused(checkpoint: Checkpoint, data: st.DataObject) -> None:
    """Cut off, lengthened, or with any bit changed: going on from it would count everything twice, or nothing."""
    value = encode(checkpoint)
    at = data.draw(st.integers(0, len(value) * 8 - 1))
    flipped = bytes(byte ^ (1 << at % 8) if place == at // 8 else byte for place, byte in enumerate(value))

    for broken in (flipped, value[: at // 8], value + b"\0"):
        with pytest.raises(StreamError, match="state record"):
            decode(broken)


def test_the_format_is_what_older_states_have() -> None:
    """Magic, position and checksum in front: a new version reads what an old one left."""
    assert (
        encode(Checkpoint(258, b"state"))
        == b"SLC1" + bytes([2, 1, 0, 0, 0, 0, 0, 0]) + bytes.fromhex("409a3c91") + b"state"
    )


class Store:
    """A store over a state topic of its own, and ways to write there what is no checkpoint."""

    def __init__(self, kafka: str, topics: Topics) -> None:
        self.kafka, self.topic = kafka, topics.state("sums")
        ensure_topics(kafka, [state_topic(topics, "sums", 2)])
        self.publisher = ConfluentPublisher(PublisherSettings(bootstrap=kafka, message_max_bytes=64 * MIB))

    def open(self) -> KafkaStateStore:
        """Open it anew, as a restarted worker does."""
        return KafkaStateStore(self.kafka, self.topic, self.publisher)

    def write(self, value: bytes | None, partition: int = 0) -> None:
        """Write a record past the store."""
        publish_all(self.publisher, [Output(self.topic, str(partition).encode(), value, partition=partition)], 30)

    def abort(self, count: int) -> None:
        """Leave a hole at the end: an aborted transaction of so many records."""
        producer = Producer({"bootstrap.servers": self.kafka, "transactional.id": self.topic})
        producer.init_transactions(30)
        producer.begin_transaction()
        for _ in range(count):
            producer.produce(self.topic, b"never", partition=0)
        producer.flush(30)
        producer.abort_transaction(30)


@pytest.fixture
def store(kafka: str, topics: Topics) -> Iterator[Store]:
    """Give a store on the real Kafka."""
    found = Store(kafka, topics)
    yield found
    found.publisher.close()


@pytest.fixture(params=["memory", pytest.param("kafka", marks=pytest.mark.kafka)])
def reopened(request: pytest.FixtureRequest) -> Callable[[], StateStore]:
    """Give each kind of store, as often as one asks for it."""
    if request.param == "kafka":
        found: Store = request.getfixturevalue("store")
        return found.open
    memory = MemoryStateStore()
    return lambda: memory


def test_the_newest_checkpoint_of_each_partition(reopened: Callable[[], StateStore]) -> None:
    """Nothing before the first one; then always the last one saved, and no partition sees another's."""
    first = reopened()
    before = [first.load(partition) for partition in (0, 1)]
    for position in range(1, 30):
        first.save(position % 2, Checkpoint(position, f"state {position}".encode()))
    again = reopened()

    assert before == [None, None]
    assert [again.load(partition) for partition in (0, 1)] == [Checkpoint(28, b"state 28"), Checkpoint(29, b"state 29")]


def test_a_big_state_comes_back(reopened: Callable[[], StateStore]) -> None:
    """Many waiting payloads make tens of MiB that nothing can compress; they are one record."""
    state = random.Random(1).randbytes(40 * MIB)
    reopened().save(1, Checkpoint(7, state))
    found = reopened().load(1)

    assert found is not None
    assert found.position == 7
    assert found.state == state


@pytest.mark.kafka
def test_a_state_that_is_too_big_is_never_taken_for_saved(store: Store) -> None:
    """Refused at once and for good; the one before stays."""
    own = store.open()
    own.save(0, Checkpoint(1, b"small"))
    with pytest.raises(Refused):
        own.save(0, Checkpoint(2, random.Random(1).randbytes(64 * MIB)))

    assert own.load(0) == Checkpoint(1, b"small")


@pytest.mark.kafka
def test_a_tombstone_is_a_deleted_state(store: Store) -> None:
    """Who wants a worker to begin anew writes one; compaction would leave the same nothing. The next save counts."""
    own = store.open()
    own.save(0, Checkpoint(1, b"old"))
    own.save(1, Checkpoint(5, b"other"))
    store.write(None)
    deleted = store.open().load(0)
    own.save(0, Checkpoint(2, b"new"))

    assert deleted is None
    assert store.open().load(0) == Checkpoint(2, b"new")
    assert store.open().load(1) == Checkpoint(5, b"other")


@pytest.mark.kafka
@pytest.mark.parametrize("value", [b"", b"{}", b"SLC1", encode(Checkpoint(1, b"state"))[:-1]])
def test_an_unreadable_state_stops_the_worker(store: Store, value: bytes) -> None:
    """The last record decides; an older, whole one would count again what came after it."""
    store.open().save(0, Checkpoint(1, b"whole"))
    store.write(value)
    with pytest.raises(StreamError, match="state record"):
        store.open().load(0)


@pytest.mark.kafka
@pytest.mark.parametrize("count", [1, 20])
def test_a_hole_at_the_end_hides_no_state(store: Store, count: int) -> None:
    """Offsets without a record are looked behind, however many there are, also when there is nothing else."""
    store.abort(count)
    nothing = store.open().load(0)
    store.open().save(0, Checkpoint(3, b"state"))
    store.abort(count)

    assert nothing is None
    assert store.open().load(0) == Checkpoint(3, b"state")


def test_a_broker_that_is_away_is_told_from_no_state() -> None:
    """A worker that took one for the other would begin anew and count everything twice."""
    publisher = MemoryPublisher(MemoryLog({}))
    with pytest.raises(Unavailable):
        KafkaStateStore("127.0.0.1:1", "state", publisher, timeout_s=0.3, extra={"log_level": "2"}).load(0)


@pytest.mark.kafka
def test_a_missing_topic_is_told_from_no_state(kafka: str, topics: Topics) -> None:
    """The same for a topic, or a partition, that is not there."""
    publisher = MemoryPublisher(MemoryLog({}))
    with pytest.raises(Unavailable, match=topics.state("sums")):
        KafkaStateStore(kafka, topics.state("sums"), publisher, timeout_s=0.5).load(0)


def test_a_save_that_was_not_acknowledged_is_an_error() -> None:
    """The commit must not follow: the state would be behind it."""
    publisher = MemoryPublisher(MemoryLog({"state": 1}))
    publisher.held = True
    with pytest.raises(Unavailable):
        KafkaStateStore("127.0.0.1:1", "state", publisher, timeout_s=0.1).save(0, Checkpoint(1, b"s"))
    publisher.held, publisher.fail = False, Refused("never")
    with pytest.raises(Refused, match="never"):
        KafkaStateStore("127.0.0.1:1", "state", publisher, timeout_s=0.1).save(0, Checkpoint(1, b"s"))
