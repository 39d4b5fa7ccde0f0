"""Thousands of small models in one process: memory against its bound, warm and cold latency at a steady rate.

Models are XGBoost classifiers, a folder each; requests choose them by Zipf's law. A request is *cold* for sure when its
model was never asked for before, and *warm* for sure when fewer other models were asked for since than half of those in
memory, because the least recently used go first; the rest may be either. Client and server share the machine's cores.
"""

from __future__ import annotations

import argparse
import os
import re
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import xgboost
from steady import quantile, undisturbed

ROOT = Path(__file__).resolve().parents[1]
COLUMNS = 8
KINDS = 40
CONNECTIONS = 32
MIB = 1024 * 1024
_READY = re.compile(r"predictor ready on http://127\.0\.0\.1:(\d+)")


def write(folder: Path, count: int) -> int:
    """Write the models, of a few dozen kinds; give the bytes of one."""
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(2_000, COLUMNS))
    kinds = []
    for kind in range(KINDS):
        model = xgboost.XGBClassifier(n_estimators=10, max_depth=3, n_jobs=1, random_state=kind)
        model.fit(rows, rows[:, kind % COLUMNS] + rows[:, (kind + 1) % COLUMNS] * rows[:, (kind + 2) % COLUMNS] > 0)
        kinds.append(bytes(model.get_booster().save_raw("ubj")))
    for number in range(count):
        (folder / f"m{number}").mkdir()
        (folder / f"m{number}" / "model.ubj").write_bytes(kinds[number % KINDS])
    return len(kinds[0])


