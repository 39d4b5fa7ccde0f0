"""One list of promises, kept by every host: memory with injected crashes, native and Faust by kill -9 on real Kafka."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Final

import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import ConfigResource
from confluent_kafka.admin._resource import ResourceType

from deploy.kafka.topics import ensure_topics
from deploy.lag import Lag
from streams.errors import StreamError
from streams.hosts.memory import MemoryHost
from streams.hosts.runner import Abandoned, RunnerSettings
from streams.publishers.confluent import ConfluentPublisher, PublisherSettings
from streams.publishers.memory import MemoryLog, MemoryPublisher, partition_of
from streams.publishing import publish_all
from streams.stage import Batch, Checkpoint, Done, Effects, Output
from streams.state import KafkaStateStore, MemoryStateStore
from streams.topics import Topics, state_topic
from tests.contracts.stages import Sums

PARTITIONS: Final = 2
STEPS: Final = ("before-publish", "after-publish", "before-save", "after-save", "before-commit")
KAFKA_HOSTS: Final = ("native", "faust")
AHEAD: Final = "ahead"
"""The native host, with a stage that works while the batch before is published."""
RECORDS: Final = [(f"k{number % 5}", str(number)) for number in range(60)]


class Crash(Exception):
    """An injected crash."""


class World:
    """Where a host works: how to fill its input, run it (with a crash), and read what it put out."""

    def __init__(self, topics: Topics) -> None:
        self.topics = topics

    def fill(self, records: Sequence[tuple[str, str]]) -> None:
        """Write the input."""
        raise NotImplementedError

    def work(self, step: str = "", at: int = 1) -> None:
        """Run the host, let it crash at a step, and run it again until everything is done."""
        raise NotImplementedError

    def fail(self) -> str:
        """Run a host that cannot go on; give what it says."""
        raise NotImplementedError

    def refused(self) -> int:
        """Give how many outputs the hosts counted as refused."""
        raise NotImplementedError

    def read(self, topic: str) -> list[Output]:
        """Read a topic, partition after partition."""
        raise NotImplementedError

    def close(self) -> None:
        """Let nothing go on behind a test."""

    def sums(self) -> list[dict[str, object]]:
        """Give the outputs, each id once, in order per key."""
        found: dict[str, dict[str, object]] = {}
        for output in self.read(self.topics.observations):
            body = json.loads(output.value or b"{}")
            if "key" in body:
                assert found.setdefault(body["id"], body) == body, "one id, two contents"
        return list(found.values())


class MemoryWorld(World):
    """The memory host."""

    def __init__(self, topics: Topics, limits: Mapping[str, int] = {}) -> None:
        super().__init__(topics)
        names = (topics.payloads, topics.observations, topics.deadletter)
        self.log = MemoryLog(dict.fromkeys(names, PARTITIONS), limits)
        self.store = MemoryStateStore()

    def fill(self, records: Sequence[tuple[str, str]]) -> None:
        for key, value in records:
            self.log.append(Output(self.topics.payloads, key.encode(), value.encode()))

    def work(self, step: str = "", at: int = 1) -> None:
        fuse = _Fuse(step, at)
        for _ in range(3):
            self._host = self.host(fuse)
            try:
                self._host.run()
            except Crash:
                continue
            return

    def host(self, fuse: _Fuse) -> MemoryHost:
        """Make a host."""
        return MemoryHost(
            self.log, self.topics.payloads, lambda p: Sums(p, self.topics.observations),
            _FusedPublisher(self.log, fuse), _FusedStore(self.store, fuse),
            RunnerSettings(stage="sums", deadletter=self.topics.deadletter), batch=7,
        )  # fmt: skip

    def fail(self) -> str:
        with pytest.raises(StreamError) as failed:
            self.work()
        return str(failed.value)

    def refused(self) -> int:
        return sum(runner.counters.refused for runner in self._host.runners.values())

    def read(self, topic: str) -> list[Output]:
        return [Output(r.topic, r.key, r.value, r.headers, r.partition) for r in self.log.records(topic)]


class KafkaWorld(World):
    """A host over real Kafka, in processes of its own."""

    def __init__(
        self, topics: Topics, kafka: str, host: str, folder: Path, limits: Mapping[str, int] = {}
    ) -> None:  # fmt: skip
        super().__init__(topics)
        self.kafka, self.host, self._log = kafka, host, folder / "worker.log"
        self._workers: list[subprocess.Popen[bytes]] = []
        declared = [
            replace(topic, config={**topic.config, "max.message.bytes": str(limits[topic.name])})
            if topic.name in limits else topic
            for topic in topics.declared(PARTITIONS)
        ]  # fmt: skip
        ensure_topics(kafka, (*declared, state_topic(topics, "sums", PARTITIONS)))

    def fill(self, records: Sequence[tuple[str, str]]) -> None:
        publisher = ConfluentPublisher(PublisherSettings(bootstrap=self.kafka))
        outputs = [Output(self.topics.payloads, key.encode(), value.encode()) for key, value in records]
        publish_all(publisher, outputs, 30.0)

    def start(
        self, step: str = "", at: int = 1, pause: float = 0.0, queue: int = 4000, kib: int = 64 * 1024
    ) -> subprocess.Popen[bytes]:
        """Start a worker."""
        words = (self.host, self.kafka, self.topics.prefix, step, str(at), str(pause), str(queue), str(kib))
        with self._log.open("ab") as output:
            command = (sys.executable, "-m", "tests.contracts.worker", *words)
            self._workers.append(subprocess.Popen(command, stdout=output, stderr=output))
        return self._workers[-1]

    def close(self) -> None:
        """End what a failed test has left."""
        for worker in self._workers:
            worker.kill()
            worker.wait()

    def work(self, step: str = "", at: int = 1) -> None:
        worker = self.start(step, at)
        if step:
            assert worker.wait(60) == -signal.SIGKILL, self._log.read_text()[-3000:]
            worker = self.start()
        self.await_done()
        self.stop(worker)

    def fail(self) -> str:
        worker = self.start()

        assert worker.wait(60) not in {0, -signal.SIGKILL}
        return self._log.read_text()[-3000:]

    def refused(self) -> int:
        return sum(map(int, re.findall(r"the broker refuses (\d+) outputs", self._log.read_text())))

    def stop(self, worker: subprocess.Popen[bytes]) -> None:
        """Drain a worker; it has to end well."""
        worker.send_signal(signal.SIGTERM)

        assert worker.wait(60) == 0, self._log.read_text()[-3000:]

    def waited(self) -> tuple[int, int]:
        """Give how many records and bytes waited at most, as drained workers said."""
        found = re.findall(r"at most (\d+) records of (\d+) bytes waited", self._log.read_text())
        return max(int(records) for records, _ in found), max(int(size) for _, size in found)

    def shared(self) -> bool:
        """Tell whether two workers have partitions."""
        admin = AdminClient({"bootstrap.servers": self.kafka})
        group = f"{self.topics.prefix}.sums"
        found = admin.describe_consumer_groups([group])[group].result(60)
        return len([member for member in found.members if member.assignment.topic_partitions]) == 2

    def await_done(self) -> None:
        """Wait until the group has committed everything."""
        lag = Lag(self.kafka, f"{self.topics.prefix}.sums")
        until(lambda: lag.records(self.topics.payloads) == 0)
        lag.close()

    def read(self, topic: str) -> list[Output]:
        consumer = Consumer({"bootstrap.servers": self.kafka, "group.id": "reader", "enable.auto.commit": False})
        found: list[Output] = []
        for partition in range(PARTITIONS):
            place = TopicPartition(topic, partition, 0)
            _, end = consumer.get_watermark_offsets(place, timeout=60)
            consumer.assign([place])
            while end and consumer.position([place])[0].offset < end:
                messages = consumer.consume(500, timeout=0.2)
                found += [Output(topic, m.key(), m.value(), tuple(m.headers() or ()), partition) for m in messages]  # type: ignore[arg-type]
        consumer.close()
        return found


def until(condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
    """Wait for what has to come."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.05)


