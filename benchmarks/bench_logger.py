"""CPU per request, latency and memory of the logger against nginx as a plain proxy, and against KServe's own Go agent.

One model (nginx, fixed answers), 16 connections, bodies of the same size both ways: JSON numbers. Cases take turns, so
that what else the machine does hits all of them; medians of the rounds are shown. Two loads:

- saturation: wrk asks as fast as answers come. What counts here is CPU time of the proxy's processes per request, which
  holds on a shared machine, where requests per second do not. It runs until the last event has arrived, so nothing is
  put off; `proxy` is the process that requests pass through, `CPU` is all of them, the logger's shipper included.
- half load: a steady load at half of the rate that the logger, fully logging, gave at saturation. What counts is p99.
  A request costs more CPU than at saturation, whoever passes it on, since each one wakes a process that sleeps.

--agent is the agent's binary, built from KServe's source (cmd/agent). It logs to an HTTP sink (nginx: reads every body,
answers 202), whose CPU is not counted, as Kafka's is not. It has no flag for an address and listens on all of them.
Needs nginx and wrk (Debian: nginx-light, wrk), and Kafka: --kafka, or the embedded one is started for the run.

python benchmarks/bench_logger.py --agent ./agent --rounds 5
"""

from __future__ import annotations

import argparse
import os
import re
import secrets
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import rig
import steady
from rig import LOGGED, UNLOGGED, Case, Counts, children, cpu_seconds, kafka, nginx, settle, started

from deploy.kafka.ports import free_port
from deploy.kafka.topics import ensure_topics
from streams.topics import Topic

BODIES = (150, 1_024, 32_768)
CONNECTIONS = steady.CONNECTIONS
NGINX, OURS, OURS_LOGGED = "nginx", "ours, unlogged", "ours, logged"
AGENT, AGENT_LOGGED, BARE = "agent, unlogged", "agent, logged", "no proxy"
NOTHING = Counts()
# A broker keeps little: what is measured is what sends to it.
TOPIC = {"compression.type": "lz4", "retention.bytes": str(256 << 20), "segment.bytes": str(64 << 20)}


@dataclass(frozen=True, slots=True)
class Contestant:
    """One row of the table: how it is brought up for a turn, and how it tells what became of its events."""

    name: str
    up: Callable[[], AbstractContextManager[Case]]
    settled: Callable[[], Counts] = Counts


@dataclass(frozen=True, slots=True)
class Figures:
    """What one turn measured; times in microseconds, memory in MiB."""

    rate: float
    cpu: float
    first: float
    """CPU of the first of the processes: the proxy without the shipper."""
    p50: float
    p99: float
    mib: float
    requests: float
    late: float = 0.0
    """p99 of how late the load itself was."""
    failed: int = 0
    """Requests that got no whole answer."""
    counts: Counts = NOTHING


Load = Callable[[Case], Figures]


def micros(text: str) -> float:
    """Read one of wrk's times."""
    value, unit = re.fullmatch(r"([\d.]+)(us|ms|s)", text).groups()  # type: ignore[union-attr]  # wrk's own format
    return float(value) * {"us": 1, "ms": 1e3, "s": 1e6}[unit]


def saturating(wrk: str, folder: Path, size: int, seconds: float, case: Case) -> Figures:
    """Ask as fast as answers come."""
    (folder / "body").write_bytes(rig.payload(size))
    script = folder / "body.lua"
    script.write_text(
        f'wrk.method = "POST"\nwrk.body = io.open("{folder}/body", "rb"):read("*a")\n'
        'wrk.headers["Content-Type"] = "application/json"\n'
    )
    url = f"http://127.0.0.1:{case.port}{case.path}?size={size}"
    command = [wrk, "-t1", f"-c{CONNECTIONS}", f"-d{seconds:g}s", "--latency", "-s", str(script), url]
    report = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in report:
        raise SystemExit(f"{case.name}: requests failed:\n{report}")
    failed = sum(int(word) for word in re.findall(r"(?:connect|read|write|timeout) (\d+)", report))
    count = int(re.search(r"(\d+) requests in", report).group(1))  # type: ignore[union-attr]  # wrk's own format
    tails = {name: micros(text) for name, text in re.findall(r"(?m)^\s+(50|99)%\s+(\S+)", report)}
    return Figures(count / seconds, 0, 0, tails["50"], tails["99"], 0, count, failed=failed)


