"""A stage as a process: what its metrics page says, and that it says it while records come."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, make_wsgi_app

from deploy import page, scrape
from deploy.kafka.ports import free_port
from deploy.kafka.topics import ensure_topics
from deploy.scrape import Samples
from streams.events import RESPONSE_TYPE
from streams.hosts.native import NativeHost
from streams.hosts.runner import RunnerSettings
from streams.hosts.settings import HostSettings
from streams.publishers.memory import MemoryLog, MemoryPublisher
from streams.state import MemoryStateStore
from streams.topics import Topics
from tests.contracts.stages import Sums
from tests.deploy.commands.calling import Sidelight
from tests.deploy.laying import Laid, event, lay
from tests.inference.serving import ROOT, eventually

PAIRS = 200


class Worker:
    """An assembler with its page."""

    def __init__(self, folder: Path, kafka: str, topics: Topics, *more: str) -> None:
        self.port, self.log = free_port(), folder / "worker.log"
        words = ("--kafka", kafka, "--prefix", topics.prefix, "--metrics-port", str(self.port))
        command = Sidelight(folder).command("assembler", *words, *more)
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(command, stdout=output, stderr=output)

    def page(self) -> Samples | None:
        """Read the page; None when it does not answer in time."""
        return scrape.read(f"http://127.0.0.1:{self.port}/metrics", 30.0)

    def probe(self, path: str) -> tuple[int, str]:
        """Ask for a path; give status and text, 0 as long as nobody answers."""
        return probed(self.port, path)

    def count(self, counter: str) -> float:
        """Give a counter of the stage; 0 as long as nobody answers."""
        return (self.page() or Samples()).total("sidelight_stage_total", counter=counter)

    def stop(self) -> int:
        """Drain it; give the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


def probed(port: int, path: str) -> tuple[int, str]:
    """Ask a page for a path; give status and text, 0 as long as nobody answers."""
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    except OSError:
        return 0, ""
    finally:
        connection.close()


@pytest.fixture
def worker(kafka: str, topics: Topics, tmp_path: Path) -> Iterator[Worker]:
    """Give a worker that is ready, and end it."""
    ensure_topics(kafka, topics.declared(1))
    found = Worker(tmp_path, kafka, topics)
    eventually(lambda: found.page() is not None or found.process.poll() is not None, "the page")
    yield found
    found.process.kill()
    found.process.wait()


def pairs(first: int, count: int) -> list[Laid]:
    """Give requests, each with its response."""
    return [
        laid
        for at in range(first, first + count)
        for laid in (
            Laid(event(f"q{at}", b'{"instances":[[1]]}', correlationid=f"c{at}", protocol="v1", statuscode=200)),
            Laid(
                event(
                    f"r{at}",
                    b'{"predictions":[1]}',
                    RESPONSE_TYPE,
                    correlationid=f"c{at}",
                    protocol="v1",
                    statuscode=200,
                )
            ),
        )
    ]


@pytest.mark.kafka
def test_the_page_answers_while_records_come(kafka: str, topics: Topics, worker: Worker) -> None:
    """Whoever asks is answered amid the traffic, each time; in the end nothing is behind."""
    ended, asked = threading.Event(), list[Samples | None]()

    def ask() -> None:
        while not ended.is_set():
            asked.append(worker.page())

    asking = threading.Thread(target=ask)
    asking.start()
    for at in range(10):
        lay(kafka, topics.payloads, pairs(at * PAIRS, PAIRS))
    eventually(lambda: worker.count("paired") == 20 * PAIRS and len(asked) > 10, "all pairs")
    ended.set()
    asking.join()
    eventually(lambda: (worker.page() or Samples()).by("sidelight_stage_lag", "partition") == {"0": 0.0}, "no lag")

    assert None not in asked
    assert worker.stop() == 0


@pytest.mark.kafka
def test_probes_are_answered_beside_the_metrics(worker: Worker) -> None:
    """Once the worker has joined its group it is ready; other paths are named in a 404."""
    eventually(lambda: worker.probe("/readyz") == (200, "ok\n"), "ready")

    assert worker.probe("/healthz") == (200, "ok\n")
    assert worker.probe("/") == (404, "expected /metrics or /healthz or /readyz\n")
    assert worker.stop() == 0