@pytest.fixture(params=["memory", *(pytest.param(name, marks=pytest.mark.kafka) for name in (*KAFKA_HOSTS, AHEAD))])
def limited(
    request: pytest.FixtureRequest, topics: Topics, tmp_path: Path
) -> Iterator[Callable[[Mapping[str, int]], World]]:
    """Give what makes each host's world in turn, with limits to the size of some topics' records."""
    worlds: list[World] = []

    def made(limits: Mapping[str, int]) -> World:
        if request.param == "memory":
            worlds.append(MemoryWorld(topics, limits))
        else:
            worlds.append(KafkaWorld(topics, request.getfixturevalue("kafka"), request.param, tmp_path, limits))
        return worlds[-1]

    yield made
    for world in worlds:
        world.close()


@pytest.fixture
def world(limited: Callable[[Mapping[str, int]], World]) -> World:
    """Give each host's world in turn."""
    return limited({})


@pytest.fixture(params=[pytest.param(name, marks=pytest.mark.kafka) for name in KAFKA_HOSTS])
def kafka_world(request: pytest.FixtureRequest, kafka: str, topics: Topics, tmp_path: Path) -> Iterator[KafkaWorld]:
    """Give the worlds that have processes."""
    world = KafkaWorld(topics, kafka, request.param, tmp_path)
    yield world
    world.close()


