"""The logger while its broker has gone silent: latency of answers, memory, and what became of every event.

A steady load goes through the logger to a fixed model. First with a sound broker (the baseline), then with the broker
stopped in its tracks (SIGSTOP: connections stay open and nothing is answered), then with the broker back. Shown are p50
and p99 as the client sees them, the memory of all the logger's processes (PSS, so that shared pages count once) and the
account at the end. Run for each outbox policy.

python benchmarks/bench_blackhole.py --outage 300 --rate 1000
"""

from __future__ import annotations

import argparse
import asyncio
import os
import secrets
import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import uvloop
from bench_logger import LOGGED, children, free_port, kafka, metrics, nginx, started, upstream_server

from deploy.kafka import broker
from deploy.kafka.topics import ensure_topics
from streams.topics import Topic

SIZE = 1_024
CONNECTIONS = 16


class Load(asyncio.Protocol):
    """One connection that sends a request when told and notes how long its answer took."""

    def __init__(self, times: list[float]) -> None:
        self.times = times
        self.transport: Any = None
        self.due: list[float] = []
        self.left = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep it."""
        self.transport = transport

    def send(self, due: float, request: bytes) -> None:
        """Send a request that was due at a time: a late sender makes no answer look quick."""
        self.due.append(due)
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        """Count whole answers; all have the same length."""
        self.left += data.count(b"HTTP/1.1 200 ")
        while self.left and self.due:
            self.left -= 1
            self.times.append(time.perf_counter() - self.due.pop(0))


async def load(port: int, rate: int, seconds: float) -> list[float]:
    """Send at a steady rate; give the answers' times in seconds."""
    body = b"x" * SIZE
    request = (
        f"POST {LOGGED}?size={SIZE} HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n"
        f"Content-Length: {SIZE}\r\n\r\n"
    ).encode() + body
    loop, times = asyncio.get_running_loop(), list[float]()
    clients = [(await loop.create_connection(lambda: Load(times), "127.0.0.1", port))[1] for _ in range(CONNECTIONS)]
    began, sent = time.perf_counter(), 0
    while (now := time.perf_counter()) - began < seconds:
        while sent < (now - began) * rate:
            clients[sent % CONNECTIONS].send(began + sent / rate, request)
            sent += 1
        await asyncio.sleep(0.0005)
    for _ in range(2_000):
        if len(times) >= sent:
            break
        await asyncio.sleep(0.01)
    if len(times) != sent:
        raise SystemExit(f"{sent} requests, {len(times)} answers")
    return sorted(times)


def memory(pid: int) -> float:
    """Give the MiB that a process and its children hold."""
    total = 0
    for one in (pid, *children(pid)):
        lines = Path(f"/proc/{one}/smaps_rollup").read_text().splitlines()
        total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1024


def show(name: str, times: list[float], pid: int, base: float) -> None:
    """Print one phase."""
    p50, p99 = (times[int(len(times) * share)] * 1e3 for share in (0.5, 0.99))
    print(f"{name:<22}{len(times):>9,}{p50:>10.2f}{p99:>10.2f}{p99 / base if base else 1:>9.2f}x{memory(pid):>10.0f}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--outage", type=float, default=30.0, help="seconds of silence (default: %(default)s)")
    parser.add_argument("--calm", type=float, default=15.0, help="seconds before and after (default: %(default)s)")
    parser.add_argument("--rate", type=int, default=1_000, help="requests per second (default: %(default)s)")
    parser.add_argument("--nginx", default="/usr/sbin/nginx")
    arguments = parser.parse_args()
    print(
        f"{arguments.rate} requests/s of {SIZE} bytes both ways, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    )
    for policy in ("drop", "spool"):
        print(f"\n--outbox {policy}\n{'':<22}{'answers':>9}{'p50 ms':>10}{'p99 ms':>10}{'of calm':>10}{'MiB':>10}")
        with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
            run(stack, arguments, Path(scratch), policy)


def run(stack: ExitStack, arguments: argparse.Namespace, folder: Path, policy: str) -> None:
    """Measure one policy."""
    behind, port, page = free_port(), free_port(), free_port()
    stack.enter_context(nginx(arguments.nginx, folder, "upstream", upstream_server(behind), behind))
    bootstrap = stack.enter_context(kafka("", folder / "kafka"))
    topic = Topic(f"bench{secrets.token_hex(4)}.payloads", 4, {"compression.type": "lz4"})
    ensure_topics(bootstrap, (topic,))
    command = [
        sys.executable, "-m", "deploy.cli", "logger", "--log-url", f"kafka://{bootstrap}/{topic.name}", "--host",
        "127.0.0.1", "--port", str(port), "--component-port", str(behind), "--metrics-port", str(page), "--outbox",
        policy, "--spool-dir", str(folder / "spool"), "--spool-max-bytes", str(4 << 30),
    ]  # fmt: skip
    pid = stack.enter_context(started(command, port, folder, "logger"))
    silent = broker.running(folder / "kafka")
    if silent is None:
        raise SystemExit("the broker has gone")
    times = uvloop.run(load(port, arguments.rate, arguments.calm))
    base = times[int(len(times) * 0.99)] * 1e3
    show("sound broker", times, pid, base)
    os.kill(silent.pid, signal.SIGSTOP)
    try:
        show("silent broker", uvloop.run(load(port, arguments.rate, arguments.outage)), pid, base)
    finally:
        os.kill(silent.pid, signal.SIGCONT)
    show("broker back", uvloop.run(load(port, arguments.rate, arguments.calm)), pid, base)
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        counters = metrics(page)
        if not counters["sidelight_logger_in_flight"] and not total(counters, "sidelight_logger_spooled"):
            break
        time.sleep(0.5)
    captured, sent = (
        total(counters, "sidelight_logger_captured_total"),
        total(counters, "kserve_logger_events_sent_total"),
    )
    dropped, stripped = (
        total(counters, "kserve_logger_events_dropped_total"),
        counters["sidelight_logger_stripped_total"],
    )
    law = "holds" if captured == sent + dropped else "BROKEN"
    print(f"captured {captured:,.0f} = sent {sent:,.0f} + dropped {dropped:,.0f}: {law}; without body {stripped:,.0f}")


def total(counters: dict[str, float], name: str) -> float:
    """Add up what has this name, whatever its labels."""
    return sum(value for key, value in counters.items() if key.partition("{")[0] == name)


if __name__ == "__main__":
    main()
