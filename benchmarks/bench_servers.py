"""Requests per second, latency and CPU of the predictor, beside a server of the kserve SDK and MLServer.

Each serves the same two models, a logistic regression of scikit-learn and the same as ONNX, in one process, and is
asked for 1, 32 and 256 rows in V2 JSON, V2 binary and gRPC (raw contents). Closed loops of 1 to 32 connections: wrk for
HTTP, bare frames for gRPC. "at p99" compares at equal tails: the most that the predictor answers with no higher a p99
than the other server has at its own best. Without the other servers' interpreters, only the predictor is measured.

    python benchmarks/bench_servers.py --kserve venv-kserve/bin/python --mlserver venv-mlserver/bin/python

The first needs kserve, scikit-learn, onnxruntime; the second mlserver, mlserver-sklearn, onnxruntime. Needs wrk, too.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import joblib
import numpy as np
import onnx
import skops.io
from frames import load
from onnx import TensorProto, helper, numpy_helper
from rig import children
from sklearn.linear_model import LogisticRegression

from deploy import environment
from deploy.kafka.ports import free_port
from inference.protocol import v2
from inference.protocol.grpc_codec import encode_request
from inference.protocol.grpc_messages import SERVICE
from inference.protocol.tensors import Tensor

ROOT = Path(__file__).resolve().parents[1]
COLUMNS = 16
ROWS = (1, 32, 256)
CONNECTIONS = (1, 4, 16, 32)
MODELS = {"sklearn": ("input-0", np.float64), "onnx": ("x", np.float32)}
FORMS = ("JSON", "binary", "gRPC")
TICKS = os.sysconf("SC_CLK_TCK")
INFER = "/v2/models/m/infer"
LENGTH = "Inference-Header-Content-Length"
PATIENCE_S = 120.0

KSERVE = """
import sys
import joblib
import onnxruntime
from kserve import Model, ModelServer
from kserve.utils.utils import get_predict_input, get_predict_response

kind, path, http, grpc = sys.argv[1:]
del sys.argv[1:]


class Served(Model):
    def __init__(self):
        super().__init__("m")
        if kind == "sklearn":
            self.run = joblib.load(path).predict
        else:
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = options.inter_op_num_threads = 1
            session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
            self.run = lambda rows: session.run(None, {"x": rows})[0]
        self.ready = True

    def predict(self, payload, headers=None):
        return get_predict_response(payload, self.run(get_predict_input(payload)), self.name)


ModelServer(http_port=int(http), grpc_port=int(grpc), workers=1).start([Served()])
"""
MLSERVER_ONNX = """
import onnxruntime
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceResponse
from mlserver.utils import get_model_uri


class Onnx(MLModel):
    async def load(self):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        path = await get_model_uri(self._settings)
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return True

    async def predict(self, payload):
        rows = self.decode(payload.inputs[0], default_codec=NumpyCodec)
        output = NumpyCodec.encode_output("y", self.session.run(None, {"x": rows})[0])
        return InferenceResponse(model_name=self.name, outputs=[output])
