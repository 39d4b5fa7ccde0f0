"""Requests per second and latency of one predictor process with a tiny scikit-learn model: what joining calls is worth.

The calls come over 16 connections, each sending the next as soon as it has its answer, from one client process (wrk
where it is installed). With `--against CHECKOUT` the predictor of another checkout is measured in turn with this one's,
several times, so that what else the machine does meets both.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import statistics
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import orjson
import rig

from inference.protocol import v2
from inference.protocol.tensors import Tensor
from inference.runtime import RUNTIMES

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, slots=True)
class Call:
    """One kind of request."""

    name: str
    path: str
    body: bytes
    headers: dict[str, str]


@dataclass(frozen=True, slots=True)
class Figures:
    """What one run gave."""

    rate: float
    p50_ms: float
    p99_ms: float
    cpu_us: float


def calls() -> Iterator[Call]:
    """Give the same rows as JSON and in binary."""
    for count in (1, 32):
        rows = np.random.default_rng(1).normal(size=(count, 4))
        yield Call(
            f"V1 JSON, {count}", "/v1/models/m:predict", orjson.dumps({"instances": rows.tolist()}),
            {"Content-Type": "application/json"},
        )  # fmt: skip
        asked = v2.InferRequest(inputs=(Tensor.of("input-0", rows),), parameters={"binary_data_output": True})
        body, length = v2.encode_request(asked, binary=True)
        headers = {"Inference-Header-Content-Length": str(length), "Content-Type": "application/octet-stream"}
        yield Call(f"V2 binary, {count}", "/v2/models/m/infer", body, headers)


def measure(wrk: str, pid: int, port: int, call: Call, folder: Path, options: argparse.Namespace) -> Figures:
    """Load the server with one kind of call."""
    (folder / "body").write_bytes(call.body)
    headers = "".join(f'wrk.headers["{name}"] = "{value}"\n' for name, value in call.headers.items())
    script = f'wrk.method = "POST"\nwrk.body = io.open("{folder / "body"}", "rb"):read("*a")\n{headers}'
    (folder / "call.lua").write_text(script)
    before = rig.cpu_seconds((pid,))
    done = subprocess.run(
        [wrk, "-t1", f"-c{options.connections}", f"-d{options.seconds}s", "--latency", "-s", str(folder / "call.lua"),
         f"http://127.0.0.1:{port}{call.path}"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    if "Non-2xx" in done:
        raise SystemExit(f"{call.name}: the predictor refused requests:\n{done}")
    total = int(_found(r"(\d+) requests in", done))
    return Figures(
        rate=float(_found(r"Requests/sec:\s+([\d.]+)", done)),
        p50_ms=_milliseconds(_found(r"\n\s+50%\s+(\S+)", done)),
        p99_ms=_milliseconds(_found(r"\n\s+99%\s+(\S+)", done)),
        cpu_us=(rig.cpu_seconds((pid,)) - before) / total * 1e6,
    )


def _found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    if match is None:
        raise SystemExit(f"cannot read wrk's report:\n{text}")
    return match.group(1)


def _milliseconds(text: str) -> float:
    number, unit = re.match(r"([\d.]+)(us|ms|s)", text).groups()  # type: ignore[union-attr] # wrk's own form
    return float(number) * {"us": 1e-3, "ms": 1.0, "s": 1e3}[unit]


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, metavar="CHECKOUT", help="measure another checkout's predictor, too")
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--seconds", type=int, default=4, help="of each measurement (default: %(default)s)")
    parser.add_argument("--connections", type=int, default=16, help="default: %(default)s")
    parser.add_argument("words", nargs="*", help="more arguments of the predictor, after --")
    options = parser.parse_args()
    wrk = shutil.which("wrk")
    if wrk is None:
        raise SystemExit("needs wrk on the PATH")
    checkouts = {"other": options.against, "this": ROOT} if options.against else {"this": ROOT}
    found: defaultdict[tuple[str, str], list[Figures]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as scratch:
        model = Path(scratch) / "model"
        model.mkdir()
        RUNTIMES.find("sklearn").example(model)
        for _ in range(options.rounds):
            for name, checkout in checkouts.items():
                with rig.predictor(model, options.words, checkout) as (pid, port):
                    for call in calls():
                        found[call.name, name].append(measure(wrk, pid, port, call, Path(scratch), options))
    print(f"{options.connections} connections, {os.cpu_count()} cores, medians of {options.rounds}")
    print(f"{'':<14}{'':<8}{'calls/s':>10}{'p50 ms':>9}{'p99 ms':>9}{'CPU us/call':>13}")
    for (call_name, name), figures in sorted(found.items()):
        rate, p50, p99, cpu = (
            statistics.median(getattr(each, field) for each in figures) for field in Figures.__slots__
        )
        print(f"{call_name:<14}{name:<8}{rate:>10,.0f}{p50:>9.2f}{p99:>9.2f}{cpu:>13.0f}")


if __name__ == "__main__":
    main()
