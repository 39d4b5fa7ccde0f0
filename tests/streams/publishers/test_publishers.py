"""One list of promises, kept by every way out: memory, and confluent-kafka and kafka-python on real Kafka."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from random import Random
from typing import Final

import pytest

from deploy.kafka.topics import ensure_topics
from streams.errors import PublishError, Refused, StreamError, Unavailable
from streams.publishers.confluent import ConfluentPublisher, PublisherSettings
from streams.publishers.kafka_python import KafkaPythonPublisher
from streams.publishers.memory import MemoryLog, MemoryPublisher, partition_of
from streams.publishing import publish_all
from streams.reading import Reader
from streams.stage import Done, Output, Record
from streams.topics import Topic, Topics

# kafka-python leaves the sockets of failed attempts to connect to the collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")

PARTITIONS: Final = 3
LIMIT: Final = 4_000
"""Bytes that a record of the narrow topic may have."""
QUEUE: Final = 20
DEADLINE_S: Final = 30.0
Client = ConfluentPublisher | KafkaPythonPublisher
CLIENTS: Final[dict[str, type[Client]]] = {"confluent": ConfluentPublisher, "kafka-python": KafkaPythonPublisher}
SETTINGS: Final = PublisherSettings(
    bootstrap="", queue_messages=QUEUE, message_max_bytes=100_000, unknown_topic_ms=300, compression="none"
)

Either = Client | MemoryPublisher


class World:
    """A broker with a wide and a narrow topic, and publishers to it."""

    def __init__(self, topics: Topics) -> None:
        self.wide, self.narrow, self.absent = topics.payloads, topics.observations, topics.deadletter

    def publisher(self) -> Either:
        """Make a publisher with room for a few records."""
        raise NotImplementedError

    def cut_off(self) -> Either:
        """Make a publisher whose broker never answers."""
        raise NotImplementedError

    def records(self, topic: str) -> list[Record]:
        """Read a topic, partition after partition."""
        raise NotImplementedError


class MemoryWorld(World):
    """Topics in memory."""

    def __init__(self, topics: Topics) -> None:
        super().__init__(topics)
        self.log = MemoryLog({self.wide: PARTITIONS, self.narrow: PARTITIONS}, {self.wide: 100_000, self.narrow: LIMIT})

    def publisher(self) -> Either:
        return MemoryPublisher(self.log, QUEUE)

    def cut_off(self) -> Either:
        publisher = MemoryPublisher(self.log, QUEUE)
        publisher.held = True
        return publisher

    def records(self, topic: str) -> list[Record]:
        return self.log.records(topic)


class KafkaWorld(World):
    """Topics on real Kafka, and a client's publisher."""

    def __init__(self, topics: Topics, kafka: str, client: str, nowhere: str) -> None:
        super().__init__(topics)
        self._kafka, self._client, self._nowhere = kafka, client, nowhere
        narrow = Topic(self.narrow, PARTITIONS, {"max.message.bytes": str(LIMIT)})
        ensure_topics(kafka, (Topic(self.wide, PARTITIONS, {}), narrow))

    def publisher(self) -> Either:
        return CLIENTS[self._client](replace(SETTINGS, bootstrap=self._kafka))

    def cut_off(self) -> Either:
        return CLIENTS[self._client](replace(SETTINGS, bootstrap=self._nowhere))

    def records(self, topic: str) -> list[Record]:
        reader = Reader(self._kafka)
        places = [(partition, *reader.bounds(topic, partition)) for partition in range(PARTITIONS)]
        return [
            record
            for partition, low, high in places
            if high > low
            for record in reader.read(topic, partition, low, high)
        ]


@pytest.fixture(params=["memory", *(pytest.param(name, marks=pytest.mark.kafka) for name in CLIENTS)])
def world(request: pytest.FixtureRequest, topics: Topics, nowhere: str) -> World:
    """Give each publisher's world in turn."""
    if request.param == "memory":
        return MemoryWorld(topics)
    return KafkaWorld(topics, request.getfixturevalue("kafka"), request.param, nowhere)