def expected(records: Sequence[tuple[str, str]]) -> dict[str, list[int]]:
    """Give the running sums per key."""
    totals: dict[str, list[int]] = {}
    for key, value in records:
        before = totals.setdefault(key, [])
        before.append((before[-1] if before else 0) + int(value))
    return totals


def by_key(sums: Sequence[dict[str, object]]) -> dict[str, list[object]]:
    """Group outputs by key, in order."""
    found: dict[str, list[object]] = {}
    for body in sums:
        found.setdefault(str(body["key"]), []).append(body["sum"])
    return found


def test_order_per_key_and_everything_once(world: World) -> None:
    """Every record has its effect once, and each key's in order."""
    world.fill(RECORDS)
    world.work()

    assert by_key(world.sums()) == expected(RECORDS)


@pytest.mark.parametrize("step", STEPS)
def test_a_crash_at_any_step_changes_nothing(world: World, step: str) -> None:
    """Killed before or after publishing, saving and committing: the same outputs with the same ids."""
    world.fill(RECORDS)
    world.work(step, at=3)

    assert by_key(world.sums()) == expected(RECORDS)


def test_poison_goes_to_the_dead_letters_alone(world: World) -> None:
    """A record on which the stage raises is kept with its place and reason; its neighbours go through in order."""
    poisoned = [*RECORDS[:20], ("k1", "poison"), *RECORDS[20:]]
    world.fill(poisoned)
    world.work()
    (letter,) = world.read(world.topics.deadletter)

    assert by_key(world.sums()) == expected(RECORDS)
    assert letter.value == b"poison"
    headers = dict(letter.headers)
    assert headers["sl_reason"] == b"poison"
    assert headers["sl_partition"] == str(partition_of(b"k1", PARTITIONS)).encode()


def test_a_refused_output_goes_to_the_dead_letters_alone(
    limited: Callable[[Mapping[str, int]], World], topics: Topics
) -> None:
    """An output that its topic will never take is kept with its reason and its place; all others arrive, once."""
    world = limited({topics.observations: 2_000})
    long = Random(1).randbytes(1_500).hex()
    world.fill([*RECORDS[:20], (long, "7"), *RECORDS[20:]])
    world.work()
    (letter,) = world.read(topics.deadletter)
    headers = dict(letter.headers)

    assert by_key(world.sums()) == expected(RECORDS)
    assert json.loads(letter.value or b"")["key"] == long
    assert (headers["sl_reason"], headers["sl_target"]) == (b"refused", topics.observations.encode())
    assert headers["sl_partition"] == str(partition_of(long.encode(), PARTITIONS)).encode()
    assert int(headers["sl_offset"] or b"") <= 21
    assert world.refused() == 1


