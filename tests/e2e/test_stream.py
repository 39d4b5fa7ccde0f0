"""Requests over real Kafka, answered by processes that are killed at random points: none lost, none out of order."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from urllib.request import urlopen

import pytest
from confluent_kafka import Consumer, TopicPartition

from deploy.kafka.ports import free_port
from deploy.kafka.topics import ensure_topics
from streams.publishers.confluent import ConfluentPublisher, PublisherSettings
from streams.publishing import publish_all
from streams.stage import Output
from streams.topics import Topics, request_topics
from tests.e2e.killing import Worker, await_one_at_work
from tests.inference.kafka import asking
from tests.inference.kafka.asking import KINDS, Told
from tests.inference.kafka.summing import SUMMING

log = logging.getLogger(__name__)

pytestmark = [pytest.mark.kafka, pytest.mark.e2e, pytest.mark.timeout(1_200)]

PARTITIONS: Final = 3
KEYS: Final = 24
CHUNK: Final = 25
SHARE: Final = 150
"""Requests per kill."""
WAIT_S: Final = 180.0
UNREADABLE: Final = 13
"""Every so many-th request is none."""


class Client:
    """Asks, and reads the answers."""

    def __init__(self, kafka: str, topics: Topics) -> None:
        self._topics = topics
        ensure_topics(kafka, request_topics((topics.requests, topics.responses, topics.deadletter), PARTITIONS))
        self._publisher = ConfluentPublisher(PublisherSettings(bootstrap=kafka, client_id="client"))
        self._consumer = Consumer({"bootstrap.servers": kafka, "group.id": f"{topics.prefix}-reader"})
        self._consumer.assign([TopicPartition(topics.responses, place, 0) for place in range(PARTITIONS)])
        self.asked: dict[str, tuple[int, float | None]] = {}
        """Correlation id → number, and the sum that must come; None where the request is none."""
        self.answers: list[Told] = []

    def ask(self, count: int) -> None:
        """Send requests, a few at a time."""
        while count > 0:
            chunk = [self._request() for _ in range(min(count, CHUNK))]
            publish_all(self._publisher, chunk, timeout_s=60.0)
            count -= len(chunk)

    def read(self) -> None:
        """Take what has come."""
        for message in self._consumer.consume(1_000, timeout=0.2):
            assert message.error() is None
            headers = tuple(message.headers() or ())
            self.answers.append(asking.told(Output("", message.key(), message.value(), headers)))  # type: ignore[arg-type]

    def await_all(self) -> None:
        """Read until every request has its answer."""
        deadline = time.monotonic() + WAIT_S
        while len({answer.event.correlation() for answer in self.answers}) < len(self.asked):
            self.read()

            assert time.monotonic() < deadline, f"{len(self.answers)} answers to {len(self.asked)} requests"

    def close(self) -> None:
        """Let go."""
        self._consumer.close()
        self._publisher.close()

    def _request(self) -> Output:
        number = len(self.asked)
        key, correlation = f"k{number % KEYS}".encode(), f"c{number:06d}"
        if number % UNREADABLE == 0:
            self.asked[correlation] = number, None
            return Output(self._topics.requests, key, b"rubbish", (("x-request-id", correlation.encode()),))
        rows = [[float(number), float(row)] for row in range(1 + number % 3)]
        self.asked[correlation] = number, sum(map(sum, rows))
        return asking.request(self._topics.requests, KINDS[number % len(KINDS)], rows, correlation, key)


@contextmanager
def workers(
    kafka: str, topics: Topics, folder: Path, count: int, *words: str, instances: bool = True
) -> Iterator[list[Worker]]:
    """Run workers over a slow model."""
    model = folder / "model"
    model.mkdir()
    (model / "slow").write_text("2")
    common = [
        "stream", "--model_name", "m", "--model_dir", str(model), "--runtime", SUMMING, "--kafka", kafka,
        "--prefix", topics.prefix, "--batch_records", "8", *words,
    ]  # fmt: skip
    own = [["--instance", f"s{place}"] if instances else [] for place in range(count)]
    found = [Worker([*common, *own[place]], folder / f"s{place}.log") for place in range(count)]
    try:
        yield found
        for worker in found:
            worker.stop()
    finally:
        for worker in found:
            worker.end()


def in_order(answers: Sequence[Told], asked: dict[str, tuple[int, float | None]]) -> dict[bytes, list[int]]:
    """Give the numbers of each key's requests as their answers came; an answer that comes again does not count."""
    seen: set[str] = set()
    found: dict[bytes, list[int]] = {}
    for answer in answers:
        if answer.event.id not in seen:
            seen.add(answer.event.id)
            found.setdefault(answer.key or b"", []).append(asked[answer.event.correlation()][0])
    return found