@pytest.fixture
def publisher(world: World) -> Iterator[Either]:
    """Give a publisher, closed at the end of the test."""
    publisher = world.publisher()
    yield publisher
    publisher.close()


class Reports:
    """What became of each record."""

    def __init__(self) -> None:
        self.answers: dict[int, list[Exception | None]] = {}
        self.order: list[int] = []

    def done(self, number: int) -> Done:
        """Make the callback of one record."""

        def note(error: Exception | None) -> None:
            self.answers.setdefault(number, []).append(error)
            self.order.append(number)

        return note


def send_all(publisher: Either, outputs: Sequence[Output]) -> Reports:
    """Send records in order, each as soon as there is room, and wait for their answers."""
    reports = Reports()
    until = time.monotonic() + DEADLINE_S
    for number, output in enumerate(outputs):
        while not sent(publisher, output, reports.done(number)):
            assert time.monotonic() < until, "no room came"
            publisher.poll(0.05)
    assert publisher.flush(DEADLINE_S) == 0
    return reports


def sent(publisher: Either, output: Output, done: Done) -> bool:
    """Send one record; a refusal at once counts like one that comes later."""
    try:
        publisher.send(output, done)
    except Unavailable:
        return False
    except Refused as exc:
        done(exc)
    return True


def error_of(publisher: Either, output: Output) -> Exception | None:
    """Give what becomes of one record."""
    ((error,),) = send_all(publisher, [output]).answers.values()
    return error


def test_order_per_key(world: World, publisher: Either) -> None:
    """Records of one key lie in one partition, Java's, in the order of sending, as they were."""
    keys = [b"k%d" % number for number in range(7)]
    outputs = [
        Output(world.wide, keys[number % 7], b"%d" % number, (("ce_id", b"%d" % number), ("x", b"1"), ("x", b"2")))
        for number in range(30 * QUEUE)
    ]
    send_all(publisher, outputs)
    found = world.records(world.wide)

    for key in keys:
        of_key = [record for record in found if record.key == key]
        assert {record.partition for record in of_key} == {partition_of(key, PARTITIONS)}
        written = [(output.value, output.headers) for output in outputs if output.key == key]
        assert [(record.value, record.headers) for record in of_key] == written


def test_each_record_is_reported_once_and_never_from_send(world: World, publisher: Either) -> None:
    """A delivery report comes from `poll` or `flush`, once for each record."""
    reports = Reports()
    send_all(publisher, [Output(world.wide, b"k", b"first")])
    for number in range(QUEUE):
        publisher.send(Output(world.wide, b"k", b"x"), reports.done(number))
    at_once = dict(reports.answers)
    left = publisher.flush(DEADLINE_S)
    publisher.poll(0)

    assert at_once == {}
    assert left == 0
    assert reports.answers == {number: [None] for number in range(QUEUE)}


def test_a_full_queue_refuses_at_once(world: World, publisher: Either) -> None:
    """One record more than the settings allow is Unavailable, without a report; after a poll there is room again."""
    reports = Reports()
    send_all(publisher, [Output(world.wide, b"k", b"first")])
    for number in range(QUEUE):
        publisher.send(Output(world.wide, b"k", b"x"), reports.done(number))
    with pytest.raises(Unavailable):
        publisher.send(Output(world.wide, b"k", b"too many"), reports.done(QUEUE))
    publisher.flush(DEADLINE_S)
    publisher.send(Output(world.wide, b"k", b"room"), reports.done(QUEUE + 1))
    publisher.flush(DEADLINE_S)

    assert sorted(reports.answers) == [*range(QUEUE), QUEUE + 1]
    assert b"too many" not in [record.value for record in world.records(world.wide)]


def test_a_silent_broker_blocks_nobody(world: World) -> None:
    """Without a broker, `send` takes or refuses, `flush` says how many have no answer, and none gets two."""
    publisher, reports = world.cut_off(), Reports()
    taken = [sent(publisher, Output(world.wide, b"k", b"x"), reports.done(number)) for number in range(2 * QUEUE)]
    left = publisher.flush(0.05)
    closed = publisher.close(0.05)

    assert sum(taken) <= QUEUE
    assert left == sum(taken) - len(reports.answers)
    assert closed <= left
    assert all(len(answers) == 1 for answers in reports.answers.values())