def at_rate(rate: float, size: int, seconds: float, case: Case) -> Figures:
    """Ask at a steady rate."""
    found = steady.load(case.port, case.path, rig.payload(size), rate, seconds)
    late = steady.quantile(found.late, 0.99)
    return Figures(rate, 0, 0, found.p(0.5) * 1e6, found.p(0.99) * 1e6, 0, len(found.times), late * 1e6, found.failed)


def measure(contestant: Contestant, load: Load, warm: Load) -> Figures:
    """Warm up, load, and wait for the last event: CPU is per request, of the proxy's processes alone."""
    with contestant.up() as case:
        warm(case)
        before = contestant.settled()
        cpu, first = cpu_seconds(case.pids), cpu_seconds(case.pids[:1])
        found = load(case)
        first = cpu_seconds(case.pids[:1]) - first
        mib = rig.memory(case.pids)
        counts = contestant.settled().since(before)
        cpu = cpu_seconds(case.pids) - cpu
    cpu, first = cpu / found.requests * 1e6, first / found.requests * 1e6
    # One process is all there is: what it did after the last answer is its own, too.
    first = cpu if len(case.pids) == 1 else first
    return replace(found, cpu=cpu, first=first, mib=mib, counts=counts)


def rounds(table: Sequence[Contestant], load: Load, warm: Load, times: int) -> dict[str, Figures]:
    """Let the cases take turns; give the median of each figure, the most memory, and the sum of events."""
    found: dict[str, list[Figures]] = {one.name: [] for one in table}
    for _ in range(times):
        for one in table:
            found[one.name].append(measure(one, load, warm))
    return {name: median(figures) for name, figures in found.items()}


def median(figures: Sequence[Figures]) -> Figures:
    """Give one for all."""
    names = ("rate", "cpu", "first", "p50", "p99", "late")
    middle = {name: statistics.median(getattr(one, name) for one in figures) for name in names}
    counts = Counts(*(sum(getattr(one.counts, name) for one in figures) for name in Counts.__slots__))
    requests, failed = sum(one.requests for one in figures), sum(one.failed for one in figures)
    return Figures(**middle, mib=max(one.mib for one in figures), requests=requests, failed=failed, counts=counts)


@contextmanager
def agent(path: str, folder: Path, upstream: int, sink: int) -> Iterator[Case]:
    """Run KServe's agent, with its own defaults; with a sink it logs everything."""
    port = free_port()
    command = [path, "--port", str(port), "--component-port", str(upstream)]
    if sink:
        names = ["--inference-service", "bench", "--namespace", "default", "--component", "predictor"]
        command += ["--log-url", f"http://127.0.0.1:{sink}/", *names]
    # Told to end, it sleeps for 30 s and then forgets its queue; every turn has one of its own, as two cannot run.
    extra = {"SERVING_READINESS_PROBE": ""}
    with started(command, port, folder, "agent", extra=extra, stop=signal.SIGKILL) as pid:
        yield Case("agent", port, (pid,), LOGGED)