def test_a_host_that_can_keep_nothing_stops_and_says_so(
    limited: Callable[[Mapping[str, int]], World], topics: Topics
) -> None:
    """When even the dead-letter topic refuses, going on would lose the record and waiting would never end."""
    world = limited({topics.observations: 2_000, topics.deadletter: 100})
    world.fill([(Random(1).randbytes(1_500).hex(), "7")])

    assert f"topic {topics.deadletter!r} refuses even a dead letter without content" in world.fail()
    assert world.read(topics.deadletter) == []


def test_later_records_continue_from_the_state(world: World) -> None:
    """A second start takes up where the first one stopped, with its sums."""
    world.fill(RECORDS[:30])
    world.work()
    world.fill(RECORDS[30:])
    world.work()

    assert by_key(world.sums()) == expected(RECORDS)


def test_silence_is_told(kafka_world: KafkaWorld) -> None:
    """At the end of a quiet partition, the stage of each one is told so."""
    kafka_world.fill(RECORDS)
    worker = kafka_world.start()
    until(lambda: _idles(kafka_world) == {"idle-0", "idle-1"})
    kafka_world.stop(worker)


def test_a_second_worker_takes_over(kafka_world: KafkaWorld) -> None:
    """Partitions move when a worker joins and when one is killed; nothing is lost or counted twice."""
    kafka_world.fill(RECORDS)
    first = kafka_world.start(pause=0.02)
    second = kafka_world.start(pause=0.02)
    until(lambda: len(kafka_world.read(kafka_world.topics.observations)) > 5)
    first.kill()
    first.wait()
    kafka_world.fill(RECORDS)
    kafka_world.await_done()
    kafka_world.stop(second)

    assert by_key(kafka_world.sums()) == expected([*RECORDS, *RECORDS])


def test_drain_finishes_the_running_batch(kafka_world: KafkaWorld) -> None:
    """SIGTERM in the middle of the work ends the worker well; a later one does the rest, and nothing twice."""
    # More than it can do until the first few are seen, however slow the machine is.
    many = [(f"k{number % 5}", str(number)) for number in range(1_000)]
    kafka_world.fill(many)
    worker = kafka_world.start(pause=0.05)
    until(lambda: len(kafka_world.read(kafka_world.topics.observations)) > 5)
    kafka_world.stop(worker)
    done = len(kafka_world.sums())
    kafka_world.work()

    assert 5 < done < len(many)
    assert by_key(kafka_world.sums()) == expected(many)


def test_a_slow_stage_holds_its_host_back(kafka_world: KafkaWorld) -> None:
    """However much lies in the topic, no more records wait for a stage than the settings say; all get done."""
    many = [(f"k{number % 5}", str(number)) for number in range(160)]
    kafka_world.fill(many)
    worker = kafka_world.start(pause=0.002, queue=20)
    kafka_world.await_done()
    kafka_world.stop(worker)
    most, _ = kafka_world.waited()

    assert 0 < most <= 20 * PARTITIONS
    assert by_key(kafka_world.sums()) == expected(many)


@pytest.mark.kafka
def test_large_records_hold_the_native_host_back(kafka: str, topics: Topics, tmp_path: Path) -> None:
    """No more bytes wait than the settings say and one read brings."""
    world = KafkaWorld(topics, kafka, "native", tmp_path)
    many = [(f"k{number % 5}", f"{number:04000}") for number in range(100)]
    world.fill(many)
    worker = world.start(pause=0.002, kib=16)
    world.await_done()
    world.stop(worker)
    _, most = world.waited()

    assert 0 < most <= PARTITIONS * (16 * 1024 + 7 * 4_300)
    assert by_key(world.sums()) == expected(many)


def test_a_partition_that_was_full_goes_on_when_it_comes_back(kafka_world: KafkaWorld) -> None:
    """A partition that was held back when it went to another worker, and then returned, does not stand still."""
    many = [(f"k{number % 5}", str(number)) for number in range(140)]
    kafka_world.fill(many)
    first = kafka_world.start(pause=0.01, queue=7)
    until(lambda: len(kafka_world.read(kafka_world.topics.observations)) > 10)
    second = kafka_world.start(pause=0.01, queue=7)
    until(kafka_world.shared)
    kafka_world.stop(second)
    kafka_world.await_done()
    kafka_world.stop(first)

    assert by_key(kafka_world.sums()) == expected(many)


