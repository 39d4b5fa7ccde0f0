"""What joining calls saves and costs: our predictor (scikit-learn) behind the logger, straight and through the batcher.

One V1 row per call, wrk with one thread. CPU per call of the model's process, of the proxy and of the batcher: it holds
on a shared machine, where calls per second do not. The default waits for `--max-latency`; `early` waits only while a
call is on its way. Needs wrk (Debian: wrk).
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from deploy.kafka.ports import free_port
from inference.runtime import RUNTIMES

ROOT = Path(__file__).resolve().parents[1]
TICKS = os.sysconf("SC_CLK_TCK")
MODES: Mapping[str, tuple[str, ...]] = {
    "straight": (),
    "early": ("--enable-batcher", "--batch-early"),
    "2 ms": ("--enable-batcher", "--max-latency", "2"),
}


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table; CPU in microseconds per call."""

    rate: float
    model: float
    proxy: float
    batcher: float
    p50: str
    p99: str


@contextmanager
def started(words: Sequence[str], ready: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run one of our commands until the end of the block, from its ready line on."""
    with log.open("wb") as output:
        process = subprocess.Popen([sys.executable, "-m", "deploy.cli", *words], cwd=ROOT, stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + 60
        while ready not in log.read_text():
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(log.read_text())
            time.sleep(0.05)
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def cpu(pid: int) -> float:
    """Give the CPU seconds of a process; 0 for none."""
    if not pid:
        return 0.0
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def children(pid: int) -> dict[str, int]:
    """Give the processes of a logger by their names."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return {Path(f"/proc/{child}/comm").read_text().strip(): int(child) for child in found}


def measure(wrk: str, port: int, pids: Sequence[int], connections: int, seconds: int, script: Path) -> Row:
    """Load the logger."""
    before = [cpu(pid) for pid in pids]
    url = f"http://127.0.0.1:{port}/v1/models/m:predict"
    command = [wrk, "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "-s", str(script), url]
    report = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in report or "Socket errors" in report:
        raise SystemExit(f"calls failed:\n{report}")
    count = int(re.search(r"(\d+) requests in", report).group(1))  # type: ignore[union-attr] - wrk's own format
    spent = [(cpu(pid) - begun) / count * 1e6 for pid, begun in zip(pids, before, strict=True)]
    tails = dict(re.findall(r"(?m)^\s+(50|99)%\s+(\S+)", report))
    return Row(count / seconds, *spent, tails["50"], tails["99"])


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wrk", default=shutil.which("wrk"))
    parser.add_argument("--seconds", type=int, default=4)
    arguments = parser.parse_args()
    if arguments.wrk is None:
        raise SystemExit("not found: wrk")
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, CPU in us per call")
    print(f"{'':<10}{'clients':>8}{'calls/s':>10}{'model':>8}{'proxy':>8}{'batcher':>9}{'p50':>10}{'p99':>10}")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "model").mkdir()
        RUNTIMES.find("sklearn").example(folder / "model")
        script = folder / "row.lua"
        script.write_text(
            'wrk.method = "POST"\nwrk.body = \'{"instances": [[5.1, 3.5, 1.4, 0.2]]}\'\n'
            'wrk.headers["Content-Type"] = "application/json"\n'
        )
        behind = free_port()
        serve = ("predictor", "--model_name", "m", "--model_dir", str(folder / "model"), "--http_port", str(behind))
        with started((*serve, "--host", "127.0.0.1"), "predictor ready", folder / "predictor.log") as model:
            for clients in (1, 16, 64):
                for name, words in MODES.items():
                    port = free_port()
                    logger = ("logger", "--host", "127.0.0.1", "--port", str(port), "--component-port", str(behind))
                    with started((*logger, *words), "logger ready", folder / "logger.log") as process:
                        found = children(process.pid)
                        pids = (model.pid, found["proxy 0"], found.get("batcher", 0))
                        measure(arguments.wrk, port, pids, clients, 1, script)
                        row = measure(arguments.wrk, port, pids, clients, arguments.seconds, script)
                    print(
                        f"{name:<10}{clients:>8}{row.rate:>10,.0f}{row.model:>8.0f}{row.proxy:>8.0f}"
                        f"{row.batcher:>9.0f}{row.p50:>10}{row.p99:>10}",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
