"""The servers that are measured beside each other, each with the same model in one process: ours, kserve's, MLServer.

All get one native thread: predictions at once are the server's affair, and two cores are all that there are.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import joblib
import numpy as np
import onnx
import skops.io
from onnx import TensorProto, helper, numpy_helper
from sklearn.linear_model import LogisticRegression

from deploy import environment
from deploy.kafka.ports import free_port

ROOT = Path(__file__).resolve().parents[1]
COLUMNS = 16
PATIENCE_S = 120.0
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")

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
            command, cwd=scratch, stdout=output, stderr=output, env=environment.inherited() | ONE_THREAD | variables
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