"""


@dataclass(frozen=True, slots=True)
class Running:
    """A server that runs."""

    pid: int
    http: int
    grpc: int


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


def train(folder: Path) -> None:
    """Save the same model as skops, joblib and ONNX, each in a folder of its own."""
    rows = np.random.default_rng(0).normal(size=(4_000, COLUMNS))
    model = LogisticRegression().fit(rows, rows[:, 0] + rows[:, 1] > 0)
    for name in ("skops", "joblib", "onnx"):
        (folder / name).mkdir()
    skops.io.dump(model, folder / "skops" / "model.skops")
    joblib.dump(model, folder / "joblib" / "model.joblib")
    weights = [
        numpy_helper.from_array(model.coef_.T.astype("f4"), "w"),
        numpy_helper.from_array(model.intercept_.astype("f4"), "b"),
    ]
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "w", "b"], ["z"]), helper.make_node("Sigmoid", ["z"], ["y"])], "m",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", COLUMNS])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 1])], weights,
    )  # fmt: skip
    saved = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(saved, folder / "onnx" / "model.onnx")


@contextmanager
def running(server: str, python: str, kind: str, folder: Path) -> Iterator[Running]:
    """Run a server until the block ends."""
    http, grpc_port = free_port(), free_port()
    scratch = Path(tempfile.mkdtemp(dir=folder))
    command, variables = _command(server, python, kind, folder, scratch, http, grpc_port)
    log = scratch / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=scratch, stdout=output, stderr=output, env=environment.inherited() | variables
        )
    try:
        until = time.monotonic() + PATIENCE_S
        while not _ready(http):
            if process.poll() is not None or time.monotonic() > until:
                raise SystemExit(f"{server} did not start:\n{log.read_text()}")
            time.sleep(0.1)
        yield Running(process.pid, http, grpc_port)
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()


def _command(
    server: str, python: str, kind: str, folder: Path, scratch: Path, http: int, grpc_port: int
) -> tuple[list[str], dict[str, str]]:
    joblib_or_onnx = folder / ("joblib/model.joblib" if kind == "sklearn" else "onnx/model.onnx")
    if server == "sidelight":
        directory = folder / ("skops" if kind == "sklearn" else "onnx")
        words = ["predictor", "--model_name", "m", "--model_dir", str(directory), "--host", "127.0.0.1"]
        ports = ["--http_port", str(http), "--grpc_port", str(grpc_port)]
        return [python, "-m", "deploy.cli", *words, *ports], {"PYTHONPATH": str(ROOT)}
    if server == "kserve":
        script = scratch / "served.py"
        script.write_text(KSERVE)
        return [python, str(script), kind, str(joblib_or_onnx), str(http), str(grpc_port)], {}
    (scratch / "m").mkdir()
    (scratch / "bench_onnx.py").write_text(MLSERVER_ONNX)
    implementation = "mlserver_sklearn.SKLearnModel" if kind == "sklearn" else "bench_onnx.Onnx"
    model = {"name": "m", "implementation": implementation, "parameters": {"uri": str(joblib_or_onnx)}}
    (scratch / "m" / "model-settings.json").write_text(json.dumps(model))
    ports = {"http_port": http, "grpc_port": grpc_port, "metrics_port": free_port(), "host": "127.0.0.1"}
    # In the server's own process: its worker processes only add a hop when one model is served on few cores.
    (scratch / "settings.json").write_text(json.dumps(ports | {"parallel_workers": 0, "debug": False}))
    return [python, "-c", "from mlserver.cli import main; main()", "start", str(scratch)], {"PYTHONPATH": str(scratch)}


def _ready(port: int) -> bool:
    done = subprocess.run(
        ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", f"http://127.0.0.1:{port}/v2/models/m/ready"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.stdout == "200"


def calls(kind: str, count: int) -> Iterator[Call]:
    """Give the same rows in every form."""
    name, dtype = MODELS[kind]
    rows = np.random.default_rng(1).normal(size=(count, COLUMNS)).round(4).astype(dtype)
    tensors = (Tensor.of(name, rows),)
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


Points = dict[tuple[str, int, str], list[Point]]


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
                        measure(wrk, process, call, connections, options.seconds, folder) for connections in CONNECTIONS
                    ]
    return found


def best(points: list[Point]) -> Point:
    """Give the point of the highest rate."""
    return max(points, key=lambda point: point.rate)


def at_tail(ours: list[Point], p99_ms: float) -> float:
    """Give the highest rate with no higher a tail; 0 where there is none."""
    return max((point.rate for point in ours if point.p99_ms <= p99_ms), default=0.0)


def show(results: dict[str, Points]) -> None:
    """Print the table."""
    print(
        f"{'model':<9}{'rows':>5} {'form':<7}{'server':<11}{'calls/s':>9}{'p99 ms':>8}{'CPU us':>8}"
        f"{'ratio':>7}{'at p99':>8}"
    )
    for key, ours in results["sidelight"].items():
        for server, points in results.items():
            if key not in points:
                print(f"{key[0]:<9}{key[1]:>5} {key[2]:<7}{server:<11}   does not offer it")
                continue
            top = best(points[key])
            line = (
                f"{key[0]:<9}{key[1]:>5} {key[2]:<7}{server:<11}{top.rate:>9,.0f}{top.p99_ms:>8.2f}{top.cpu_us:>8.0f}"
            )
            if server != "sidelight":
                line += f"{best(ours).rate / top.rate:>6.1f}x{at_tail(ours, top.p99_ms) / top.rate:>7.1f}x"
            print(line)


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kserve", metavar="PYTHON", help="an interpreter that has the kserve SDK")
    parser.add_argument("--mlserver", metavar="PYTHON", help="an interpreter that has MLServer")
    parser.add_argument("--seconds", type=int, default=2, help="of each load (default: %(default)s)")
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS)
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    options = parser.parse_args()
    wrk = shutil.which("wrk")
    if wrk is None:
        print("wrk is not there; nothing is measured")
        return
    given = {"sidelight": sys.executable, "kserve": options.kserve, "mlserver": options.mlserver}
    pythons = {server: str(Path(python).absolute()) for server, python in given.items() if python}
    print(
        f"{os.cpu_count()} cores, shared with the client; closed loops of {CONNECTIONS} connections, the best is shown"
    )
    results: dict[str, Points] = {server: {} for server in pythons}
    with tempfile.TemporaryDirectory() as scratch:
        train(Path(scratch))
        for kind in options.models:
            for server, python in pythons.items():
                results[server] |= survey(wrk, server, python, kind, Path(scratch), options)
    show(results)


if __name__ == "__main__":
    main()
