"""The broker goes away under load and comes back: no answer waits for it, and every event is accounted for.

One story for a clean stop and one for kill -9, each with a Kafka of its own: a logger in front of a model, a collector
that an agent posts to, and an assembler in the middle of a backlog. The tests look at what became of it.
"""

from __future__ import annotations

import ast
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final

import httpx
import orjson
import pyarrow as pa
import pytest

from deploy import environment, scrape
from deploy.kafka import broker, jars, java
from deploy.kafka.topics import ensure_topics
from deploy.lag import end_offsets
from inference.observations import decode_rows
from streams.bindings import from_kafka, to_kafka
from streams.events import Event, format_time
from streams.publishers.confluent import ConfluentPublisher, PublisherSettings
from streams.publishing import publish_all
from streams.reading import Reader
from streams.stage import Output, Record
from streams.topics import Topics
from tests.streams.payloads import START_US, event

pytestmark = [pytest.mark.kafka, pytest.mark.e2e, pytest.mark.timeout(900)]

TOPICS: Final = Topics("outage")
PARTITIONS: Final = 2
BACKLOG: Final = 6_000
DEADLINE_S: Final = 180.0
EVERY_S: Final = 0.02
CLIENT: Final = httpx.Timeout(60.0)


class Model(BaseHTTPRequestHandler):
    """A model that adds up each instance."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Answer."""
        body = predictions(self.rfile.read(int(self.headers["content-length"])))
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *_: object) -> None:  # noqa: A002 - the base class calls it so
        """Say nothing."""


def predictions(body: bytes) -> bytes:
    """Give the model's answer."""
    return orjson.dumps({"predictions": [sum(row) for row in orjson.loads(body)["instances"]]})


class Load(threading.Thread):
    """Calls something again and again, at a modest rate, until told to stop."""

    def __init__(self, call: Callable[[httpx.Client, int], None]) -> None:
        super().__init__()
        self._call, self._ended = call, threading.Event()
        self.count = 0
        self.failure: Exception | None = None

    def run(self) -> None:
        """Call."""
        try:
            with httpx.Client(timeout=CLIENT) as client:
                while not self._ended.wait(EVERY_S):
                    self._call(client, self.count)
                    self.count += 1
        except Exception as exc:  # noqa: BLE001 - shown by the test that waits for this thread
            self.failure = exc

    def end(self) -> None:
        """Let the running call be the last."""
        self._ended.set()
        self.join(DEADLINE_S)

        assert self.failure is None, self.failure


@dataclass
class Story:
    """What happened."""

    folder: Path
    down: bool = False
    answers: list[tuple[bool, int, bool]] = field(default_factory=list)
    """Of the model's clients: whether the broker was away, the status, and whether the body was the model's."""
    attempts: list[tuple[bool, int]] = field(default_factory=list)
    """Of the agent: whether the broker was away when it was answered, and the status."""
    accepted: dict[str, bytes] = field(default_factory=dict)
    """Events that the collector answered with 2xx."""
    exits: dict[str, int] = field(default_factory=dict)
    counters: dict[str, int] = field(default_factory=dict)
    payloads: list[Record] = field(default_factory=list)
    observations: list[Record] = field(default_factory=list)
    deadletters: int = -1

    def ask(self, url: str) -> Callable[[httpx.Client, int], None]:
        """Make the calls of a model's client."""

        def call(client: httpx.Client, number: int) -> None:
            body = orjson.dumps({"instances": [[number, 1.0]]})
            answer = client.post(
                f"{url}/v1/models/m:predict", content=body, headers={"x-request-id": f"log-{number}"}
            )  # fmt: skip
            self.answers.append((self.down, answer.status_code, answer.content == predictions(body)))

        return call

    def post(self, url: str) -> Callable[[httpx.Client, int], None]:
        """Make the calls of a KServe agent, which comes again when it is told to."""

        def call(client: httpx.Client, number: int) -> None:
            for kind, body in (("request", b'{"instances": [[1.0,  2]]}\n'), ("response", b'{"predictions":[3]}')):
                headers = agents_headers(f"agent-{number}", kind)
                while (status := client.post(url, content=body, headers=headers).status_code) != 202:
                    self.attempts.append((self.down, status))
                self.attempts.append((self.down, status))
                self.accepted[f"agent-{number}-{kind}"] = body

        return call

    def logged(self) -> tuple[int, int, dict[str, int]]:
        """Give what the logger said at its end: captured, delivered, dropped."""
        text = (self.folder / "logger.log").read_text()
        found = re.search(r"(\d+) events captured, 0 recovered, (\d+) delivered, 0 spooled, dropped (\{.*\})", text)
        assert found is not None, text[-3000:]
        return int(found[1]), int(found[2]), ast.literal_eval(found[3])


