"""The spool on a real disk that fills up or turns read-only: calls are answered, and every event is accounted for."""

from __future__ import annotations

import asyncio
import socket
import socketserver
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from deploy.kafka.ports import free_port
from deploy.kafka.topics import ensure_topics
from streams.topics import Topics
from tests.e2e.test_sidecar import Sidecar, ids, sidecar
from tests.e2e.test_spool import black_hole, kill_all
from tests.inference.serving import eventually

pytestmark = [pytest.mark.kafka, pytest.mark.e2e]

DISK_KIB: Final = 1024
VALUES: Final = 1000
"""In a call: with its answer it takes some 10 kB of disk."""


class Disk:
    """A small disk, mounted where only the processes that are started within its namespace see it."""

    def __init__(self, holder: subprocess.Popen[bytes], path: Path) -> None:
        self._holder, self.path = holder, path
        self.within = (
            "nsenter", "--target", str(holder.pid), "--user", "--mount", "--preserve-credentials",
        )  # fmt: skip

    def mount_again(self, how: str) -> None:
        """Change how it is mounted: `ro` or `rw`."""
        subprocess.run((*self.within, "mount", "-o", f"remount,{how}", str(self.path)), check=True)


@contextmanager
def disk(path: Path) -> Iterator[Disk]:
    """Mount one; skip the test where the kernel does not let us."""
    path.mkdir()
    script = 'mount -t tmpfs -o "size=$0k" none "$1" && echo mounted && exec sleep infinity'
    command = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, str(DISK_KIB), str(path))
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as holder:
        assert holder.stdout is not None
        said = holder.stdout.readline()
        if said != b"mounted\n":
            pytest.skip(f"no disk can be mounted in a namespace of our own: {said.decode().strip()}")
        try:
            yield Disk(holder, path)
        finally:
            holder.kill()


class _Relay(socketserver.BaseRequestHandler):
    """Passes bytes on, both ways."""

    server: _RelayServer

    def handle(self) -> None:
        host, _, port = self.server.target.rpartition(":")
        with socket.create_connection((host, int(port))) as there:
            back = threading.Thread(target=_pass_on, args=(there, self.request), daemon=True)
            back.start()
            _pass_on(self.request, there)
            back.join()


class _RelayServer(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, port: int, target: str) -> None:
        super().__init__(("127.0.0.1", port), _Relay)
        self.target = target


def _pass_on(source: socket.socket, sink: socket.socket) -> None:
    try:
        while data := source.recv(65_536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        pass


@contextmanager
def broker_at(port: int, kafka: str) -> Iterator[None]:
    """Let a broker be found at an address where there was none."""
    with _RelayServer(port, kafka) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


def call(logger: Sidecar, count: int) -> None:
    """Send calls with some content, eight at a time; each has to be answered in full."""

    async def main() -> None:
        limits = asyncio.Semaphore(8)
        async with httpx.AsyncClient(base_url=logger.url, timeout=60) as client:

            async def one(number: int) -> None:
                async with limits:
                    content = {"instances": [[number] * VALUES]}
                    answer = await client.post("/v1/models/m:predict", json=content)
                    assert (answer.status_code, answer.json()) == (200, content)

            await asyncio.gather(*(one(number) for number in range(count)))

    asyncio.run(main())


def state(logger: Sidecar) -> dict[str, Any]:
    """Give the account of the one sink; the law has to hold whenever it is asked for."""
    found = httpx.get(logger.metrics.replace("/metrics", "/debug"), timeout=60).json()
    (sink,) = found["sinks"]

    assert found["law"], found
    return dict(sink)


def used_again(logger: Sidecar, most: float) -> bool:
    """Call a little; tell whether the disk works and holds at most so much."""
    call(logger, 8)
    found = state(logger)
    return bool(found["spool_healthy"] == 1.0 and found["spool_bytes"] < most)


def test_a_full_disk_stops_nothing(kafka: str, topics: Topics, tmp_path: Path) -> None:
    """With the broker away the disk fills up: an alarm, no call suffers; when the broker comes, the disk is used again.

    What was given up meanwhile is counted, and all else arrives.
    """
    ensure_topics(kafka, topics.declared(4))
    port = free_port()
    with disk(tmp_path / "disk") as small:
        words = ("--outbox", "spool", "--spool-dir", str(small.path / "spool"), "--log-format", "json")
        with sidecar(f"127.0.0.1:{port}", topics.payloads, tmp_path, *words, within=small.within) as logger:
            while state(logger)["spool_healthy"]:
                call(logger, 40)
            call(logger, 40)
            full = state(logger)
            alarm = logger.counted("sidelight_logger_spool_healthy"), logger.counted("sidelight_logger_spool_failures")
            health = httpx.get(logger.metrics.replace("/metrics", "/healthz"), timeout=60).status_code
            with broker_at(port, kafka):
                # Calls go on coming: what fills the disk must not keep it from being emptied.
                eventually(lambda: used_again(logger, full["spool_bytes"] / 2), "the disk in use")
                failures = state(logger)["spool_failures"]
                call(logger, 40)
                eventually(lambda: state(logger)["spooled"] + state(logger)["in_flight"] == 0, "everything sent")
                end = state(logger)
                logger.process.terminate()
                code = logger.process.wait(60)
                log = logger.log.read_text()
    found = ids(kafka, topics.payloads)

    assert (full["spool_healthy"], health) == (0.0, 200)
    assert alarm[0] == 0.0 < alarm[1]
    assert 0 < full["spooled"] < full["captured"]
    assert "the spool failed, events go on without it: [Errno 28] No space left on device" in log
    assert (end["spool_failures"], code) == (failures, 0), log
    assert end["delivered"] == end["captured"] - sum(end["dropped"].values()) == len(set(found))
    assert set(end["dropped"]) <= {"undelivered"}


def test_a_disk_that_turns_read_only(kafka: str, topics: Topics, tmp_path: Path) -> None:
    """What lies there is safe, but out of reach; new events go directly; when it can be written again all are sent."""
    ensure_topics(kafka, topics.declared(4))
    with disk(tmp_path / "disk") as small:
        words = ("--outbox", "spool", "--spool-dir", str(small.path / "spool"))
        with (
            black_hole() as nowhere,
            sidecar(nowhere, topics.payloads, tmp_path, *words, within=small.within) as logger,
        ):
            call(logger, 20)
            eventually(lambda: state(logger)["spooled"] == 40, "everything on disk")
            kill_all(logger)
        # While a file is open for writing the kernel refuses this, but for a disk that fails.
        small.mount_again("ro")
        with sidecar(kafka, topics.payloads, tmp_path, *words, within=small.within) as logger:
            call(logger, 20)
            eventually(lambda: state(logger)["delivered"] == 40, "the new ones sent")
            read_only = state(logger)
            small.mount_again("rw")
            eventually(lambda: state(logger)["delivered"] == 80, "the old ones sent")
            end = state(logger)
            log = logger.log.read_text()

    assert (read_only["spool_healthy"], read_only["recovered"]) == (0.0, 0)
    assert "Read-only file system" in log
    assert (end["spool_healthy"], end["recovered"], end["spooled"], end["dropped"]) == (1.0, 40, 0, {})
    assert len(set(ids(kafka, topics.payloads))) == 80