def zipf(count: int, exponent: float, length: int, seed: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Draw which model each request asks for; ranks are spread over the names."""
    generator = np.random.default_rng(seed)
    shares = 1.0 / np.arange(1, count + 1) ** exponent
    ranks = generator.choice(count, size=length, p=shares / shares.sum())
    return np.random.default_rng(1).permutation(count)[ranks]


def distances(asked: Sequence[int], count: int) -> list[int]:
    """Give how many other models were asked for since a request's model was; -1 for its first request."""
    size = len(asked)
    tree, last, found = [0] * (size + 1), [-1] * count, []

    def add(at: int, value: int) -> None:
        at += 1
        while at <= size:
            tree[at] += value
            at += at & -at

    def upto(at: int) -> int:
        total = 0
        while at:
            total += tree[at]
            at -= at & -at
        return total

    for at, model in enumerate(asked):
        before = last[model]
        if before < 0:
            found.append(-1)
        else:
            found.append(upto(at) - upto(before + 1))
            add(before, -1)
        add(at, 1)
        last[model] = at
    return found


@dataclass
class Server:
    """The predictor and what it was seen to hold."""

    pid: int
    port: int
    known_s: float
    peak: int = 0
    samples: list[int] = field(default_factory=list)

    def resident(self) -> int:
        """Measure its resident set."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def cpu(self) -> float:
        """Give the CPU seconds that it has used."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def metrics(self) -> dict[str, float]:
        """Read its metrics page."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics") as answer:
            lines = answer.read().decode().splitlines()
        pairs = (line.rpartition(" ") for line in lines if line.startswith("sidelight_model"))
        return {name: float(value) for name, _, value in pairs}


@contextmanager
def serving(shelf: Path, bound: str, log: Path) -> Iterator[Server]:
    """Run the predictor over the folder of models."""
    command = [
        sys.executable, "-m", "deploy.cli", "predictor", "--model_repository", str(shelf), "--host", "127.0.0.1",
        "--http_port", "0", "--enable_grpc", "false", "--max_memory", bound, "--max_threads", "2",
    ]  # fmt: skip
    began = time.perf_counter()
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output)
    stop = threading.Event()
    try:
        while (found := _READY.search(log.read_text())) is None:
            if process.poll() is not None:
                raise SystemExit(log.read_text())
            time.sleep(0.01)
        server = Server(process.pid, int(found[1]), time.perf_counter() - began)

        def sample() -> None:
            while not stop.wait(0.05):
                server.peak = max(server.peak, server.resident())

        sampler = threading.Thread(target=sample, daemon=True)
        sampler.start()
        yield server
        stop.set()
        sampler.join()
    finally:
        stop.set()
        process.send_signal(signal.SIGTERM)
        process.wait(60)


class Client:
    """Sends requests when they are due, each on a connection that is idle; the wait for one counts."""

    def __init__(self, port: int) -> None:
        self._idle: deque[socket.socket] = deque()
        self._read: dict[socket.socket, bytes] = {}
        self._at: dict[socket.socket, int] = {}
        for _ in range(CONNECTIONS):
            connection = socket.create_connection(("127.0.0.1", port))
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._idle.append(connection)

    def run(self, asked: Sequence[int], rate: float) -> tuple[list[float], list[float]]:
        """Ask; give the seconds of each answer since it was due, and of how late the client itself was."""
        with undisturbed(), _at_once():
            return self._run(asked, rate)

    def _run(self, asked: Sequence[int], rate: float) -> tuple[list[float], list[float]]:
        body = b'{"inputs":[{"name":"x","shape":[1,%d],"datatype":"FP32","data":[%b]}]}' % (
            COLUMNS, b",".join([b"0.5"] * COLUMNS),
        )  # fmt: skip
        head = b"/infer HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
        times, late, done, sent = [0.0] * len(asked), [], 0, 0
        busy: set[socket.socket] = set()
        freed = dict.fromkeys(self._idle, 0.0)
        began = time.perf_counter() + 0.05
        while done < len(asked):
            now = time.perf_counter()
            while self._idle and sent < len(asked) and (due := began + sent / rate) <= now:
                connection = self._idle.popleft()
                connection.sendall(b"POST /v2/models/m%d%b%b" % (asked[sent], head, body))
                now = time.perf_counter()
                late.append(now - max(due, freed[connection]))
                self._read[connection], self._at[connection] = b"", sent
                busy.add(connection)
                sent += 1
            free = bool(self._idle) and sent < len(asked)
            # Not by epoll, which counts in whole milliseconds.
            wait = max(0.0, began + sent / rate - time.perf_counter()) if free else 30.0
            for connection in select.select(busy, (), (), wait)[0]:
                if self._whole(connection):
                    freed[connection] = time.perf_counter()
                    times[self._at[connection]] = freed[connection] - began - self._at[connection] / rate
                    busy.discard(connection)
                    self._idle.append(connection)
                    done += 1
        return times, late

    def close(self) -> None:
        """Close the connections."""
        for connection in self._idle:
            connection.close()

    def _whole(self, connection: socket.socket) -> bool:
        data = self._read[connection] = self._read[connection] + connection.recv(65536)
        head, end, body = data.partition(b"\r\n\r\n")
        if not end:
            return False
        if not head.startswith(b"HTTP/1.1 200 "):
            raise SystemExit(f"expected 200, got {data[:400]!r}")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        return len(body) == length


@contextmanager
def _at_once() -> Iterator[None]:
    """Run before all others, where that is allowed: it stands for a client on another machine."""
    with suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    try:
        yield
    finally:
        with suppress(PermissionError):
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def _row(name: str, times: list[float]) -> str:
    if not times:
        return f"| {name} | 0 | | | | |"
    shown = " | ".join(
        f"{1000 * value:.2f}" for value in (*(quantile(times, q) for q in (0.5, 0.99, 0.999)), max(times))
    )
    return f"| {name} | {len(times):,} | {shown} |"


def _loads(before: dict[str, float], after: dict[str, float]) -> str:
    def grown(name: str) -> float:
        return after.get(name, 0.0) - before.get(name, 0.0)

    count = grown("sidelight_model_load_seconds_count")
    bounds = sorted(
        (float(name.partition('le="')[2].rstrip('"}')), grown(name)) for name in after if "load_seconds_bucket" in name
    )
    within = [next((bound for bound, upto in bounds if upto >= count * q), 0.0) for q in (0.5, 0.99)]
    mean = grown("sidelight_model_load_seconds_sum") / max(count, 1)
    return (
        f"{count:,.0f} loads ({grown('sidelight_model_load_failures_total'):.0f} failed), "
        f"{grown('sidelight_model_evictions_total'):,.0f} unloaded to make room; a load took {1000 * mean:.1f} ms on "
        f"average, half within {1000 * within[0]:g} ms, 99 % within {1000 * within[1]:g} ms"
    )


def measure(arguments: argparse.Namespace, shelf: Path, bound: str, log: Path) -> None:
    """Measure with one bound and print what was found."""
    count, per = arguments.models, int(arguments.rate * arguments.seconds)
    asked = zipf(count, arguments.exponent, 2 * per, arguments.seed).tolist()
    away = distances(asked, count)
    with serving(shelf, bound, log) as server:
        empty = server.resident()
        client = Client(server.port)
        client.run(asked[:per], arguments.rate)
        before, cpu = server.metrics(), server.cpu()
        began = time.perf_counter()
        times, late = client.run(asked[per:], arguments.rate)
        share = (server.cpu() - cpu) / (time.perf_counter() - began)
        after, resident = server.metrics(), server.resident()
        client.close()
        loaded = min(value['sidelight_models{state="loaded"}'] for value in (before, after))
        peak = server.peak
    rows = list(zip(away[per:], times, strict=True))
    print(f"\n### --max_memory {bound}\n")
    print(
        f"{count:,} models known in {server.known_s:.1f} s from the start, {empty / MIB:.0f} MiB resident; after "
        f"{2 * per:,} requests {loaded:,.0f} in memory, "
        f"{resident / MIB:.0f} MiB resident, {peak / MIB:.0f} MiB at the most. {_loads(before, after)}. "
        f"CPU of the server: {100 * share:.0f} % of a core. The client was late "
        f"by {1000 * quantile(late, 0.99):.2f} ms at p99, {1000 * max(late):.1f} ms at worst.\n"
    )
    print("| requests | number | p50 ms | p99 ms | p99.9 ms | most ms |")
    print("| --- | --- | --- | --- | --- | --- |")
    print(_row("warm for sure", [taken for since, taken in rows if 0 <= since < loaded / 2]))
    print(_row("either", [taken for since, taken in rows if since >= loaded / 2]))
    print(_row("cold for sure", [taken for since, taken in rows if since < 0]))
    print(_row("all", times), flush=True)


def main() -> None:
    """Measure with each bound."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=20_000, help="default: %(default)s")
    parser.add_argument("--rate", type=float, default=1_000, help="requests per second (default: %(default)g)")
    parser.add_argument("--seconds", type=float, default=30, help="of warm-up, and of measuring (default: %(default)g)")
    parser.add_argument("--exponent", type=float, default=1.0, help="of Zipf's law (default: %(default)g)")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--bounds", default="2Gi,500Mi", help="of memory, each measured (default: %(default)s)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        shelf = Path(name) / "models"
        shelf.mkdir()
        size = write(shelf, arguments.models)
        print(f"{arguments.models:,} models of {size / 1024:.0f} KiB; {arguments.rate:g} requests/s of one row")
        for bound in arguments.bounds.split(","):
            measure(arguments, shelf, bound, Path(name) / "log")


if __name__ == "__main__":
    main()
