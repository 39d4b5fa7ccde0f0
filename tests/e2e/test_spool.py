"""The spool in the real process: a dead sink, kill -9 of everything, a broker that comes: every safe event arrives."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from deploy.kafka.topics import ensure_topics
from streams.topics import Topics
from tests.e2e.test_sidecar import Sidecar, events, ids, sidecar
from tests.inference.serving import eventually

CALLS = 150


@contextmanager
def black_hole() -> Iterator[str]:
    """Listen, take connections, and never say a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def kill_all(logger: Sidecar) -> None:
    """Kill -9 the parent and every child, at once."""
    children = Path(f"/proc/{logger.process.pid}/task/{logger.process.pid}/children").read_text().split()
    for pid in (logger.process.pid, *map(int, children)):
        # A child is told to end when its parent has, and may be faster.
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    logger.process.wait()


@pytest.mark.kafka
@pytest.mark.parametrize("sync", ["fsync", "none"])
def test_what_was_spooled_outlives_the_logger(kafka: str, topics: Topics, tmp_path: Path, sync: str) -> None:
    """The sink is a black hole, then everything is killed; the next logger finds the events and sends them all."""
    ensure_topics(kafka, topics.declared(4))
    words = ("--outbox", "spool", "--spool-dir", str(tmp_path / "spool"), "--spool-sync", sync)
    with black_hole() as nowhere, sidecar(nowhere, topics.payloads, tmp_path, *words) as logger:
        asyncio.run(logger.call(CALLS))
        eventually(lambda: logger.counted("sidelight_logger_spooled") == 2 * CALLS, "everything on disk")
        in_flight = logger.counted("sidelight_logger_in_flight")
        kill_all(logger)
    with sidecar(kafka, topics.payloads, tmp_path, *words) as logger:
        asyncio.run(logger.call(CALLS))
        eventually(lambda: logger.counted("kserve_logger_events_sent_total") == 4 * CALLS, "the deliveries")
        recovered = logger.counted("sidelight_logger_recovered_total")
        logger.process.send_signal(signal.SIGTERM)
        code = logger.process.wait(60)
        log = logger.log.read_text()
    found = ids(kafka, topics.payloads)

    assert in_flight == 0
    assert (recovered, code) == (2 * CALLS, 0)
    assert f"{2 * CALLS} events captured, {2 * CALLS} recovered, {4 * CALLS} delivered, 0 spooled, dropped {{}}" in log
    assert len(found) == len(set(found)) == 4 * CALLS


class Clients:
    """Sends calls until it is told to stop, and knows which were answered to the end."""

    def __init__(self) -> None:
        self.answered: set[str] = set()
        self.stop = threading.Event()

    def run(self, url: str, cycle: int) -> None:
        """Call, four at a time; whatever the logger's death does to a call, it is not counted as answered."""

        async def client(number: int) -> None:
            async with httpx.AsyncClient(base_url=url, timeout=60) as http:
                count = 0
                while not self.stop.is_set():
                    count += 1
                    name = f"k{cycle}-{number}-{count}"
                    try:
                        answer = await http.post(
                            "/v1/models/m:predict", json={"instances": [[count]]}, headers={"x-request-id": name}
                        )
                    except httpx.TransportError:
                        return
                    assert answer.json() == {"instances": [[count]]}
                    self.answered.add(name)

        async def all_of_them() -> None:
            await asyncio.gather(*(client(number) for number in range(4)))

        asyncio.run(all_of_them())


