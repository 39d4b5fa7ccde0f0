"""What the logger's benchmarks share: servers that are started and stopped, and what their processes use.

`bench_logger.py` and `bench_blackhole.py` measure with it; `steady.py` is their second load generator, beside wrk.
"""

from __future__ import annotations

import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

from deploy import environment
from deploy.kafka import broker, jars, java

ROOT = Path(__file__).resolve().parents[1]
LOGGED, UNLOGGED = "/v1/models/m:predict", "/v1/models/m:other"
# nginx takes no word of its configuration above 4 KiB.
PIECE = 2_048
SETTLE_S = 60.0
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Case:
    """One proxy under one load: the proxy's own process stands first."""

    name: str
    port: int
    pids: tuple[int, ...]
    path: str


@dataclass(frozen=True, slots=True)
class Counts:
    """What became of events, since the start."""

    captured: float = 0.0
    sent: float = 0.0
    bare: float = 0.0
    """Kept without their body."""
    dropped: float = 0.0

    def since(self, before: Counts) -> Counts:
        """Give what came between."""
        return Counts(*(getattr(self, name) - getattr(before, name) for name in Counts.__slots__))


def wait_for(port: int) -> None:
    """Return when somebody listens."""
    deadline = time.monotonic() + 30
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            if time.monotonic() > deadline:
                raise SystemExit(f"nobody listens on port {port}") from None
            time.sleep(0.05)
        else:
            return


@contextmanager
def started(
    command: Sequence[str], port: int, folder: Path, name: str,
    *, extra: Mapping[str, str] | None = None, stop: signal.Signals = signal.SIGTERM,
) -> Iterator[int]:  # fmt: skip
    """Run a server until the end of the block; give its process id."""
    with (folder / f"{name}.log").open("wb") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=output, stderr=output, env={**environment.inherited(), **(extra or {})}
        )
    try:
        wait_for(port)
        yield process.pid
    finally:
        process.send_signal(stop)
        process.wait(60)


@contextmanager
def nginx(path: str, folder: Path, name: str, server: str, port: int) -> Iterator[tuple[int, ...]]:
    """Run nginx with one worker; give the worker's process id."""
    config = folder / f"{name}.conf"
    config.write_text(
        f"daemon off; worker_processes 1; pid {folder}/{name}.pid; error_log {folder}/{name}.err;\n"
        "events { worker_connections 1024; }\n"
        "http { access_log off; keepalive_requests 1000000000; default_type application/json;\n"
        " client_body_buffer_size 64k; client_max_body_size 0; proxy_buffers 16 8k; variables_hash_max_size 4096;\n"
        + "".join(f" {kind}_temp_path {folder}/{name}-{kind};" for kind in ("client_body", "proxy", "fastcgi"))
        + f" uwsgi_temp_path {folder}/{name}-uwsgi; scgi_temp_path {folder}/{name}-scgi;\n {server} }}\n"
    )
    with started([path, "-e", f"{folder}/{name}.err", "-c", str(config)], port, folder, name) as pid:
        yield tuple(children(pid))


def payload(size: int) -> bytes:
    """Write JSON of this length, with numbers that compress as numbers do; the same at every run."""
    draw = random.Random(size)
    text = '{"instances": [['
    while len(text) < size - 12:
        text += f"{draw.gauss(0, 1):.6f}, "
    return (text[: size - 4].rstrip(" ,-.") + "0]]}").ljust(size).encode()


def upstream_server(port: int, sizes: Sequence[int]) -> str:
    """Configure a model that gives fixed answers, one for each body size."""
    maps, answers = "", ""
    for size in sizes:
        body = payload(size).decode()
        names = []
        for at in range(0, size, PIECE):
            names.append(f"$body{size}_{at}")
            maps += f"map $host {names[-1]} {{ default '{body[at : at + PIECE]}'; }}\n"
        answers += f'if ($arg_size = "{size}") {{ return 200 "{"".join(names)}"; }}\n'
    return maps + _reading(port, f"{answers} return 404;")


def _reading(port: int, answer: str) -> str:
    """Configure a server that reads a whole request before it answers, as a model does.

    Bare `return` answers at once, and a proxy may rightly take that for a connection that cannot be used again. So the
    request first goes to a module that wants its body, then fails to find a file, and is answered for that.
    """
    return (
        f"server {{ listen 127.0.0.1:{port} backlog=1024; log_not_found off; root /nonexistent;\n"
        " location / { mirror /read; error_page 404 =200 @answer; }\n"
        f" location = /read {{ internal; return 204; }}\n location @answer {{ {answer} }}\n"
        " location = /status { stub_status; } }"
    )


