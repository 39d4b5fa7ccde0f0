"""CPU per request of the logger, unlogged and fully logged to real Kafka, against nginx as a plain proxy.

One upstream (nginx, fixed answers), one load (wrk, 16 connections, one thread), bodies of the same size both ways. CPU
time of the proxy's processes is what is compared: it holds on a shared machine, where requests per second do not.
Cases take turns, so that what else the machine does hits all of them; the median of the rounds is shown.
Needs nginx and wrk (Debian: nginx-light, wrk), and Kafka: --kafka, or the embedded one is started for the run.
"""

from __future__ import annotations

import argparse
import os
import re
import secrets
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

from deploy import environment
from deploy.kafka import broker, jars, java
from deploy.kafka.topics import ensure_topics
from streams.topics import Topic

ROOT = Path(__file__).resolve().parents[1]
CONNECTIONS = 16
BODIES = (150, 1_024)
TICKS = os.sysconf("SC_CLK_TCK")
LOGGED, UNLOGGED = "/v1/models/m:predict", "/v1/models/m:other"


@dataclass(frozen=True, slots=True)
class Case:
    """One proxy under one load."""

    name: str
    port: int
    pids: tuple[int, ...]
    path: str


@dataclass(frozen=True, slots=True)
class Figures:
    """What one round measured; times in microseconds."""

    rate: float
    cpu: float
    first: float
    """CPU of the first of the processes: the proxy without the shipper."""
    p50: float
    p99: float


def free_port() -> int:
    """Give a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


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


def children(pid: int) -> list[int]:
    """Give the processes that a process started."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@contextmanager
def started(command: Sequence[str], port: int, folder: Path, name: str) -> Iterator[int]:
    """Run a server until the end of the block; give its process id."""
    with (folder / f"{name}.log").open("wb") as output:
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output)
    try:
        wait_for(port)
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


@contextmanager
def nginx(path: str, folder: Path, name: str, server: str, port: int) -> Iterator[tuple[int, ...]]:
    """Run nginx with one worker; give the worker's process id."""
    config = folder / f"{name}.conf"
    config.write_text(
        f"daemon off; worker_processes 1; pid {folder}/{name}.pid; error_log {folder}/{name}.err;\n"
        "events { worker_connections 1024; }\n"
        "http { access_log off; keepalive_requests 1000000000; default_type application/json;\n"
        + "".join(f" {kind}_temp_path {folder}/{name}-{kind};" for kind in ("client_body", "proxy", "fastcgi"))
        + f" uwsgi_temp_path {folder}/{name}-uwsgi; scgi_temp_path {folder}/{name}-scgi;\n {server} }}\n"
    )
    with started([path, "-e", f"{folder}/{name}.err", "-c", str(config)], port, folder, name) as pid:
        yield tuple(children(pid))


def upstream_server(port: int) -> str:
    """Configure fixed answers, one for each body size."""
    sizes = "".join(f'if ($arg_size = "{size}") {{ return 200 "{"y" * size}"; }}' for size in BODIES)
    return f"server {{ listen 127.0.0.1:{port} backlog=1024; location / {{ {sizes} return 404; }} }}"


def proxy_server(port: int, upstream: int) -> str:
    """Configure a plain proxy with kept-alive connections."""
    return (
        f"upstream u {{ server 127.0.0.1:{upstream}; keepalive 64; keepalive_requests 1000000000; }}\n"
        f"server {{ listen 127.0.0.1:{port} backlog=1024; location / {{ proxy_pass http://u; proxy_http_version 1.1;"
        ' proxy_set_header Connection ""; } }'
    )


def cpu_seconds(pids: Sequence[int]) -> float:
    """Give the CPU time that processes have used."""
    total = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICKS


def micros(text: str) -> float:
    """Read one of wrk's times."""
    value, unit = re.fullmatch(r"([\d.]+)(us|ms|s)", text).groups()  # type: ignore[union-attr] - wrk's own format
    return float(value) * {"us": 1, "ms": 1e3, "s": 1e6}[unit]


def measure(wrk: str, case: Case, size: int, seconds: int, folder: Path) -> Figures:
    """Load one proxy; CPU is per request, of its processes alone."""
    script = folder / f"body{size}.lua"
    script.write_text(
        f'wrk.method = "POST"\nwrk.body = string.rep("x", {size})\nwrk.headers["Content-Type"] = "application/json"\n'
    )
    url = f"http://127.0.0.1:{case.port}{case.path}?size={size}"
    before, first = cpu_seconds(case.pids), cpu_seconds(case.pids[:1])
    command = [wrk, "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--latency", "-s", str(script), url]
    report = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    cpu, first = cpu_seconds(case.pids) - before, cpu_seconds(case.pids[:1]) - first
    if "Non-2xx" in report or "Socket errors" in report:
        raise SystemExit(f"{case.name}: requests failed:\n{report}")
    count = int(re.search(r"(\d+) requests in", report).group(1))  # type: ignore[union-attr] - wrk's own format
    tails = {name: micros(text) for name, text in re.findall(r"(?m)^\s+(50|99)%\s+(\S+)", report)}
    return Figures(count / seconds, cpu / count * 1e6, first / count * 1e6, tails["50"], tails["99"])