@pytest.mark.kafka
def test_no_answered_call_is_lost(kafka: str, topics: Topics, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Audit mode: after kill -9 of everything under load, again and again, every answered call has both of its events.

    Events that come twice have equal ids and contents.
    """
    generator = random.Random(20)
    ensure_topics(kafka, topics.declared(4))
    words = ("--outbox", "spool", "--spool-dir", str(tmp_path / "spool"), "--hold-ms", "30000")
    answered: set[str] = set()
    for cycle in range(int(request.config.getoption("--kills"))):
        clients = Clients()
        with sidecar(kafka, topics.payloads, tmp_path, *words) as logger:
            load = threading.Thread(target=clients.run, args=(logger.url, cycle))
            load.start()
            wanted = generator.randrange(1, 120)
            eventually(lambda own=clients, most=wanted: len(own.answered) >= most, "progress")  # type: ignore[misc] # defaults
            kill_all(logger)
            clients.stop.set()
            load.join()
        answered |= clients.answered
    with sidecar(kafka, topics.payloads, tmp_path, *words) as logger:
        logger.process.send_signal(signal.SIGTERM)
        assert logger.process.wait(60) == 0, logger.log.read_text()
    found: dict[str, tuple[object, ...]] = {}
    for identity, content in events(kafka, topics.payloads):
        assert found.setdefault(identity, content) == content
    seen = Counter(content[0] for content in found.values())

    assert len(answered) > 0
    assert {name for name in answered if seen[name] != 2} == set()


@pytest.mark.kafka
def test_a_broken_disk_costs_nothing(kafka: str, topics: Topics, tmp_path: Path) -> None:
    """The spool cannot be opened: calls are answered, events go directly, and metrics and log say so."""
    ensure_topics(kafka, topics.declared(4))
    (tmp_path / "file").touch()
    words = ("--outbox", "spool", "--spool-dir", str(tmp_path / "file" / "spool"), "--log-format", "json")
    with sidecar(kafka, topics.payloads, tmp_path, *words) as logger:
        asyncio.run(logger.call(50))
        eventually(lambda: logger.counted("kserve_logger_events_sent_total") == 100, "the deliveries")
        healthy = logger.counted("sidelight_logger_spool_healthy")
        logger.process.send_signal(signal.SIGTERM)
        code = logger.process.wait(60)
        lines = [json.loads(line) for line in logger.log.read_text().splitlines()]

    assert (healthy, code) == (0, 0)
    assert any(line["level"] == "error" and "the spool failed" in line["message"] for line in lines)
    assert len(set(ids(kafka, topics.payloads))) == 100


@pytest.mark.kafka
def test_several_sinks(kafka: str, topics: Topics, tmp_path: Path) -> None:
    """Kafka, a folder and an HTTP sink that is a black hole: the first two have everything, whatever the third does."""
    ensure_topics(kafka, topics.declared(4))
    with black_hole() as nowhere:
        more = f"{topics.payloads},file://{tmp_path}/events,http://{nowhere}/in?outbox=spool"
        with sidecar(kafka, more, tmp_path, "--spool-dir", str(tmp_path / "spool")) as logger:
            asyncio.run(logger.call(100))
            sent = "kserve_logger_events_sent_total"
            eventually(lambda: logger.counted(f'{sent}{{sink="kafka') == 200, "Kafka's")
            eventually(lambda: logger.counted(f'{sent}{{sink="file') == 200, "the folder's")
            logger.process.send_signal(signal.SIGTERM)
            code = logger.process.wait(60)
            log = logger.log.read_text()
    lines = [line for path in (tmp_path / "events").iterdir() for line in path.read_bytes().splitlines()]

    assert code == 0, log
    assert len(set(ids(kafka, topics.payloads))) == 200
    assert len({json.loads(line)["id"] for line in lines}) == 200
    assert "200 events captured, 0 recovered, 0 delivered, 200 spooled, dropped {}" in log


def test_a_stop_leaves_what_is_safe_on_disk(tmp_path: Path) -> None:
    """With the sink away a stop takes no longer than it may, drops nothing, and ends with code 0."""
    words = ("--outbox", "spool", "--spool-dir", str(tmp_path / "spool"))
    with black_hole() as nowhere, sidecar(nowhere, "t", tmp_path, *words) as logger:
        asyncio.run(logger.call(20))
        logger.process.send_signal(signal.SIGTERM)
        code = logger.process.wait(60)
        log = logger.log.read_text()

    assert code == 0
    assert "40 events captured, 0 recovered, 0 delivered, 40 spooled, dropped {}" in log