def proxy_server(port: int, upstream: int) -> str:
    """Configure a plain proxy with kept-alive connections."""
    return (
        f"upstream u {{ server 127.0.0.1:{upstream}; keepalive 64; keepalive_requests 1000000000; }}\n"
        f"server {{ listen 127.0.0.1:{port} backlog=1024; location / {{ proxy_pass http://u; proxy_http_version 1.1;"
        ' proxy_set_header Connection ""; } }'
    )


def sink_server(port: int) -> str:
    """Configure what takes CloudEvents by HTTP: every body is read, and counted."""
    return _reading(port, "return 202;").replace("=200", "=202")


def received(port: int) -> int:
    """Give how many requests nginx has had; this one counts, too."""
    with urlopen(f"http://127.0.0.1:{port}/status") as page:
        return int(page.read().split()[9])


@contextmanager
def kafka(given: str, folder: Path) -> Iterator[str]:
    """Give a broker's address: the named one, or an embedded one for the run."""
    if given:
        yield given
        return
    class_path = jars.class_path(environment.home() / "kafka", print)
    settings = broker.BrokerSettings(folder=folder, java=java.find(), class_path=class_path, with_parent=True)
    yield broker.start(settings, environment.inherited()).bootstrap
    broker.stop(folder)


def children(pid: int, least: int = 1) -> list[int]:
    """Give the processes that a process started, as soon as there are so many: a port may listen before them."""
    deadline = time.monotonic() + 30
    while True:
        found = [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        if len(found) >= least:
            return found
        if time.monotonic() > deadline:
            raise SystemExit(f"process {pid} has {len(found)} children, expected {least}")
        time.sleep(0.05)


@contextmanager
def predictor(model: Path, words: Sequence[str] = (), checkout: Path = ROOT) -> Iterator[tuple[int, int]]:
    """Run a checkout's predictor with one model; give its process id and port."""
    command = [
        sys.executable, "-m", "deploy.cli", "predictor", "--model_name", "m", "--model_dir", str(model),
        "--host", "127.0.0.1", "--http_port", "0", *words,
    ]  # fmt: skip
    log = model.parent / "predictor.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=checkout, stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + 60
        while (found := re.search(r"ready on http://127\.0\.0\.1:(\d+)", log.read_text())) is None:
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"the predictor did not start:\n{log.read_text()}")
            time.sleep(0.05)
        yield process.pid, int(found.group(1))
    finally:
        process.terminate()
        process.wait(30)


def cpu_seconds(pids: Sequence[int]) -> float:
    """Give the CPU time that processes have used, all threads of them."""
    total = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICKS


def memory(pids: Sequence[int]) -> float:
    """Give the MiB that processes hold (PSS: what they share counts once)."""
    found = 0
    for pid in pids:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        found += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return found / 1024


def metrics(port: int) -> dict[str, float]:
    """Read the logger's own counters."""
    with urlopen(f"http://127.0.0.1:{port}/metrics") as page:
        lines = page.read().decode().splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[:1] != "#")}


def total(counters: Mapping[str, float], name: str) -> float:
    """Add up what has this name, whatever its labels."""
    return sum(value for key, value in counters.items() if key.partition("{")[0] == name)


def settle(page: int, seconds: float = SETTLE_S) -> dict[str, float]:
    """Wait until nothing of the logger's is in flight or on disk; give its counters."""
    deadline = time.monotonic() + seconds
    while True:
        counters = metrics(page)
        waiting = total(counters, "sidelight_logger_in_flight") + total(counters, "sidelight_logger_spooled")
        if not waiting or time.monotonic() > deadline:
            return counters
        time.sleep(0.2)


def counts(counters: Mapping[str, float]) -> Counts:
    """Give the logger's account in short."""
    return Counts(
        total(counters, "sidelight_logger_captured_total"),
        total(counters, "kserve_logger_events_sent_total"),
        total(counters, "sidelight_logger_stripped_total"),
        total(counters, "kserve_logger_events_dropped_total"),
    )


def rest(count: Callable[[], int], seconds: float = SETTLE_S) -> int:
    """Wait until a count stands still for a second; give it."""
    deadline, last, since = time.monotonic() + seconds, count(), time.monotonic()
    while time.monotonic() - since < 1 and time.monotonic() < deadline:
        time.sleep(0.2)
        now = count()
        if now != last:
            last, since = now, time.monotonic()
    return last