def agents_headers(identity: str, kind: str) -> dict[str, str]:
    """Give the headers of an unmodified KServe agent: one id for both events, an empty endpoint, no correlation."""
    return {
        "ce-id": identity, "ce-source": "http://localhost:9081/", "ce-specversion": "1.0", "ce-endpoint": "",
        "ce-type": f"org.kubeflow.serving.inference.{kind}", "ce-time": format_time(time.time_ns() // 1000),
        "ce-inferenceservicename": "iris", "ce-namespace": "shop", "ce-component": "predictor", "ce-metadata": "{}",
        "content-type": "application/json",
    }  # fmt: skip


def backlog() -> Iterator[Output]:
    """Give the exchanges that lie in the topic when the assembler starts."""
    at_ms = (time.time_ns() // 1000 - START_US) // 1000
    for number in range(BACKLOG):
        for kind in ("request", "response"):
            body = b'{"instances":[[1.0]]}' if kind == "request" else b'{"predictions":[1.0]}'
            headers, value = to_kafka(event(f"old-{number}", kind, at_ms, body))
            yield Output(TOPICS.payloads, b"old-%d" % number, value, headers)


@contextmanager
def process(story: Story, name: str, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run one of our commands; it is drained at the end, and its exit code noted."""
    with (story.folder / f"{name}.log").open("wb") as output:
        running = subprocess.Popen([sys.executable, "-m", "deploy.cli", name, *words], stdout=output, stderr=output)
    try:
        yield running
        running.send_signal(signal.SIGTERM)
        story.exits[name] = running.wait(60)
    finally:
        if running.poll() is None:
            running.kill()
            running.wait()


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for what has to come."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"it never came: {what}"
        time.sleep(0.02)


def metric(port: int, name: str, **labels: str) -> int:
    """Read one number of a process's page; -1 when it does not answer."""
    page = scrape.read(f"http://127.0.0.1:{port}/metrics", 60.0)
    return -1 if page is None else int(page.total(name, **labels))


def read(kafka: str, topic: str) -> list[Record]:
    """Read a whole topic."""
    reader = Reader(kafka)
    found: list[Record] = []
    for partition in range(PARTITIONS):
        low, high = reader.bounds(topic, partition)
        found += reader.read(topic, partition, low, high) if high > low else []
    return found


def end_broker(folder: Path, running: broker.Running, end: str) -> None:
    """Take the broker away."""
    if end == "stop":
        broker.stop(folder)
    else:
        os.kill(running.pid, signal.SIGKILL)
    until(lambda: broker.running(folder) is None, "the broker's end")


@pytest.fixture(scope="module")
def stories(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Story]:
    """Give what tells each story once, in whichever order the tests ask for it."""

    @cache
    def told(end: str) -> Story:
        folder: Path = tmp_path_factory.mktemp(f"outage-{end}")
        class_path = jars.class_path(environment.home() / "kafka", print)
        settings = broker.BrokerSettings(
            folder=folder / "kafka", java=java.find(), class_path=class_path, with_parent=True
        )  # fmt: skip
        first = broker.start(settings, environment.inherited())
        story = Story(folder)
        try:
            tell(story, settings, first, end)
        finally:
            broker.stop(settings.folder)
        return story

    return told


@pytest.fixture(params=["stop", "kill"])
def story(request: pytest.FixtureRequest, stories: Callable[[str], Story]) -> Story:
    """Give the story of a clean stop, and of a kill -9."""
    return stories(request.param)


def tell(story: Story, settings: broker.BrokerSettings, first: broker.Running, end: str) -> None:
    """Let it happen."""
    kafka = first.bootstrap
    ensure_topics(kafka, TOPICS.declared(PARTITIONS))
    publish_all(ConfluentPublisher(PublisherSettings(bootstrap=kafka)), tuple(backlog()), DEADLINE_S)
    model = ThreadingHTTPServer(("127.0.0.1", 0), Model)
    threading.Thread(target=model.serve_forever).start()
    logger, logger_page, collector, assembler_page = (broker.free_port() for _ in range(4))
    common = ("--kafka", kafka, "--prefix", TOPICS.prefix)
    with ExitStack() as stack:
        stack.callback(model.server_close)
        stack.callback(model.shutdown)
        stack.enter_context(process(
            story, "logger", "--log-url", f"kafka://{kafka}/{TOPICS.payloads}", "--host", "127.0.0.1", "--port",
            str(logger), "--component-port", str(model.server_port), "--metrics-port", str(logger_page),
            "--namespace", "shop", "--inference-service", "credit",
        ))  # fmt: skip
        stack.enter_context(process(story, "collector", *common, "--port", str(collector), "--delivery-timeout", "1"))
        until(lambda: metric(logger_page, "sidelight_logger_captured_total") == 0, "the logger")
        until(lambda: answers(collector), "the collector")
        loads = (Load(story.ask(f"http://127.0.0.1:{logger}")), Load(story.post(f"http://127.0.0.1:{collector}")))
        for load in loads:
            load.start()
        until(lambda: all(load.count > 10 for load in loads), "traffic")
        stack.enter_context(process(story, "assembler", *common, "--metrics-port", str(assembler_page)))
        until(lambda: metric(assembler_page, "sidelight_stage_total", counter="in") > 0, "the assembler's first batch")

        end_broker(settings.folder, first, end)
        story.down = True
        asked = loads[0].count
        until(lambda: loads[0].count > asked + 60, "answers during the outage")
        until(lambda: (True, 503) in story.attempts, "the collector's refusal")
        story.down = False
        assert broker.start(settings, environment.inherited()).bootstrap == kafka

        asked, posted = (load.count for load in loads)
        until(lambda: loads[0].count > asked + 20 and loads[1].count > posted + 5, "traffic after the outage")
        for load in loads:
            load.end()
        until(lambda: metric(logger_page, "sidelight_logger_in_flight") == 0, "the logger's deliveries")
        events = end_offsets(kafka, TOPICS.payloads)
        until(lambda: metric(assembler_page, "sidelight_stage_total", counter="in") >= events, "the assembler")
        page = scrape.read(f"http://127.0.0.1:{assembler_page}/metrics", 60.0) or scrape.Samples()
        story.counters = {name: int(value) for name, value in page.by("sidelight_stage_total", "counter").items()}
    story.payloads, story.observations = read(kafka, TOPICS.payloads), read(kafka, TOPICS.observations)
    story.deadletters = end_offsets(kafka, TOPICS.deadletter)


def answers(port: int) -> bool:
    """Tell whether somebody serves there."""
    try:
        return httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == 200
    except httpx.TransportError:
        return False


def events(story: Story) -> list[tuple[Event, Record]]:
    """Read the payload records as events."""
    return [(from_kafka(record.headers, record.value), record) for record in story.payloads]


def test_the_models_answers_never_wait_for_the_broker(story: Story) -> None:
    """Before, during and after the outage each request gets the model's own answer."""
    assert {(status, whole) for _, status, whole in story.answers} == {(200, True)}
    assert sum(down for down, _, _ in story.answers) >= 60


def test_the_logger_accounts_for_every_event(story: Story) -> None:
    """Captured = delivered + dropped, exactly; what is delivered is on the topic; a short outage drops nothing."""
    captured, delivered, dropped = story.logged()
    ids = {event.id for event, _ in events(story) if event.service() == "shop/credit"}

    assert captured == 2 * len(story.answers) == delivered + sum(dropped.values())
    assert delivered == len(ids)
    assert dropped == {}


def test_the_collector_says_2xx_only_for_what_kafka_has(story: Story) -> None:
    """While the broker is away it answers 503; each event that it accepted is on the topic, byte for byte."""
    on_topic = {
        f"{event.id}-{event.type.rpartition('.')[2]}": record.value
        for event, record in events(story)
        if event.service() == "shop/iris"
    }

    assert {status for _, status in story.attempts} == {202, 503}
    assert (True, 503) in story.attempts
    assert on_topic == story.accepted


def test_everything_becomes_a_row_exactly_once(story: Story) -> None:
    """Backlog, logged and collected exchanges each have one row at one place, whatever was sent twice; none is dead."""
    tables = [decode_rows(record.value) for record in story.observations if record.value is not None]
    names = ("_partition", "_offset", "_row", "_id")
    rows = pa.concat_tables([table.select(names) for table in tables]).to_pylist()
    places = {(row["_partition"], row["_offset"], row["_row"]): row["_id"] for row in rows}
    expected = {f"old-{number}" for number in range(BACKLOG)}
    expected |= {f"log-{number}" for number in range(len(story.answers))}
    expected |= {name.rpartition("-")[0] for name in story.accepted}

    assert Counter(places.values()) == dict.fromkeys(expected, 1)
    assert all(places[row["_partition"], row["_offset"], row["_row"]] == row["_id"] for row in rows)
    assert story.deadletters == 0


def test_the_assemblers_law_holds_over_the_outage(story: Story) -> None:
    """In = paired + duplicates, and nothing waits, expired or was given up."""
    counts = story.counters

    assert counts["in"] == len(story.payloads) == counts["paired"] + counts["duplicates"]
    assert counts["rows"] == counts["paired"] // 2
    assert counts["waiting"] == counts["expired"] == counts["evicted"] == counts["deadlettered"] == 0


def test_every_process_drains_well(story: Story) -> None:
    """None of them ended in the outage, and each ends with code 0 when it is asked to."""
    assert story.exits == {"logger": 0, "collector": 0, "assembler": 0}
