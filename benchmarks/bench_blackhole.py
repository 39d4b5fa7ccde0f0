"""The logger while its broker has gone silent: latency of answers, memory, and what became of every event.

A steady load goes through the logger to a fixed model. First with a sound broker (calm: the baseline), then with the
broker stopped in its tracks (SIGSTOP: connections stay open and nothing is answered), then with the broker back. Every
phase is cut into windows; shown are the median of the windows' p50 and p99 and the worst p99, as the client sees them,
p99 of how late the load itself was, and the most memory of all the logger's processes (PSS, so that shared pages count
once), with the account at the end. Run for each outbox policy, and first without a logger: what the load itself and
the machine add.

python benchmarks/bench_blackhole.py --outage 300 --calm 45 --rate 1000
"""

from __future__ import annotations

import argparse
import os
import secrets
import signal
import statistics
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import rig
import steady
from rig import LOGGED, children, kafka, nginx, settle, started

from deploy.kafka import broker
from deploy.kafka.ports import free_port
from deploy.kafka.topics import ensure_topics
from streams.topics import Topic

DRAIN_S = 300.0


def phase(
    name: str, arguments: argparse.Namespace, seconds: float, port: int, pids: Sequence[int], base: float
) -> float:
    """Load for some windows and print what they had; give the median of their p99 in milliseconds."""
    windows, mib, count = [], 0.0, max(1, round(seconds / arguments.window))
    body = rig.payload(arguments.size)
    for _ in range(count):
        windows.append(steady.load(port, LOGGED, body, arguments.rate, seconds / count))
        mib = max(mib, rig.memory(pids))
    p50, p99 = (statistics.median(one.p(share) for one in windows) * 1e3 for share in (0.5, 0.99))
    worst = max(one.p(0.99) for one in windows) * 1e3
    late = steady.quantile([time for one in windows for time in one.late], 0.99) * 1e3
    answers = sum(len(one.times) for one in windows)
    failed = sum(one.failed for one in windows)
    if failed:
        raise SystemExit(f"{name}: {failed} requests got no whole answer")
    of_calm = f"{p99 / base:.2f}x" if base else ""
    print(
        f"{name:<16}{answers:>9,}{count:>9}{p50:>9.2f}{p99:>9.2f}{of_calm:>9}{worst:>11.2f}{late:>10.2f}{mib:>7.0f}",
        flush=True,
    )
    return p99


def head(title: str) -> None:
    """Print a table's head."""
    print(
        f"\n{title:<16}{'answers':>9}{'windows':>9}{'p50 ms':>9}{'p99 ms':>9}{'of calm':>9}{'worst p99':>11}"
        f"{'late p99':>10}{'MiB':>7}"
    )


def run(stack: ExitStack, arguments: argparse.Namespace, folder: Path, policy: str) -> bool:
    """Measure one policy; tell whether the account is exact."""
    behind, port, page = free_port(), free_port(), free_port()
    server = rig.upstream_server(behind, [arguments.size])
    model = stack.enter_context(nginx(arguments.nginx, folder, "upstream", server, behind))
    bootstrap = stack.enter_context(kafka("", folder / "kafka"))
    topic = Topic(f"bench{secrets.token_hex(4)}.payloads", 4, {"compression.type": "lz4"})
    ensure_topics(bootstrap, (topic,))
    command = [
        sys.executable, "-m", "deploy.cli", "logger", "--log-url", f"kafka://{bootstrap}/{topic.name}", "--host",
        "127.0.0.1", "--port", str(port), "--component-port", str(behind), "--metrics-port", str(page), "--outbox",
        policy, "--spool-dir", str(folder / "spool"), "--spool-max-bytes", str(4 << 30),
    ]  # fmt: skip
    parent = stack.enter_context(started(command, port, folder, "logger"))
    pids = (*children(parent, least=2), parent)
    silent = broker.running(folder / "kafka")
    if silent is None:
        raise SystemExit("the broker has gone")
    head(f"--outbox {policy}")
    phase("no logger", arguments, arguments.calm, behind, model, 0)
    steady.load(port, LOGGED, rig.payload(arguments.size), arguments.rate, 2)
    base = phase("sound broker", arguments, arguments.calm, port, pids, 0)
    os.kill(silent.pid, signal.SIGSTOP)
    try:
        phase("silent broker", arguments, arguments.outage, port, pids, base)
    finally:
        os.kill(silent.pid, signal.SIGCONT)
    phase("broker back", arguments, arguments.calm, port, pids, base)
    counters = settle(page, DRAIN_S)
    found, left = rig.counts(counters), rig.total(counters, "sidelight_logger_spooled")
    exact = found.captured == found.sent + found.dropped + left
    print(
        f"captured {found.captured:,.0f} = sent {found.sent:,.0f} + dropped {found.dropped:,.0f} + spooled {left:,.0f}:"
        f" {'holds' if exact else 'BROKEN'}; without body {found.bare:,.0f}"
    )
    return exact


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--outage", type=float, default=30.0, help="seconds of silence (default: %(default)s)")
    parser.add_argument("--calm", type=float, default=15.0, help="seconds before and after (default: %(default)s)")
    parser.add_argument("--window", type=float, default=5.0, help="seconds of a window (default: %(default)s)")
    parser.add_argument("--rate", type=int, default=1_000, help="requests per second (default: %(default)s)")
    parser.add_argument("--size", type=int, default=1_024, help="bytes of each body (default: %(default)s)")
    parser.add_argument("--policies", default="drop,spool", help="comma-separated (default: %(default)s)")
    parser.add_argument("--nginx", default="/usr/sbin/nginx")
    arguments = parser.parse_args()
    print(
        f"{arguments.rate} requests/s of {arguments.size} bytes both ways, {steady.CONNECTIONS} connections,"
        f" {os.cpu_count()} cores, load before {os.getloadavg()[0]:.1f}"
    )
    exact = True
    for policy in arguments.policies.split(","):
        with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
            exact = run(stack, arguments, Path(scratch), policy) and exact
    if not exact:
        raise SystemExit("an event is missing from the account")


if __name__ == "__main__":
    main()