def test_the_memory_host_holds_one_batch(topics: Topics) -> None:
    """However much lies in the topic, a stage gets no more than the batch that was asked for."""
    world = MemoryWorld(topics)
    world.fill(RECORDS)
    sizes: list[int] = []

    class Measured(Sums):
        def process(self, batch: Batch) -> Effects:
            sizes.append(len(batch.records))
            return super().process(batch)

    host = MemoryHost(
        world.log, topics.payloads, lambda p: Measured(p, topics.observations), MemoryPublisher(world.log),
        world.store, RunnerSettings(stage="sums", deadletter=topics.deadletter), batch=4,
    )  # fmt: skip
    host.run()

    assert max(sizes) == 4
    assert by_key(world.sums()) == expected(RECORDS)


@pytest.mark.kafka
def test_state_lives_in_a_compacted_topic(kafka: str, topics: Topics, tmp_path: Path) -> None:
    """Any worker can find a partition's state: in Kafka, where compaction keeps it small."""
    world = KafkaWorld(topics, kafka, "native", tmp_path)
    world.fill(RECORDS)
    world.work()
    name = topics.state("sums")
    resource = ConfigResource(ResourceType.TOPIC, name)
    admin = AdminClient({"bootstrap.servers": kafka})
    config = admin.describe_configs([resource])[resource].result(60)
    store = KafkaStateStore(kafka, name, ConfluentPublisher(PublisherSettings(bootstrap=kafka)))
    kept = [store.load(partition) for partition in range(PARTITIONS)]

    assert config["cleanup.policy"].value == "compact"
    assert sum(checkpoint.position for checkpoint in kept if checkpoint is not None) == len(RECORDS)


def test_the_memory_host_waits_for_a_broker_that_is_away(topics: Topics) -> None:
    """While nothing can be published nothing counts as done; once it can, the same records have their effect."""
    world = MemoryWorld(topics)
    world.fill(RECORDS)
    publisher = MemoryPublisher(world.log)
    publisher.fail = ConnectionError("away")
    host = MemoryHost(
        world.log, topics.payloads, lambda p: Sums(p, topics.observations), publisher, world.store,
        RunnerSettings(stage="sums", deadletter=topics.deadletter),
    )  # fmt: skip
    with pytest.raises(Abandoned):
        host.run()
    assert world.sums() == []
    world.work()

    assert by_key(world.sums()) == expected(RECORDS)


def _idles(world: KafkaWorld) -> set[str]:
    bodies = [json.loads(output.value or b"{}") for output in world.read(world.topics.observations)]
    return {body["id"] for body in bodies if "key" not in body}


class _Fuse:
    def __init__(self, step: str, at: int) -> None:
        self._step, self._left = step, at

    def reach(self, step: str) -> None:
        if step == self._step:
            self._left -= 1
            if self._left == 0:
                raise Crash


class _FusedPublisher(MemoryPublisher):
    def __init__(self, log: MemoryLog, fuse: _Fuse) -> None:
        super().__init__(log)
        self._fuse = fuse

    def send(self, output: Output, done: Done) -> None:
        self._fuse.reach("before-publish")
        super().send(output, done)
        self.flush(0)
        self._fuse.reach("after-publish")


class _FusedStore(MemoryStateStore):
    def __init__(self, store: MemoryStateStore, fuse: _Fuse) -> None:
        super().__init__()
        self._store, self._fuse = store, fuse

    def load(self, partition: int) -> Checkpoint | None:
        return self._store.load(partition)

    def save(self, partition: int, checkpoint: Checkpoint) -> None:
        self._fuse.reach("before-save")
        self._store.save(partition, checkpoint)
        self._fuse.reach("after-save")
        self._fuse.reach("before-commit")
