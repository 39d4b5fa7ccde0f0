"""Kill -9 of assembler and detector workers at random points: the alerts, and their ids, stay what they were."""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest
from confluent_kafka import Consumer, TopicPartition

from deploy.kafka.topics import ensure_topics
from deploy.lag import Lag
from streams.publishers.confluent import ConfluentPublisher, PublisherSettings
from streams.publishing import publish_all
from streams.topics import FAMILIES, Topics
from tests.e2e import traffic
from tests.e2e.killing import Worker, await_one_at_work

pytestmark = [pytest.mark.kafka, pytest.mark.e2e, pytest.mark.timeout(1_200)]

CALLS: Final = 3_000
PARTITIONS: Final = 3
RUNS: Final = 5
KILLS_PER_RUN: Final = 10
CHUNK: Final = 40
"""Records that are sent at once; small, so that a worker is in the middle of something at any moment."""
QUIET_S: Final = 6.0
SETTLE_S: Final = 300.0
WATERMARKS: Final = 4


@contextmanager
def pipeline(kafka: str, prefix: str, monitor: Path, folder: Path) -> Iterator[list[Worker]]:
    """Run two assemblers and two detectors."""
    # Silence between two kills is the test's own: told of it, the stages would take the wall clock for the time.
    common = ["--kafka", kafka, "--prefix", prefix, "--idle-after", "0"]
    roles: dict[str, list[str]] = {"assembler": [], "detector": ["--monitor", str(monitor)]}
    workers = [
        Worker([role, *common, *words, "--instance", f"{role}-{index}"], folder / f"{prefix}-{role}-{index}.log")
        for role, words in roles.items()
        for index in range(2)
    ]
    try:
        yield workers
    finally:
        for worker in workers:
            worker.stop()


class Feed:
    """Writes the same payload log in every run, by one producer and in one order, as far as it is asked to."""

    def __init__(self, kafka: str, topics: Topics) -> None:
        ensure_topics(kafka, topics.declared(PARTITIONS))
        self._publisher = ConfluentPublisher(PublisherSettings(bootstrap=kafka, client_id="traffic"))
        ending = traffic.closing(topics.payloads, CALLS, PARTITIONS)
        self._left = deque([*traffic.payloads(topics.payloads, CALLS), *ending])

    def send(self, records: int) -> None:
        """Write the next records, a few at a time."""
        while records > 0 and self._left:
            chunk = [self._left.popleft() for _ in range(min(CHUNK, records, len(self._left)))]
            publish_all(self._publisher, chunk, timeout_s=60.0)
            records -= len(chunk)

    def finish(self) -> None:
        """Write all that is left."""
        self.send(len(self._left))
        self._publisher.close()


class AlertTopics:
    """Reads everything on a prefix's alert topics."""

    def __init__(self, kafka: str, topics: Topics) -> None:
        self._kafka, self._topics = kafka, topics
        self._consumer = Consumer({"bootstrap.servers": kafka, "group.id": f"{topics.prefix}-reader"})
        names = [topics.alerts(family) for family in FAMILIES]
        self._consumer.assign([TopicPartition(name, p, 0) for name in names for p in range(PARTITIONS)])
        self.seen: dict[str, bytes] = {}

    def read(self) -> bool:
        """Take what has come; say whether an id was new. An id that comes again must carry the same content."""
        before = len(self.seen)
        for message in self._consumer.consume(500, timeout=0.5):
            headers = dict(message.headers() or [])
            identity, content = _text(headers["ce_id"]), message.value() or b""

            assert self.seen.setdefault(identity, content) == content, "one id, two contents"
        return len(self.seen) > before

    def settle(self) -> dict[str, bytes]:
        """Read until both groups have done all their input and nothing new has come for a while after that."""
        lags = [
            (Lag(self._kafka, f"{self._topics.prefix}.assembler"), self._topics.payloads),
            (Lag(self._kafka, f"{self._topics.prefix}.detectors"), self._topics.observations),
        ]
        began = last = time.monotonic()
        while time.monotonic() - last < QUIET_S:
            if self.read() or any(behind(lag, topic) for lag, topic in lags):
                last = time.monotonic()

            assert last - began < SETTLE_S, f"still at work: {[lag.partitions(topic) for lag, topic in lags]}"
        for lag, _ in lags:
            lag.close()
        self._consumer.close()
        return self.seen


def behind(lag: Lag, topic: str) -> bool:
    """Tell whether a group still has work. A silent partition's watermarks go on coming, a few at a time."""
    partitions = lag.partitions(topic)
    return not partitions or max(partitions.values()) > WATERMARKS


def _text(value: object) -> str:
    assert isinstance(value, bytes)
    return value.decode()


@pytest.fixture(scope="module")
def undisturbed(kafka: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Give the alerts of a run that nobody disturbs."""
    folder = tmp_path_factory.mktemp("undisturbed")
    topics = Topics(f"calm{random.randrange(10**9)}")
    Feed(kafka, topics).finish()
    with pipeline(kafka, topics.prefix, traffic.write_monitor(folder), folder):
        return AlertTopics(kafka, topics).settle()


@pytest.mark.parametrize("seed", range(RUNS))
def test_kill_changes_no_alert(kafka: str, undisturbed: dict[str, bytes], tmp_path: Path, seed: int) -> None:
    """Ten kills per run, fifty in all, each of a worker amid traffic: the same alerts, ids and contents."""
    generator = random.Random(seed)
    topics = Topics(f"kill{seed}x{random.randrange(10**9)}")
    feed = Feed(kafka, topics)
    share = 2 * CALLS // (KILLS_PER_RUN + 1)
    with pipeline(kafka, topics.prefix, traffic.write_monitor(tmp_path), tmp_path) as workers:
        for _ in range(KILLS_PER_RUN):
            victim = await_one_at_work(workers, generator)
            before = generator.randint(CHUNK, share)
            feed.send(before)
            victim.kill()
            feed.send(share - before)
        feed.finish()
        alerts = AlertTopics(kafka, topics).settle()

    assert undisturbed
    assert alerts == undisturbed