def contestants(stack: ExitStack, arguments: argparse.Namespace, folder: Path) -> tuple[list[Contestant], Contestant]:
    """Start everything that stays; give the rows of the table, and the model itself."""
    behind, plain, ours, page, sink = (free_port() for _ in range(5))
    upstream = rig.upstream_server(behind, arguments.sizes)
    model = stack.enter_context(nginx(arguments.nginx, folder, "upstream", upstream, behind))
    workers = stack.enter_context(nginx(arguments.nginx, folder, "plain", rig.proxy_server(plain, behind), plain))
    bootstrap = stack.enter_context(kafka(arguments.kafka, folder / "kafka"))
    topic = Topic(f"bench{secrets.token_hex(4)}.payloads", 4, TOPIC)
    ensure_topics(bootstrap, (topic,))
    command = [
        sys.executable, "-m", "deploy.cli", "logger", "--log-url", f"kafka://{bootstrap}/{topic.name}", "--host",
        "127.0.0.1", "--port", str(ours), "--component-port", str(behind), "--metrics-port", str(page),
        "--inference-service", "bench", "--namespace", "default", *arguments.flag,
    ]  # fmt: skip
    # One proxy, then the shipper, then the parent, which only waits: all three count.
    parent = stack.enter_context(started(command, ours, folder, "logger"))
    logger = (*children(parent, least=2), parent)

    def account() -> Counts:
        return rig.counts(settle(page))

    found = [
        Contestant(NGINX, lambda: nullcontext(Case(NGINX, plain, workers, UNLOGGED))),
        Contestant(OURS, lambda: nullcontext(Case(OURS, ours, logger, UNLOGGED)), account),
        Contestant(OURS_LOGGED, lambda: nullcontext(Case(OURS_LOGGED, ours, logger, LOGGED)), account),
    ]
    if arguments.agent:
        stack.enter_context(nginx(arguments.nginx, folder, "sink", rig.sink_server(sink), sink))
        run = partial(agent, arguments.agent, folder, behind)
        found += [
            Contestant(AGENT, partial(run, 0)),
            Contestant(AGENT_LOGGED, partial(run, sink), partial(arrived, sink)),
        ]
    return found, Contestant(BARE, lambda: nullcontext(Case(BARE, behind, model, UNLOGGED)))


def arrived(sink: int) -> Counts:
    """Wait until no more comes; what the agent has seen it does not tell."""
    asked = 0

    def count() -> int:
        nonlocal asked
        asked += 1
        return rig.received(sink) - asked

    # The questions of earlier calls are in the sink's count, too: far too few to be seen beside the events.
    return Counts(sent=rig.rest(count))


def show_saturation(size: int, rows: dict[str, Figures]) -> None:
    """Print one body size."""
    base, title = rows[NGINX], f"saturation, {size:,} B"
    print(
        f"\n{title:<28}{'requests/s':>12}{'CPU us':>9}{'of nginx':>10}{'proxy us':>10}{'of nginx':>10}"
        f"{'p50 ms':>9}{'p99 ms':>9}{'MiB':>6}"
    )
    for name, row in rows.items():
        print(
            f"{name:<28}{row.rate:>12,.0f}{row.cpu:>9.1f}{row.cpu / base.cpu:>9.1f}x{row.first:>10.1f}"
            f"{row.first / base.first:>9.1f}x{row.p50 / 1e3:>9.2f}{row.p99 / 1e3:>9.2f}{row.mib:>6.0f}"
        )
    show_counts(rows)


def show_steady(size: int, rate: float, rows: dict[str, Figures]) -> None:
    """Print half load."""
    bare, title = rows[BARE], f"{rate:,.0f} requests/s, {size:,} B"
    print(
        f"\n{title:<28}{'p50 ms':>12}{'p99 ms':>9}{'added p50':>10}{'added p99':>10}{'CPU us':>10}{'proxy us':>9}"
        f"{'load late p99':>15}"
    )
    for name, row in rows.items():
        print(
            f"{name:<28}{row.p50 / 1e3:>12.2f}{row.p99 / 1e3:>9.2f}{(row.p50 - bare.p50) / 1e3:>10.2f}"
            f"{(row.p99 - bare.p99) / 1e3:>10.2f}{row.cpu:>10.1f}{row.first:>9.1f}{row.late / 1e3:>15.2f}"
        )
    show_counts(rows)