@pytest.mark.kafka
@pytest.mark.parametrize("host", ["native", "faust"])
def test_a_standby_is_ready(kafka: str, topics: Topics, tmp_path: Path, host: str) -> None:
    """Of two workers for one partition both are: the one without takes over when the other goes."""
    ensure_topics(kafka, topics.declared(1))
    workers = [Worker(tmp_path, kafka, topics, "--host", host) for _ in range(2)]
    try:
        for found in workers:
            eventually(lambda found=found: found.probe("/readyz") == (200, "ok\n"), "ready")  # type: ignore[misc]
        lay(kafka, topics.payloads, pairs(0, PAIRS))
        eventually(lambda: sum(found.count("paired") for found in workers) == 2 * PAIRS, "all pairs")
        idle = [found for found in workers if not found.count("paired")]
        ready = [found.probe("/readyz")[0] for found in workers]
    finally:
        for found in workers:
            found.process.kill()
            found.process.wait()

    assert len(idle) == 1
    assert ready == [200, 200]


@pytest.mark.kafka
def test_a_worker_that_has_joined_nothing_is_not_ready(kafka: str, topics: Topics) -> None:
    """The page is there before the group is: a worker that waits for its predecessor's place says 503, and is alive."""
    ensure_topics(kafka, topics.declared(1))
    host = NativeHost(
        HostSettings(bootstrap=kafka, topic=topics.payloads, group=topics.prefix),
        RunnerSettings(stage="stage", deadletter=topics.deadletter),
        lambda partition: Sums(partition, topics.observations),
        MemoryPublisher(MemoryLog({})),
        MemoryStateStore(),
    )
    running = threading.Thread(target=host.run)
    before = host.ready(), host.lost()
    running.start()
    try:
        eventually(host.ready, "ready")
    finally:
        host.stop()
        running.join()

    assert before == (False, "")
    assert not host.ready()


def test_a_probe_that_finds_something_is_a_503() -> None:
    """What a probe finds is what it answers, each time anew."""
    found = ["", "the broker is away"]
    app = page.application(make_wsgi_app(CollectorRegistry()), {"/readyz": found.pop})
    said: list[str] = []

    def ask() -> bytes:
        answer = app({"PATH_INFO": "/readyz"}, lambda status, *_: said.append(status))  # type: ignore[arg-type]
        return b"".join(answer)

    texts = [ask(), ask()]

    assert texts == [b"not now: the broker is away\n", b"ok\n"]
    assert said == ["503 Service Unavailable", "200 OK"]


@pytest.mark.kafka
def test_a_worker_that_has_lost_what_it_needs_ends(kafka: str, topics: Topics, tmp_path: Path) -> None:
    """First the probes say so, then it drains, and the exit code is not 0: it is to be started anew."""
    ensure_topics(kafka, topics.declared(1))
    lay(kafka, topics.payloads, pairs(0, 1))
    gate, port = tmp_path / "gate", free_port()
    words = ("--kafka", kafka, "--prefix", topics.prefix, "--metrics-port", str(port))
    process = subprocess.Popen([sys.executable, "-m", "tests.deploy.losing", str(gate), *words], cwd=ROOT)
    try:
        eventually(lambda: probed(port, "/healthz")[0] == 503, "not healthy")
        said = [probed(port, path) for path in ("/healthz", "/readyz")]
        gate.touch()
        code = process.wait(60)
    finally:
        process.kill()
        process.wait()

    assert said == [(503, "not now: the gate is lost\n")] * 2
    assert code == 1


@pytest.mark.kafka
def test_a_worker_that_is_killed_counts_nothing_twice(
    kafka: str, topics: Topics, worker: Worker, tmp_path: Path
) -> None:
    """Its successor's counters are the checkpoint's: the same sum as if nothing had happened."""
    lay(kafka, topics.payloads, pairs(0, PAIRS))
    eventually(lambda: worker.count("paired") > 0, "some pairs")
    worker.process.kill()
    worker.process.wait()
    lay(kafka, topics.payloads, pairs(PAIRS, PAIRS))
    successor = Worker(tmp_path, kafka, topics)
    eventually(lambda: successor.count("paired") >= 4 * PAIRS, "the rest")
    page = successor.page() or Samples()

    assert page.total("sidelight_stage_total", counter="paired") == 4 * PAIRS
    assert page.total("sidelight_stage_total", counter="rows") == 2 * PAIRS
    assert successor.stop() == 0
    assert "drained; 0 records were not acknowledged" in successor.log.read_text()
