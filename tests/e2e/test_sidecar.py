"""The logger as a process, on a real Kafka: parts of it are killed while it serves, and no answer or event is lost."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from confluent_kafka import Consumer, TopicPartition

from deploy.kafka.ports import free_port
from deploy.kafka.topics import ensure_topics
from logger.tap import sampled
from streams.topics import Topics
from tests.inference.serving import ROOT, eventually

CALLS = 1_500
KILLS = 6


class Model(BaseHTTPRequestHandler):
    """Answers every POST with its own body."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Answer."""
        body = self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
        """Say nothing."""


class ModelServer(ThreadingHTTPServer):
    """Runs it. A logger that is killed breaks connections, which is no news."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Model)

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of broken connections."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type] # as given


@dataclass
class Sidecar:
    """A running logger in front of a running model."""

    url: str
    metrics: str
    topic: str
    process: subprocess.Popen[bytes]
    log: Path
    statuses: list[int] = field(default_factory=list)

    def named(self, name: str) -> int:
        """Give the process id of a part, 0 while it does not run."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        for child in children:
            # One may end while it is looked at.
            with contextlib.suppress(OSError):
                if Path(f"/proc/{child}/comm").read_text().strip() == name:
                    return int(child)
        return 0

    def kill(self, name: str) -> None:
        """Kill a part with SIGKILL and wait until its successor runs."""
        old = self.named(name)
        assert old, name
        os.kill(old, signal.SIGKILL)
        eventually(lambda: self.named(name) not in {0, old}, f"a new {name}")

    def counted(self, name: str) -> float:
        """Read one counter, 0 while the page is away."""
        try:
            lines = httpx.get(self.metrics, timeout=60).text.splitlines()
        except httpx.TransportError:
            return 0.0
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))

    async def call(self, count: int) -> None:
        """Send calls, eight at a time; keep the statuses."""
        limits = asyncio.Semaphore(8)
        async with httpx.AsyncClient(base_url=self.url, timeout=60) as client:

            async def one(number: int) -> None:
                async with limits:
                    answer = await client.post("/v1/models/m:predict", json={"instances": [[number]]})
                    assert answer.json() == {"instances": [[number]]}
                    self.statuses.append(answer.status_code)

            await asyncio.gather(*(one(number) for number in range(count)))


@contextmanager
def sidecar(kafka: str, topic: str, folder: Path, *words: str, within: Sequence[str] = ()) -> Iterator[Sidecar]:
    """Run a model and a logger; `within` is a command that becomes the one that it is given."""
    model = ModelServer()
    threading.Thread(target=model.serve_forever, daemon=True).start()
    port, page = free_port(), free_port()
    command = [
        *within, sys.executable, "-m", "deploy.cli", "logger", "--log-url", f"kafka://{kafka}/{topic}",
        "--host", "127.0.0.1", "--port", str(port), "--component-port", str(model.server_port),
        "--metrics-port", str(page), "--inference-service", "s", "--namespace", "n", *words,
    ]  # fmt: skip
    log = folder / "logger.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output)
    try:
        eventually(lambda: "logger ready" in log.read_text() or process.poll() is not None, "the ready line")
        assert process.poll() is None, log.read_text()
        yield Sidecar(f"http://127.0.0.1:{port}", f"http://127.0.0.1:{page}/metrics", topic, process, log)
    finally:
        process.kill()
        process.wait()
        model.shutdown()
        model.server_close()


def ids(kafka: str, topic: str) -> list[str]:
    """Give the id of every event on a topic."""
    return [identity for identity, _ in events(kafka, topic)]


def events(kafka: str, topic: str) -> list[tuple[str, tuple[object, ...]]]:
    """Give id and (correlation, headers without the time of recording, value) of every event on a topic."""
    consumer = Consumer({"bootstrap.servers": kafka, "group.id": "t", "enable.auto.commit": False})
    partitions = consumer.list_topics(topic, timeout=60).topics[topic].partitions
    ends = {part: consumer.get_watermark_offsets(TopicPartition(topic, part), timeout=60)[1] for part in partitions}
    consumer.assign([TopicPartition(topic, part, 0) for part in partitions])
    found: list[tuple[str, tuple[object, ...]]] = []
    while len(found) < sum(ends.values()):
        for message in consumer.consume(500, timeout=1.0):
            assert message.error() is None
            headers: dict[str, bytes] = dict(message.headers() or [])  # type: ignore[arg-type] # bytes, by us
            headers.pop("ce_recordedtime")
            content = (headers["ce_correlationid"].decode(), tuple(headers.items()), message.value())
            found.append((headers["ce_id"].decode(), content))
    consumer.close()
    return found