def show_counts(rows: dict[str, Figures]) -> None:
    """Print what went wrong, and what became of events; two are due for each request."""
    for name, row in rows.items():
        if row.failed:
            print(f"  {name}: {row.failed} of {row.requests:,.0f} requests got no whole answer")
        if name in {OURS_LOGGED, AGENT_LOGGED}:
            counts, due = row.counts, 2 * row.requests
            # Ours counts what it has seen; of the agent's only its sink can tell.
            captured = f", {counts.captured:,.0f} captured, {counts.dropped:,.0f} dropped" if counts.captured else ""
            bare = f", {counts.bare:,.0f} of them without body" if counts.bare else ""
            print(f"  {name}: events of {due:,.0f}{captured}; {counts.sent:,.0f} arrived{bare}")


def goals(size: int, full: dict[str, Figures], half: dict[str, Figures]) -> None:
    """Print what the goals speak of."""
    ours, plain = full[OURS_LOGGED], full[NGINX]
    said = {"CPU logged, of nginx": (ours.cpu / plain.cpu, ours.first / plain.first)}
    if AGENT_LOGGED in full:
        other = full[AGENT_LOGGED].cpu
        said["CPU logged, of the agent logged"] = (ours.cpu / other, ours.first / other)
    print(f"\ngoals, {size:,} B")
    for name, (everything, proxy) in said.items():
        print(f"  {name}: {everything:.2f}x with the shipper, {proxy:.2f}x the proxy alone")
    print(f"  p99 at saturation, of unlogged: {ours.p99 / full[OURS].p99:.2f}x")
    for base in (BARE, NGINX, OURS):
        print(f"  p99 at half load, added to {base}: {(half[OURS_LOGGED].p99 - half[base].p99) / 1e3:.2f} ms")


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agent", default="", metavar="PATH", help="KServe's agent; without it, it is left out")
    parser.add_argument("--kafka", default="", help="host:port; default: an embedded Kafka")
    parser.add_argument("--nginx", default=shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/bin:/sbin"))
    parser.add_argument("--wrk", default=shutil.which("wrk"))
    parser.add_argument("--sizes", type=lambda text: [int(one) for one in text.split(",")], default=list(BODIES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2, help="of each case in each round (default: %(default)s)")
    parser.add_argument("--rate", type=float, default=0, help="requests/s of a steady load, instead of both loads")
    parser.add_argument("--flag", action="append", default=[], help="a further argument for the logger")
    arguments = parser.parse_args()
    missing = [name for name in ("nginx", "wrk") if getattr(arguments, name) is None]
    if missing:
        raise SystemExit(f"not found: {', '.join(missing)}; install nginx-light and wrk, or name them: --nginx, --wrk")
    print(f"{CONNECTIONS} connections, {os.cpu_count()} cores, load before {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        folder = Path(scratch)
        table, model = contestants(stack, arguments, folder)
        for size in arguments.sizes:
            compete(table, model, size, arguments, folder)


def compete(table: list[Contestant], model: Contestant, size: int, arguments: argparse.Namespace, folder: Path) -> None:
    """Measure one body size, under both loads or the one that is asked for."""
    if arguments.rate:
        keep_up([model, *table], size, arguments.rate, arguments)
        return
    load = partial(saturating, arguments.wrk, folder, size)
    full = rounds(table, partial(load, arguments.seconds), partial(load, 1), arguments.rounds)
    show_saturation(size, full)
    rate = full[OURS_LOGGED].rate // 2
    # Whoever cannot keep up would only show how long its queue has become.
    able = [model, *(one for one in table if full[one.name].rate > 1.1 * rate)]
    goals(size, full, keep_up(able, size, rate, arguments))


def keep_up(table: Sequence[Contestant], size: int, rate: float, arguments: argparse.Namespace) -> dict[str, Figures]:
    """Measure and print one steady load."""
    load = partial(at_rate, rate, size)
    found = rounds(table, partial(load, arguments.seconds), partial(load, 0.5), arguments.rounds)
    show_steady(size, rate, found)
    return found


if __name__ == "__main__":
    main()
