"""Requests per second and CPU per request of the predictor, against the bare model called in process.

The model is an XGBoost classifier of 60 trees on 16 columns. Client: wrk where it is installed, else asyncio sockets;
it shares the machine's cores with the server. Takes about half a minute.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rig
import xgboost

from inference.directory import open_model
from inference.protocol import v2
from inference.protocol.tensors import Tensor
from inference.settings import Trust

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 3
CONNECTIONS = 8
COLUMNS = 16
ROWS = (1, 32)


@dataclass(frozen=True, slots=True)
class Call:
    """One kind of request."""

    name: str
    path: str
    body: bytes
    headers: dict[str, str]


def train(folder: Path) -> None:
    """Save a classifier on seeded noise with a signal."""
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(4_000, COLUMNS))
    model = xgboost.XGBClassifier(n_estimators=60, max_depth=5, n_jobs=1, random_state=0)
    model.fit(rows, rows[:, 0] + rows[:, 1] * rows[:, 2] > 0)
    model.save_model(folder / "model.ubj")


def calls(rows: np.ndarray[tuple[int, int], np.dtype[np.float64]]) -> Iterator[Call]:
    """Give the same rows in every protocol."""
    yield Call("V1 JSON", "/v1/models/m:predict", json.dumps({"instances": rows.tolist()}).encode(), {})
    tensor = (Tensor.of("input-0", rows),)
    body, _ = v2.encode_request(v2.InferRequest(inputs=tensor))
    yield Call("V2 JSON", "/v2/models/m/infer", body, {})
    asked = v2.InferRequest(inputs=tensor, parameters={"binary_data_output": True})
    body, length = v2.encode_request(asked, binary=True)
    yield Call("V2 binary", "/v2/models/m/infer", body, {"Inference-Header-Content-Length": str(length)})


def bare(folder: Path, rows: np.ndarray[tuple[int, int], np.dtype[np.float64]]) -> tuple[float, float]:
    """Call the loaded model in a loop: calls per second and CPU microseconds per call."""
    runtime = open_model(folder, Trust())
    inputs = {"input-0": rows}
    count, start, cpu = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - start < 1.0:
        runtime.predict(inputs)
        count += 1
    return count / (time.perf_counter() - start), (time.process_time() - cpu) / count * 1e6


def load_with_wrk(wrk: str, port: int, call: Call, folder: Path) -> tuple[float, str]:
    """Load the server with wrk; give requests per second and the 99th percentile."""
    (folder / "body").write_bytes(call.body)
    headers = "".join(f'wrk.headers["{name}"] = "{value}"\n' for name, value in call.headers.items())
    script = f'wrk.method = "POST"\nwrk.body = io.open("{folder / "body"}", "rb"):read("*a")\n{headers}'
    (folder / "call.lua").write_text(script)
    done = subprocess.run(
        [wrk, "-t1", f"-c{CONNECTIONS}", f"-d{SECONDS}s", "--latency", "-s", str(folder / "call.lua"),
         f"http://127.0.0.1:{port}{call.path}"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    if "Non-2xx" in done:
        raise SystemExit(f"{call.name}: the predictor refused requests:\n{done}")
    rate = re.search(r"Requests/sec:\s+([\d.]+)", done)
    tail = re.search(r"99%\s+(\S+)", done)
    if rate is None or tail is None:
        raise SystemExit(f"cannot read wrk's report:\n{done}")
    return float(rate.group(1)), tail.group(1)


def load_with_sockets(port: int, call: Call) -> tuple[float, str]:
    """Load the server from this process; give requests per second and the 99th percentile."""
    latencies: list[float] = []
    lines = [f"POST {call.path} HTTP/1.1", "Host: x", f"Content-Length: {len(call.body)}"]
    head = "\r\n".join([*lines, *(f"{name}: {value}" for name, value in call.headers.items()), "\r\n"]).encode()

    async def one(until: float) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while time.perf_counter() < until:
            start = time.perf_counter()
            writer.write(head + call.body)
            answer = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", answer)
            if not answer.startswith(b"HTTP/1.1 200") or length is None:
                raise SystemExit(f"{call.name}: refused: {answer.decode()}")
            await reader.readexactly(int(length.group(1)))
            latencies.append(time.perf_counter() - start)
        writer.close()

    async def every() -> None:
        until = time.perf_counter() + SECONDS
        await asyncio.gather(*(one(until) for _ in range(CONNECTIONS)))

    asyncio.run(every())
    return len(latencies) / SECONDS, f"{np.quantile(latencies, 0.99) * 1e3:.2f}ms"


def main() -> None:
    """Measure and print the table."""
    wrk = shutil.which("wrk")
    print(f"client: {'wrk' if wrk else 'asyncio sockets'}, {CONNECTIONS} connections, {os.cpu_count()} cores")
    print(f"{'':<10}{'rows':>5}{'calls/s':>10}{'rows/s':>11}{'p99':>10}{'CPU us/call':>13}{'of bare':>9}")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        folder.mkdir()
        train(folder)
        with rig.predictor(folder) as (pid, port):
            for count in ROWS:
                rows = np.random.default_rng(1).normal(size=(count, COLUMNS))
                rate, bare_cpu = bare(folder, rows)
                print(f"{'bare':<10}{count:>5}{rate:>10,.0f}{rate * count:>11,.0f}{'':>10}{bare_cpu:>13.0f}{1:>8.1f}x")
                for call in calls(rows):
                    before, start = rig.cpu_seconds((pid,)), time.perf_counter()
                    rate, tail = load_with_wrk(wrk, port, call, Path(scratch)) if wrk else load_with_sockets(port, call)
                    cpu = (rig.cpu_seconds((pid,)) - before) / (rate * (time.perf_counter() - start)) * 1e6
                    print(
                        f"{call.name:<10}{count:>5}{rate:>10,.0f}{rate * count:>11,.0f}{tail:>10}{cpu:>13.0f}"
                        f"{cpu / bare_cpu:>8.1f}x"
                    )


if __name__ == "__main__":
    main()