@pytest.mark.kafka
def test_killing_the_shipper_loses_nothing(kafka: str, topics: Topics, tmp_path: Path) -> None:
    """Kill -9 again and again under load: every call is answered, every event arrives, twice ones with equal ids."""
    ensure_topics(kafka, topics.declared(4))
    with sidecar(kafka, topics.payloads, tmp_path) as logger:
        load = threading.Thread(target=lambda: asyncio.run(logger.call(CALLS)))
        load.start()
        for kill in range(1, KILLS + 1):
            eventually(lambda done=kill: len(logger.statuses) >= done * CALLS // (KILLS + 2), "progress")  # type: ignore[misc] # a default
            logger.kill("shipper")
        load.join()
        logger.process.send_signal(signal.SIGTERM)
        code = logger.process.wait(60)
        log = logger.log.read_text()
    found = ids(kafka, topics.payloads)

    assert logger.statuses == [200] * CALLS
    assert code == 0, log
    assert f"{2 * CALLS} events captured, 0 recovered, {2 * CALLS} delivered, 0 spooled, dropped {{}}" in log
    assert len(set(found)) == 2 * CALLS
    assert log.count("shipper ended (signal SIGKILL)") == KILLS


@pytest.mark.kafka
def test_what_a_killed_proxy_had_captured_arrives(kafka: str, topics: Topics, tmp_path: Path) -> None:
    """Two proxies share the port; one is killed with its calls done: its events arrive, and the port stays open."""
    ensure_topics(kafka, topics.declared(4))
    with sidecar(kafka, topics.payloads, tmp_path, "--proxies", "2") as logger:
        asyncio.run(logger.call(100))
        # The client may have its answer a moment before the proxy has noted it.
        eventually(lambda: logger.counted("sidelight_logger_captured_total") == 200, "all is captured")
        for name in ("proxy 0", "proxy 1"):
            logger.kill(name)
        eventually(lambda: _open(logger.url), "the port")
        asyncio.run(logger.call(100))
        eventually(lambda: logger.counted("kserve_logger_events_sent_total") == 400, "the deliveries")
        captured = logger.counted("sidelight_logger_captured_total")
        logger.process.send_signal(signal.SIGTERM)
        code = logger.process.wait(60)
    found = ids(kafka, topics.payloads)

    assert (captured, code) == (400, 0)
    assert len(found) == len(set(found)) == 400


def _open(url: str) -> bool:
    try:
        httpx.get(url, timeout=5)
    except httpx.TransportError:
        return False
    return True


def test_a_taken_port_ends_the_start() -> None:
    """Somebody else has the port: the logger ends with a line that says so, and starts nothing again and again."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Model) as other:
        command = [
            sys.executable, "-m", "deploy.cli", "logger", "--log-url", "kafka://127.0.0.1:1", "--host", "127.0.0.1",
            "--port", str(other.server_port),
        ]  # fmt: skip
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 2
    assert re.search(rf"--port {other.server_port}: address already in use", done.stderr, re.IGNORECASE)
    assert "Traceback" not in done.stderr


def test_block_waits_but_not_for_ever(tmp_path: Path) -> None:
    """The broker is away: each answer waits for its event as long as it may, then goes out all the same."""
    with sidecar("127.0.0.1:1", "t", tmp_path, "--outbox", "block", "--hold-ms", "200") as logger:
        asyncio.run(logger.call(2))
        names = [f"sidelight_logger_{name}_total" for name in ("held", "held_late")]
        eventually(lambda: [logger.counted(name) for name in names] == [2, 2], "both are counted")

    assert logger.statuses == [200, 200]


@pytest.mark.kafka
def test_large_bodies_and_sampling(kafka: str, topics: Topics, tmp_path: Path) -> None:
    """A body of 3 MB lies in the store, whole; one call of two is logged, both of its events, and says so."""
    ensure_topics(kafka, topics.declared(4))
    words = ("--claims", f"file://{tmp_path}/bodies", "--sample", "2")
    with sidecar(kafka, topics.payloads, tmp_path, *words) as logger:
        asyncio.run(logger.call(60))
        body = b'{"instances": [[' + b"1," * 1_500_000 + b"1]]}"
        headers = {"x-request-id": next(f"b{at}" for at in range(99) if sampled(b"b%d" % at, 2))}
        answer = httpx.post(f"{logger.url}/v1/models/m:predict", content=body, headers=headers, timeout=60)
        logger.process.send_signal(signal.SIGTERM)
        assert logger.process.wait(60) == 0, logger.log.read_text()
    found = Counter(content[0] for _, content in events(kafka, topics.payloads))
    claimed = [path.read_bytes() for path in (tmp_path / "bodies" / "n" / "s").rglob("*-*-*") if path.is_file()]

    assert answer.content == body
    assert set(found.values()) == {2}
    assert 10 < len(found) < 50
    assert all(sampled(str(name).encode(), 2) for name in found)
    assert claimed == [body, body]