@pytest.mark.parametrize("size", [LIMIT * 2, 200_000], ids=["for-the-topic", "for-the-client"])
def test_too_large_is_refused_for_good(world: World, publisher: Either, size: int) -> None:
    """A record beyond the topic's or the client's limit is Refused; the next one arrives."""
    error = error_of(publisher, Output(world.narrow, b"k", Random(size).randbytes(size)))
    after = error_of(publisher, Output(world.narrow, b"k", b"small"))

    assert isinstance(error, Refused)
    assert after is None
    assert [record.value for record in world.records(world.narrow)] == [b"small"]


def test_a_refused_record_takes_no_neighbour_with_it(world: World, publisher: Either) -> None:
    """Brokers refuse whole requests; records that were only near a refused one arrive all the same."""
    large = Random(0).randbytes(LIMIT * 2)
    values = [b"a", b"b", large, b"c", b"d"]
    with pytest.raises(Refused):
        publish_all(publisher, [Output(world.narrow, b"k", value) for value in values], DEADLINE_S)

    assert {record.value for record in world.records(world.narrow)} == {b"a", b"b", b"c", b"d"}


@pytest.mark.parametrize("name", ["absent", "no topic / at all"])
def test_an_unknown_topic_is_refused_in_the_end(world: World, publisher: Either, name: str) -> None:
    """A topic that the broker does not have after some time, or cannot have, is Refused; others are not affected."""
    error = error_of(publisher, Output(world.absent if name == "absent" else name, b"k", b"x"))
    after = error_of(publisher, Output(world.wide, b"k", b"x"))

    assert isinstance(error, Refused)
    assert after is None


def test_an_unknown_partition_is_refused(world: World, publisher: Either) -> None:
    """A partition that the topic does not have is Refused, a named one that it has is used."""
    error = error_of(publisher, Output(world.wide, b"k", b"x", partition=PARTITIONS))
    numbers = [error_of(publisher, Output(world.wide, b"k", b"x", partition=number)) for number in range(PARTITIONS)]

    assert isinstance(error, Refused)
    assert numbers == [None] * PARTITIONS
    assert sorted(record.partition for record in world.records(world.wide)) == list(range(PARTITIONS))


def test_neither_key_nor_value(world: World, publisher: Either) -> None:
    """A watermark is a record with headers alone; a header may be without value."""
    output = Output(world.wide, None, None, (("ce_watermark", b"5"), ("empty", None)), partition=1)
    error = error_of(publisher, output)
    (record,) = world.records(world.wide)

    assert error is None
    assert (record.key, record.value, record.partition) == (None, None, 1)
    assert [(name, value or None) for name, value in record.headers] == list(output.headers)


def test_close_delivers_what_waits(world: World) -> None:
    """Everything queued is answered by `close`, which says that nothing is left."""
    publisher, reports = world.publisher(), Reports()
    send_all(publisher, [Output(world.wide, b"k", b"first")])
    for number in range(QUEUE):
        publisher.send(Output(world.wide, b"k", b"x"), reports.done(number))
    left = publisher.close(DEADLINE_S)

    assert left == 0
    assert reports.answers == {number: [None] for number in range(QUEUE)}
    assert len(world.records(world.wide)) == QUEUE + 1


def test_errors_are_ours(world: World, publisher: Either) -> None:
    """No client's own error gets out: each one is a PublishError that says whether to come again."""
    outputs = [
        Output(world.absent, b"k", b"x"),
        Output(world.narrow, b"k", Random(1).randbytes(LIMIT * 2)),
        Output(world.wide, b"k", b"x", partition=-7),
        Output("", b"k", b"x"),
    ]
    errors = [error_of(publisher, output) for output in outputs]

    assert all(isinstance(error, PublishError) and isinstance(error, StreamError) for error in errors)