def median(rounds: Sequence[Figures]) -> Figures:
    """Give the median of each figure."""
    return Figures(*(statistics.median(getattr(item, name) for item in rounds) for name in Figures.__slots__))


def metrics(port: int) -> dict[str, float]:
    """Read the logger's own counters."""
    with urlopen(f"http://127.0.0.1:{port}/metrics") as page:
        lines = page.read().decode().splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[:1] != "#")}


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


def cases(stack: ExitStack, arguments: argparse.Namespace, folder: Path) -> tuple[list[Case], int]:
    """Start everything; give the cases and the logger's metrics port."""
    behind, plain, ours, page = (free_port() for _ in range(4))
    stack.enter_context(nginx(arguments.nginx, folder, "upstream", upstream_server(behind), behind))
    workers = stack.enter_context(nginx(arguments.nginx, folder, "plain", proxy_server(plain, behind), plain))
    bootstrap = stack.enter_context(kafka(arguments.kafka, folder / "kafka"))
    topic = Topic(f"bench{secrets.token_hex(4)}.payloads", 4, {"compression.type": "lz4"})
    ensure_topics(bootstrap, (topic,))
    command = [
        sys.executable, "-m", "deploy.cli", "logger", "--log-url", f"kafka://{bootstrap}/{topic.name}", "--host",
        "127.0.0.1", "--port", str(ours), "--component-port", str(behind), "--metrics-port", str(page),
        "--inference-service", "bench", "--namespace", "default", *arguments.flag,
    ]  # fmt: skip
    # A parent that only waits, then one proxy, then the shipper: all three count.
    proxy = tuple(children(stack.enter_context(started(command, ours, folder, "logger"))))
    found = [
        Case("nginx", plain, workers, UNLOGGED),
        Case("ours, unlogged", ours, proxy, UNLOGGED),
        Case("ours, logged", ours, proxy, LOGGED),
    ]
    return found, page


def settle(page: int) -> dict[str, float]:
    """Wait until nothing is in flight; give the counters."""
    deadline = time.monotonic() + 30
    while (counters := metrics(page))["sidelight_logger_in_flight"] and time.monotonic() < deadline:
        time.sleep(0.2)
    return counters


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kafka", default="", help="host:port; default: an embedded Kafka")
    parser.add_argument("--nginx", default=shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/bin:/sbin"))
    parser.add_argument("--wrk", default=shutil.which("wrk"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=2, help="of each case in each round")
    parser.add_argument("--flag", action="append", default=[], help="a further argument for the logger")
    arguments = parser.parse_args()
    missing = [name for name in ("nginx", "wrk") if getattr(arguments, name) is None]
    if missing:
        raise SystemExit(f"not found: {', '.join(missing)}; install nginx-light and wrk, or name them: --nginx, --wrk")
    print(f"{CONNECTIONS} connections, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, CPU in us per request")
    print(f"{'':<16}{'body':>6}{'requests/s':>12}{'CPU us':>8}{'proxy':>8}{'p50 us':>8}{'p99 us':>9}{'of nginx':>10}")
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        folder = Path(scratch)
        table, page = cases(stack, arguments, folder)
        for size in BODIES:
            rounds: dict[str, list[Figures]] = {case.name: [] for case in table}
            for _ in range(arguments.rounds):
                for case in table:
                    rounds[case.name].append(measure(arguments.wrk, case, size, arguments.seconds, folder))
                    settle(page)
            figures = {name: median(found) for name, found in rounds.items()}
            for name, row in figures.items():
                ratio = row.cpu / figures["nginx"].cpu
                times = f"{row.cpu:>8.1f}{row.first:>8.1f}{row.p50:>8.0f}{row.p99:>9.0f}"
                print(f"{name:<16}{size:>6}{row.rate:>12,.0f}{times}{ratio:>9.1f}x")
        counters = settle(page)
        sent, dropped = (
            sum(value for name, value in counters.items() if name.startswith(f"kserve_logger_events_{what}_total"))
            for what in ("sent", "dropped")
        )
        print(
            f"events captured {counters['sidelight_logger_captured_total']:.0f},"
            f" delivered {sent:.0f}, dropped {dropped:.0f}"
        )


if __name__ == "__main__":
    main()