def test_kill_loses_no_answer_and_no_order(
    kafka: str, topics: Topics, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Killed amid traffic: every request is answered, what comes again has an equal id, each key's order is kept."""
    kills: int = request.config.getoption("--kills")
    generator = random.Random(5)
    client = Client(kafka, topics)
    with workers(kafka, topics, tmp_path, 2) as running:
        for _ in range(kills):
            victim = await_one_at_work(running, generator)
            before = generator.randint(CHUNK, SHARE)
            client.ask(before)
            time.sleep(generator.uniform(0, 0.2))  # a random point of the work, not a wait for anything
            victim.kill()
            client.ask(SHARE - before)
            client.read()
        client.await_all()
    client.close()
    by_id: dict[str, Told] = {}
    for answer in client.answers:
        first = by_id.setdefault(answer.event.id, answer)

        assert (first.event.data, first.status, first.key) == (answer.event.data, answer.status, answer.key)
    log.info("%d answers to %d requests came again", len(client.answers) - len(by_id), len(client.asked))
    assert len(by_id) == len(client.asked)
    for answer in by_id.values():
        _, expected = client.asked[answer.event.correlation()]
        assert answer.status == (400 if expected is None else 200), answer.error
        assert sum(answer.sums) == (expected or 0.0)
    for key, numbers in in_order(client.answers, client.asked).items():
        assert numbers == sorted(numbers), f"key {key!r}"


def test_faust_answers_as_well(kafka: str, topics: Topics, tmp_path: Path) -> None:
    """The same stage as a Faust agent: every request answered, in order per key."""
    client = Client(kafka, topics)
    client.ask(200)
    with workers(kafka, topics, tmp_path, 1, "--host", "faust", instances=False):
        client.await_all()
    client.close()
    numbers = in_order(client.answers, client.asked)

    assert sum(map(len, numbers.values())) == len(client.asked)
    assert all(found == sorted(found) for found in numbers.values())


def test_lag_and_counters_are_on_the_page(kafka: str, topics: Topics, tmp_path: Path) -> None:
    """What is done, what is not, and what the model took is there to be scraped."""
    client = Client(kafka, topics)
    client.ask(100)
    port = free_port()
    with workers(kafka, topics, tmp_path, 1, "--metrics-port", str(port)):
        client.await_all()
        lags = until_done(port)
        page = read(port)
    client.close()

    assert lags == [0.0] * PARTITIONS
    assert total(page, "sidelight_stage_total", 'counter="in"') == len(client.asked)
    unreadable = sum(expected is None for _, expected in client.asked.values())
    assert total(page, "sidelight_stage_total", 'counter="unreadable"') == unreadable
    assert total(page, "sidelight_predictor_rows_total", 'model_name="m"') > 0


def until_done(port: int) -> list[float]:
    """Wait until nothing is behind; give the lag of each partition."""
    deadline = time.monotonic() + WAIT_S
    while True:
        lags = [value for name, value in read(port).items() if name.startswith("sidelight_stage_lag")]
        if len(lags) == PARTITIONS and not any(lags):
            return lags

        assert time.monotonic() < deadline, f"still behind: {lags}"
        time.sleep(0.05)


def read(port: int) -> dict[str, float]:
    """Read the metrics page."""
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=WAIT_S) as page:
        lines = page.read().decode().splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[:1] != "#")}


def total(page: dict[str, float], name: str, label: str) -> float:
    """Add up what has this name and label."""
    return sum(value for key, value in page.items() if key.startswith(f"{name}{{") and label in key)
