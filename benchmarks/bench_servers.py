"""Requests per second, latency and CPU of the predictor, beside a server of the kserve SDK and MLServer.

Each serves the same two models, a logistic regression of scikit-learn and the same as ONNX, in one process with one
native thread, and is asked for 1, 32 and 256 rows in V2 JSON, V2 binary and gRPC (raw contents). Closed loops of some
connections: wrk for HTTP, bare frames for gRPC. Prints a Markdown table: of each server its best rate over the numbers
of connections, with the p99 and the CPU per call there. "x" is our best rate by theirs; "x at p99" compares at equal
tails: the most that we answer with no higher a p99 than they have at their best. "bare" is the CPU that the model takes
for these rows when it is called in this process, which is the least that any server can cost.

    python benchmarks/bench_servers.py --kserve venv-kserve/bin/python --mlserver venv-mlserver/bin/python

The first needs kserve, scikit-learn, onnxruntime; the second mlserver, mlserver-sklearn, onnxruntime; both the
scikit-learn of this project. Needs wrk and curl, too. Takes about twelve minutes; --quick takes three, and says less
about tails. Without the other servers' interpreters, only the predictor is measured.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import joblib
import numpy as np
import onnxruntime
import threadpoolctl
from frames import load
from rig import children
from rivals import COLUMNS, Running, running, train

from inference.protocol import v2
from inference.protocol.grpc_codec import encode_request
from inference.protocol.grpc_messages import SERVICE
from inference.protocol.tensors import Tensor

ROWS = (1, 32, 256)
CONNECTIONS = (1, 4, 8, 16, 32)
MODELS = {"sklearn": ("input-0", np.float64), "onnx": ("x", np.float32)}
TICKS = os.sysconf("SC_CLK_TCK")
INFER = "/v2/models/m/infer"
LENGTH = "Inference-Header-Content-Length"
GOAL = 3.0
OURS = "sidelight"
BARE_S = 0.3

Key = tuple[str, int, str]
"""Model, rows, form."""


@dataclass(frozen=True, slots=True)
class Call:
    """One kind of request."""

    form: str
    body: bytes
    header_length: int | None = None
    answer: int = 0
    """Bytes of a gRPC answer."""


@dataclass(frozen=True, slots=True)
class Point:
    """What one load gave."""

    rate: float
    p99_ms: float
    cpu_us: float


def drawn_rows(kind: str, count: int) -> np.ndarray[Any, Any]:
    """Draw the rows of a call: always the same, with four digits behind the point; as FP32 they have more in JSON."""
    return np.random.default_rng(1).normal(size=(count, COLUMNS)).round(4).astype(MODELS[kind][1])


def calls(kind: str, count: int) -> Iterator[Call]:
    """Give the same rows in every form."""
    tensors = (Tensor.of(MODELS[kind][0], drawn_rows(kind, count)),)
    yield Call("JSON", v2.encode_request(v2.InferRequest(inputs=tensors))[0])
    asked = v2.InferRequest(inputs=tensors, parameters={"binary_data_output": True})
    yield Call("binary", *v2.encode_request(asked, binary=True))
    yield Call("gRPC", encode_request("m", v2.InferRequest(inputs=tensors), raw=True))


def checked(server: Running, call: Call) -> Call | None:
    """Try a call; None where the server does not offer its form."""
    if call.form == "gRPC":
        with grpc.insecure_channel(f"127.0.0.1:{server.grpc}") as channel:
            answer = channel.unary_unary(f"/{SERVICE}/ModelInfer")(call.body, timeout=30)
        return Call(call.form, call.body, answer=len(answer) + 5)
    words = ["-s", "-o", "/dev/null", "-w", "%{http_code}", "--data-binary", "@-", "-H", f"Content-Type: {_type(call)}"]
    if call.header_length is not None:
        words += ["-H", f"{LENGTH}: {call.header_length}"]
    done = subprocess.run(
        ["curl", *words, f"http://127.0.0.1:{server.http}{INFER}"], input=call.body, capture_output=True, check=False
    )
    return call if done.stdout == b"200" else None


def _type(call: Call) -> str:
    return "application/json" if call.header_length is None else "application/octet-stream"


def measure(wrk: str, server: Running, call: Call, connections: int, seconds: int, folder: Path) -> Point:
    """Load a server with one kind of call."""
    pids = [server.pid, *children(server.pid, 0)]
    before, begun = _cpu(pids), time.perf_counter()
    if call.form == "gRPC":
        times = load(server.grpc, f"/{SERVICE}/ModelInfer", call.body, connections, seconds, call.answer)
        rate, p99_ms = len(times) / (time.perf_counter() - begun), float(np.quantile(times, 0.99)) * 1e3
    else:
        rate, p99_ms = _wrk(wrk, server, call, connections, seconds, folder)
    took = time.perf_counter() - begun
    return Point(rate, p99_ms, (_cpu(pids) - before) / (rate * took) * 1e6)


def _wrk(wrk: str, server: Running, call: Call, connections: int, seconds: int, folder: Path) -> tuple[float, float]:
    (folder / "body").write_bytes(call.body)
    headers = {"Content-Type": _type(call)} | ({} if call.header_length is None else {LENGTH: str(call.header_length)})
    lines = "".join(f'wrk.headers["{name}"] = "{value}"\n' for name, value in headers.items())
    script = f'wrk.method = "POST"\nwrk.body = io.open("{folder / "body"}", "rb"):read("*a")\n{lines}'
    (folder / "call.lua").write_text(script)
    said = subprocess.run(
        [wrk, "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "-s", str(folder / "call.lua"),
         f"http://127.0.0.1:{server.http}{INFER}"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    if "Non-2xx" in said:
        raise SystemExit(f"{call.form}: requests were refused:\n{said}")
    rate = re.search(r"Requests/sec:\s+([\d.]+)", said)
    tail = re.search(r"99%\s+([\d.]+)(us|ms|s)\b", said)
    if rate is None or tail is None:
        raise SystemExit(f"wrk said:\n{said}")
    return float(rate.group(1)), float(tail.group(1)) * {"us": 1e-3, "ms": 1.0, "s": 1e3}[tail.group(2)]


def _cpu(pids: list[int]) -> float:
    total = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICKS


Points = dict[Key, list[Point]]


def survey(wrk: str, server: str, python: str, kind: str, folder: Path, options: argparse.Namespace) -> Points:
    """Measure one server with one model, in every form, with every number of rows and connections."""
    found: Points = {}
    with running(server, python, kind, folder) as process:
        for count in options.rows:
            for drawn in calls(kind, count):
                call = checked(process, drawn)
                if call is not None:
                    measure(wrk, process, call, 4, 1, folder)
                    found[kind, count, call.form] = [
                        measure(wrk, process, call, connections, options.seconds, folder)
                        for connections in options.connections
                    ]
    return found


def bare(kind: str, count: int, folder: Path) -> float:
    """Give the CPU microseconds of the model alone, on the array that the servers make of the call."""
    rows = drawn_rows(kind, count)
    predict: Callable[[], Any]
    if kind == "sklearn":
        model = joblib.load(folder / "joblib" / "model.joblib")
        predict = lambda: model.predict(rows)  # noqa: E731 - two of one kind
    else:
        threads = onnxruntime.SessionOptions()
        threads.intra_op_num_threads = threads.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(
            folder / "onnx" / "model.onnx", threads, providers=["CPUExecutionProvider"]
        )
        predict = lambda: session.run(None, {"x": rows})  # noqa: E731 - two of one kind
    with threadpoolctl.threadpool_limits(limits=1):
        predict()
        number, begun, cpu = 0, time.perf_counter(), time.thread_time()
        while time.perf_counter() - begun < BARE_S:
            predict()
            number += 1
        return (time.thread_time() - cpu) / number * 1e6


def best(points: list[Point]) -> Point:
    """Give the point of the highest rate."""
    return max(points, key=lambda point: point.rate)


def at_tail(ours: list[Point], p99_ms: float) -> float:
    """Give the highest rate with no higher a tail; 0 where there is none."""
    return max((point.rate for point in ours if point.p99_ms <= p99_ms), default=0.0)


def show(results: dict[str, Points], alone: dict[tuple[str, int], float]) -> None:
    """Print the table, and how often the goal is met."""
    others = [server for server in results if server != OURS]
    titles = ["model", "rows", "form", "bare, CPU us", *_titles("ours")]
    for server in others:
        titles += [*_titles(server), "x", "x at p99"]
    lines = [titles, ["---"] * 3 + ["--:"] * (len(titles) - 3)]
    met = dict.fromkeys(others, 0)
    for key, ours in results[OURS].items():
        kind, count, form = key
        line = [kind, str(count), form, f"{alone[kind, count]:,.0f}", *_cells(best(ours))]
        for server in others:
            if key not in results[server]:
                line += ["not offered", "", "", "", ""]
                continue
            top = best(results[server][key])
            equal = at_tail(ours, top.p99_ms) / top.rate
            met[server] += equal >= GOAL
            line += [*_cells(top), f"{best(ours).rate / top.rate:.1f}", f"{equal:.1f}"]
        lines.append(line)
    print("\n".join(f"| {' | '.join(line)} |" for line in lines))
    for server in others:
        print(f"\n{server}: at least {GOAL:.0f} x at equal p99 in {met[server]} of {len(results[server])}")


def _titles(server: str) -> list[str]:
    return [f"{server}, calls/s", "p99 ms", "CPU us"]


def _cells(point: Point) -> list[str]:
    return [f"{point.rate:,.0f}", f"{point.p99_ms:.2f}", f"{point.cpu_us:,.0f}"]


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kserve", metavar="PYTHON", help="an interpreter that has the kserve SDK")
    parser.add_argument("--mlserver", metavar="PYTHON", help="an interpreter that has MLServer")
    parser.add_argument("--seconds", type=int, default=2, help="of each load (default: %(default)s)")
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS)
    parser.add_argument("--connections", type=int, nargs="+", default=CONNECTIONS)
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--quick", action="store_true", help="one second each, with 1 and 16 connections")
    options = parser.parse_args()
    if options.quick:
        options.seconds, options.connections = 1, (1, 16)
    wrk = shutil.which("wrk")
    if wrk is None:
        print("wrk is not there; nothing is measured")
        return
    given = {OURS: sys.executable, "kserve": options.kserve, "mlserver": options.mlserver}
    pythons = {server: str(Path(python).absolute()) for server, python in given.items() if python}
    print(
        f"{os.cpu_count()} cores, shared with the client; the best of closed loops of "
        f"{', '.join(map(str, options.connections))} connections, {options.seconds} s each\n"
    )
    results: dict[str, Points] = {server: {} for server in pythons}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        train(folder)
        for kind in options.models:
            for server, python in pythons.items():
                results[server] |= survey(wrk, server, python, kind, folder, options)
        alone = {(kind, count): bare(kind, count, folder) for kind in options.models for count in options.rows}
    show(results, alone)


if __name__ == "__main__":
    main()
