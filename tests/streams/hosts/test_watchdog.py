"""A partition that stands still is noticed, and nothing else is taken for it."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest
from confluent_kafka import Producer, TopicPartition

from deploy.kafka.topics import ensure_topics
from streams.errors import NotNow, Unavailable
from streams.hosts.native import NativeHost
from streams.hosts.runner import RunnerSettings
from streams.hosts.settings import HostSettings
from streams.hosts.watchdog import State, Watchdog
from streams.publishers.confluent import ConfluentPublisher, PublisherSettings
from streams.publishing import publish_all
from streams.stage import Batch, Effects, Output
from streams.state import MemoryStateStore
from streams.topics import Topics
from tests.contracts.stages import Sums
from tests.inference.serving import eventually

AFTER_S = 10.0
AT_END = State(following=5, queued=0, position=5, idle=True, paused=False)


class Bench:
    """A watchdog over one partition, whose time is the test's."""

    def __init__(self, state: State, end: int | None) -> None:
        self.state, self.end = state, end
        self.asked = 0
        self.dog = Watchdog(AFTER_S, lambda: {3: self.state}, self._ends)

    def _ends(self, partitions: Sequence[int]) -> Mapping[int, int]:
        self.asked += 1
        if self.end is None:
            raise Unavailable("no broker")
        return dict.fromkeys(partitions, self.end)

    def found(self, *times: float) -> list[str]:
        """Look at these times."""
        said = []
        for now in times:
            self.dog.look(now)
            said.append(self.dog.found)
        return said


def test_records_that_nobody_reads_are_noticed() -> None:
    """There is more, says the broker, and nothing moves for long enough: the state is told until something does."""
    bench = Bench(AT_END, 9)
    said = bench.found(0.0, 9.9, 10.0, 50.0)
    bench.state = AT_END._replace(following=6)
    after = bench.found(51.0, 60.0)

    text = "partition 3 stands still: its end is 9, read up to 5, done up to 5, 0 wait, not paused"
    assert said == ["", "", text, text]
    assert after == ["", ""]


def test_records_that_are_read_and_not_worked_on_are_noticed() -> None:
    """Whether the broker answers or not: they lie in memory."""
    bench = Bench(AT_END._replace(queued=2, position=3, paused=True), None)

    assert bench.found(0.0, 5.0, 10.0)[2].endswith("its end is unknown, read up to 5, done up to 3, 2 wait, paused")


@pytest.mark.parametrize(
    ("state", "end"),
    [(AT_END, 5), (AT_END, None), (AT_END._replace(idle=False), 9), (AT_END._replace(idle=False, queued=4), 9)],
)
def test_who_has_nothing_to_do_or_waits_does_not_stand_still(state: State, end: int | None) -> None:
    """At the end, before a broker that is away, amid a batch, or before something that a stage needs."""
    assert not any(Bench(state, end).found(0.0, 10.0, 1_000.0))


def test_a_process_that_was_stopped_itself_is_not_blamed() -> None:
    """A moment of lag, and then the machine slept: who wakes up gets the time to go on."""
    bench = Bench(AT_END, 9)
    said = bench.found(0.0, 1_000.0)
    bench.state = AT_END._replace(following=9)

    assert [*said, *bench.found(1_002.5)] == ["", "", ""]


def test_what_came_a_moment_ago_is_no_lag() -> None:
    """However long a partition has been silent, it has its time from when there was something."""
    bench = Bench(AT_END, 5)
    before = bench.found(0.0, 1_000.0)
    bench.end = 9

    assert not any([*before, *bench.found(1_001.0, 1_010.0)])
    assert bench.found(1_011.0) != [""]


def test_a_partition_that_comes_back_begins_anew() -> None:
    """What was seen of it before counts nothing."""
    bench = Bench(AT_END, 9)
    bench.found(0.0)
    states, bench.dog._states = bench.dog._states, dict
    bench.found(5.0)
    bench.dog._states = states

    assert bench.found(9.0, 11.0) == ["", ""]


class Waiting(Sums):
    """A stage that needs something until it is told that it is there."""

    there = threading.Event()

    def process(self, batch: Batch) -> Effects:
        """Work, or not."""
        if batch.records and not self.there.is_set():
            raise NotNow("away")
        return super().process(batch)


class Deaf(NativeHost):
    """A host whose client stops reading behind its back, as one with a fault does."""

    paused = False

    def __init__(self, *words: Any, **more: Any) -> None:  # noqa: ANN401 - what its base takes
        super().__init__(*words, **more)
        self.deaf = threading.Event()

    def _turn(self) -> None:
        if self.deaf.is_set() != self.paused:
            place = [TopicPartition(self._settings.topic, 0)]
            (self._consumer.resume if self.paused else self._consumer.pause)(place)
            self.paused = not self.paused
        super()._turn()


@pytest.fixture(name="publisher")
def _publisher(kafka: str) -> Iterator[ConfluentPublisher]:
    found = ConfluentPublisher(PublisherSettings(bootstrap=kafka))
    yield found
    found.close()


@pytest.mark.kafka
def test_a_consumer_that_stops_reading_is_lost(kafka: str, topics: Topics, publisher: ConfluentPublisher) -> None:
    """Kafka's client gives nothing more though there is more: `/healthz` says so, and that it goes on when it does.

    What only waits is not lost, nor is a partition at whose end a transaction is open.
    """
    ensure_topics(kafka, topics.declared(1))
    host = Deaf(
        HostSettings(bootstrap=kafka, topic=topics.payloads, group=topics.prefix, still_after_s=0.8, idle_after_s=0.1),
        RunnerSettings(stage="stage", deadletter=topics.deadletter),
        lambda partition: Waiting(partition, topics.observations),
        publisher,
        MemoryStateStore(),
    )
    open_one = Producer({"bootstrap.servers": kafka, "transactional.id": topics.prefix})
    running = threading.Thread(target=host.run)
    running.start()
    try:
        eventually(lambda: 0 in host.runners(), "its partition")
        publish_all(publisher, [Output(topics.payloads, b"k", b"1")], 30.0)
        eventually(lambda: host.runners()[0].counters.retries > 4, "waiting")
        waiting = host.lost()
        Waiting.there.set()
        eventually(lambda: host.runners()[0].position == 1, "the first")
        open_one.init_transactions(30.0)
        open_one.begin_transaction()
        open_one.produce(topics.payloads, b"2", b"k")
        open_one.flush(30.0)
        looks = threading.Event()
        looks.wait(2.0)  # the watchdog's time: nothing is to happen in it
        before = host.lost()
        open_one.abort_transaction(30.0)
        host.deaf.set()
        eventually(lambda: host.paused, "deafness")
        publish_all(publisher, [Output(topics.payloads, b"k", b"3")], 30.0)
        eventually(lambda: "partition 0 stands still" in host.lost(), "the watchdog")
        host.deaf.clear()
        eventually(lambda: not host.lost(), "work")
        eventually(lambda: (host.runners()[0].position or 0) > 1, "the last")
    finally:
        host.stop()
        running.join()

    assert (waiting, before) == ("", "")
