"""Transformers: one class around a model in its process, or in front of a predictor on the network."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from inference.directory import open_model
from inference.errors import InvalidInput, ModelLoadFailed, PredictionFailed, UnsafeFormat
from inference.protocol import v2
from inference.protocol.tensors import Tensor
from inference.runtime import RUNTIMES, Asked, Runtime
from inference.settings import SETTINGS_FILE, Trust
from tests.inference.grpc.calling import client as grpc_client
from tests.inference.serving import ECHO, Server, eventually, predictor
from tests.inference.upstream.scripted import V1_ANSWER, Script, scripted

# Takes millimetres, as the model was trained on centimetres, and names the kinds.
_KINDS = """
import numpy as np

class Transformer:
    def __init__(self, names=("setosa", "versicolor", "virginica")):
        self.names = np.array(names, object)

    def preprocess(self, inputs):
        (rows,) = inputs.values()
        if (rows < 0).any():
            raise ValueError("expected lengths")
        return rows / 10

    async def postprocess(self, outputs):
        (labels,) = outputs.values()
        return {"kind": self.names[labels.astype(int)]}
"""
_MILLIMETRES = [[50.0, 34.0, 15.0, 2.0], [59.0, 28.0, 43.0, 13.0], [66.0, 30.0, 56.0, 20.0]]
_EXPECTED = ["setosa", "versicolor", "virginica"]


def _around(directory: Path, code: str, settings: dict[str, Any] | None = None) -> Runtime:
    """Load scikit-learn's example with a transformer around it."""
    RUNTIMES.find("sklearn").example(directory)
    (directory / "transformer.py").write_text(code)
    (directory / SETTINGS_FILE).write_text(json.dumps({"transformer": "transformer:Transformer", **(settings or {})}))
    return open_model(directory, Trust(code=True))


def _code(directory: Path, code: str) -> Path:
    directory.mkdir()
    (directory / "transformer.py").write_text(code)
    return directory


@contextmanager
def _before(script: Script, folder: Path, code: str, *words: str) -> Iterator[Server]:
    """Serve a transformer before a scripted predictor."""
    host = f"127.0.0.1:{script.port}"
    with predictor(_code(folder / "code", code), folder, "--trusted", "--predictor_host", host, *words) as server:
        yield server


def test_around_a_model_in_its_process(tmp_path: Path) -> None:
    """preprocess, the model, postprocess; what preprocess cannot make sense of is the caller's mistake."""
    runtime = _around(tmp_path, _KINDS)

    assert runtime.predict({"instances": np.array(_MILLIMETRES)})["kind"].tolist() == _EXPECTED
    assert runtime.platform == RUNTIMES.find("sklearn").platform
    with pytest.raises(InvalidInput, match="expected lengths"):
        runtime.predict({"instances": -np.ones((1, 4))})


def test_arguments_of_the_class(tmp_path: Path) -> None:
    """The settings may say what the class is built with."""
    spec = {"class": "transformer:Transformer", "arguments": {"names": ["a", "b", "c"]}}
    runtime = _around(tmp_path, _KINDS, {"transformer": spec})

    assert runtime.predict({"x": np.array(_MILLIMETRES)})["kind"].tolist() == ["a", "b", "c"]


def test_code_runs_only_when_it_is_trusted(tmp_path: Path) -> None:
    """A safe model file with a transformer beside it is no safe model."""
    _around(tmp_path, _KINDS).unload()

    with pytest.raises(UnsafeFormat, match="--trusted"):
        open_model(tmp_path, Trust())


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("class Transformer: pass", r"expected preprocess\(self, inputs\) or postprocess\(self, inputs\)"),
        ("class Transformer:\n    def preprocess(self): pass", r"expected preprocess\(self, inputs\)"),
        (
            "class Transformer:\n    def preprocess(self, inputs): pass\n    def load(self): self.predictor.infer([1])",
            r"Transformer\.load: .*",
        ),
        ("class Other: pass", "the module has no such class"),
    ],
)
def test_wrong_classes_are_refused_at_load(tmp_path: Path, code: str, says: str) -> None:
    """What cannot work is said when the model loads."""
    with pytest.raises(ModelLoadFailed, match=says):
        _around(tmp_path, code)


def test_one_step_is_enough(tmp_path: Path) -> None:
    """Without preprocess the inputs are described as the model's; calls' parameters reach a step that takes them."""
    runtime = _around(
        tmp_path,
        "class Transformer:\n    def postprocess(self, outputs, parameters):\n"
        "        return {name: rows + parameters.get('add', 0) for name, rows in outputs.items()}",
    )
    rows = {"x": np.array(_MILLIMETRES) / 10}

    assert runtime.answer(rows, Asked(parameters={"add": 10})).outputs["output-0"].tolist() == [10, 11, 12]
    assert runtime.predict(rows)["output-0"].tolist() == [0, 1, 2]
    assert runtime.inputs != ()
    assert runtime.outputs == ()


@pytest.mark.parametrize(("asynchronous", "wait"), [("", ""), ("async ", "await ")])
def test_a_class_may_ask_the_model_itself(tmp_path: Path, asynchronous: str, wait: str) -> None:
    """With `predict`, the class asks as often as it likes; here twice, for the rows and for their reverse."""
    ask = f"{wait}self.predictor.infer{'_async' if wait else ''}"
    runtime = _around(
        tmp_path,
        "import numpy as np\nclass Transformer:\n"
        f"    {asynchronous}def predict(self, inputs):\n"
        "        (rows,) = inputs.values()\n"
        f"        there = {ask}(rows)\n        back = {ask}({{'x': rows[::-1]}})\n"
        "        return {'there': there['output-0'], 'back': back['output-0']}",
    )
    outputs = runtime.predict({"x": np.array(_MILLIMETRES) / 10})

    assert (outputs["there"].tolist(), outputs["back"].tolist()) == ([0, 1, 2], [2, 1, 0])


def test_outside_of_a_call_nobody_is_asked(tmp_path: Path) -> None:
    """A class that gives what no tensor is fails as a model does, not as its caller's mistake."""
    runtime = _around(tmp_path, "class Transformer:\n    def preprocess(self, inputs):\n        return {}")

    with pytest.raises(PredictionFailed, match="no outputs"):
        runtime.predict({"x": np.ones((1, 4))})


def test_unload_lets_go_of_class_and_model(tmp_path: Path) -> None:
    """The loop's thread ends, and the class may clean up."""
    code = _KINDS + f"\n    def unload(self):\n        open({str(tmp_path / 'gone')!r}, 'w').close()\n"
    runtime, before = _around(tmp_path, code), set(threading.enumerate())
    runtime.predict({"x": np.array(_MILLIMETRES)})
    during = {thread for thread in threading.enumerate() if thread.name.startswith("transformer-")} - before
    runtime.unload()

    assert (tmp_path / "gone").exists()
    assert during
    assert not during & set(threading.enumerate())


@pytest.fixture(scope="module", name="iris")
def _iris(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Serve scikit-learn's example as `m`."""
    folder = tmp_path_factory.mktemp("iris")
    model = folder / "model"
    model.mkdir()
    RUNTIMES.find("sklearn").example(model)
    with predictor(model, folder) as server:
        yield server


@pytest.mark.parametrize("protocol", ["v1", "v2", "grpc-v2"])
def test_the_same_class_in_front_of_a_predictor(iris: Server, tmp_path: Path, protocol: str) -> None:
    """Whatever client and predictor speak, the answer is that of the class around the model in one process."""
    host = iris.grpc if protocol == "grpc-v2" else iris.url.removeprefix("http://")
    words = ("--trusted", "--predictor_host", host, "--predictor_protocol", protocol, "--enable_predictor_health_check")
    rows = np.array(_MILLIMETRES)
    body, length = v2.encode_request(v2.InferRequest(inputs=(Tensor.of("x", rows),)), binary=True)
    asked = {"inputs": [{"name": "x", "shape": [3, 4], "datatype": "FP64", "data": rows.ravel().tolist()}]}
    with predictor(_code(tmp_path / "code", _KINDS), tmp_path, *words) as server, server.client() as client:
        eventually(lambda: client.get("/v2/health/ready").is_success, "the predictor is seen")
        over_v1 = client.post("/v1/models/m:predict", json={"instances": _MILLIMETRES}).json()
        over_v2 = client.post("/v2/models/m/infer", json=asked).json()
        binary = client.post(
            "/v2/models/m/infer", content=body, headers={"inference-header-content-length": str(length)}
        )
        refused = client.post("/v1/models/m:predict", json={"instances": [[1, 2]]})
        wrong = client.post("/v1/models/m:predict", json={"instances": [[-1, 2, 3, 4]]})
        with grpc_client(server.grpc) as stub:
            over_grpc = stub.infer(v2.InferRequest(inputs=(Tensor.of("x", rows),)))

    assert over_v1 == {"predictions": _EXPECTED}
    assert over_v2["outputs"][0]["data"] == _EXPECTED
    assert binary.json()["outputs"] == over_v2["outputs"]
    assert [item.decode() for item in over_grpc.outputs[0].data] == _EXPECTED
    assert (refused.status_code, wrong.status_code) == (400, 400)
    assert "4" in refused.json()["error"]
    assert wrong.json() == {"error": "inputs: expected lengths"}


@pytest.mark.parametrize("protocol", ["v2", "grpc-v2"])
def test_tensors_and_parameters_arrive_as_they_are(tmp_path: Path, protocol: str) -> None:
    """Halves, texts, bytes and parameters go through a predictor that echoes, and come back the same."""
    rows = (
        Tensor.of("half", np.array([[0.5], [1.5]], np.float16)),
        Tensor.of("text", np.array(["ä", "b"], object)),
        Tensor.of("odd", np.array([b"", b"a\x00"], object)),
        Tensor.of("flag", np.array([True, False])),
    )
    request = v2.InferRequest(inputs=rows, parameters={"p": "q", "binary_data_output": True})
    body, length = v2.encode_request(request, binary=True)
    code = "class Transformer:\n    def postprocess(self, outputs):\n        return outputs"
    (tmp_path / "model").mkdir()
    (tmp_path / "logs").mkdir()
    with predictor(tmp_path / "model", tmp_path, "--runtime", ECHO) as echo:
        host = echo.grpc if protocol == "grpc-v2" else echo.url.removeprefix("http://")
        words = ("--trusted", "--predictor_host", host, "--predictor_protocol", protocol)
        with predictor(_code(tmp_path / "code", code), tmp_path / "logs", *words) as server, server.client() as client:
            answer = client.post(
                "/v2/models/m/infer", content=body, headers={"inference-header-content-length": str(length)}
            )
    assert answer.status_code == 200, answer.text
    response = v2.decode_response(answer.content, int(answer.headers["inference-header-content-length"]))

    assert {tensor.name: tensor.data.tolist() for tensor in response.outputs} == {
        tensor.name: tensor.data.tolist() for tensor in rows
    }
    assert response.parameters == {"p": "q"}


_PLAIN = "class Transformer:\n    def preprocess(self, inputs):\n        return inputs"


def test_the_predictor_learns_for_whom(tmp_path: Path) -> None:
    """Request id, trace, authorization, the mark of synthetic calls and the time that is left reach the predictor."""
    sent = {
        "x-request-id": "r-1", "authorization": "Bearer t", "traceparent": f"00-{'a' * 32}-{'b' * 16}-01",
        "x-sidelight-synthetic": "1", "x-sidelight-timeout-ms": "5000",
    }  # fmt: skip
    with scripted(V1_ANSWER) as script, _before(script, tmp_path, _PLAIN) as server, server.client() as client:
        answer = client.post("/v1/models/m:predict", json={"instances": [1]}, headers=sent)
    path, head, body = script.asked[0]

    assert answer.json() == {"predictions": [1.5]}
    assert path == "/v1/models/m:predict"
    assert orjson.loads(body) == {"instances": [1]}
    assert {name: head.get(name) for name in sent if name != "x-sidelight-timeout-ms"} | {
        "x-sidelight-timeout-ms": "5000"
    } == sent
    assert 0 < int(head["x-sidelight-timeout-ms"]) <= 5000


@pytest.mark.parametrize(
    ("told", "status", "later"),
    [(403, 403, None), (418, 418, None), (429, 429, "9"), (500, 502, None), (503, 503, "9")],
)
def test_errors_keep_whose_they_are(tmp_path: Path, told: int, status: int, later: str | None) -> None:
    """The predictor's 4xx are the caller's; its failures are a bad gateway; what passes says when to come again."""
    head = {"retry-after": "9"} if later else {}
    with scripted((told, head, b'{"error": "so"}')) as script, _before(script, tmp_path, _PLAIN) as server:
        with server.client() as client:
            answer = client.post("/v1/models/m:predict", json={"instances": [1]})
        page = server.log.read_text()

    assert answer.status_code == status
    assert answer.headers.get("retry-after") == later
    assert "so" in answer.json()["error"]
    assert "Traceback" not in page


def test_calls_wait_for_the_predictor_side_by_side(tmp_path: Path) -> None:
    """Sixteen calls are at the predictor at the same time, though the class's plain method takes turns."""
    with scripted(V1_ANSWER) as script, _before(script, tmp_path, _PLAIN) as server, ThreadPoolExecutor(16) as threads:
        script.meeting = threading.Barrier(16)
        with server.client() as client:

            def ask(_: int) -> int:
                return client.post("/v1/models/m:predict", json={"instances": [1]}).status_code

            statuses = list(threads.map(ask, range(16)))

    assert statuses == [200] * 16


def test_readiness_is_the_predictors_if_asked(tmp_path: Path) -> None:
    """With --enable_predictor_health_check the transformer is ready when its predictor is, model and server."""
    with scripted((503, {}, b"{}")) as script:
        asked = _before(script, tmp_path, _PLAIN, "--enable_predictor_health_check")
        with asked as server, server.client() as client:
            first = client.get("/v2/health/ready").status_code
            eventually(lambda: bool(script.asked), "the predictor is asked")
            not_yet = [client.get(path).status_code for path in ("/v2/models/m/ready", "/v2/health/ready")]
            script.answers = [(200, {}, b'{"ready": true}')]
            eventually(lambda: client.get("/v2/health/ready").is_success, "the predictor is seen to be ready")
            model = client.get("/v1/models/m")
            live = client.get("/v2/health/live")

    assert [first, *not_yet] == [503, 503, 503]
    assert (model.json(), live.status_code) == ({"name": "m", "ready": True}, 200)


def test_a_transformer_needs_its_code(tmp_path: Path) -> None:
    """A folder without the class is refused at the start, with the way out."""
    (tmp_path / "empty").mkdir()
    with scripted(V1_ANSWER) as script, pytest.raises(AssertionError, match="transformer:Transformer"):  # noqa: SIM117 - two things
        with predictor(tmp_path / "empty", tmp_path, "--trusted", "--predictor_host", f"127.0.0.1:{script.port}"):
            pass


def test_a_model_that_explains_itself_gets_what_it_would_predict_on(tmp_path: Path) -> None:
    """The explanation of a model behind a transformer is of what preprocess gave."""
    (tmp_path / "model.py").write_text(
        "class Model:\n    def predict(self, inputs):\n        return inputs['x']\n"
        "    def explain(self, inputs):\n        return {'saw': inputs['x'].tolist()}\n"
    )
    (tmp_path / "transformer.py").write_text(
        "class Transformer:\n    def preprocess(self, inputs):\n        return {'x': inputs['x'] / 2}"
    )
    (tmp_path / SETTINGS_FILE).write_text('{"runtime": "custom", "transformer": "transformer:Transformer"}')
    runtime = open_model(tmp_path, Trust(code=True))

    assert runtime.explains()
    assert runtime.explain({"x": np.array([4.0, 6.0])}, {}) == {"saw": [2.0, 3.0]}


def test_a_plain_model_behind_a_transformer_takes_turns(tmp_path: Path) -> None:
    """A model that was not written for several threads has one call inside at a time, whatever kind each is."""
    (tmp_path / "model.py").write_text(_ALONE)
    (tmp_path / "transformer.py").write_text(_PLAIN)
    (tmp_path / SETTINGS_FILE).write_text('{"runtime": "custom", "transformer": "transformer:Transformer"}')
    runtime = open_model(tmp_path, Trust(code=True))
    rows = {"x": np.ones(1)}
    calls = [
        lambda: runtime.explain(rows, {})["most"],
        lambda: int(runtime.predict(rows)["output-0"][0]),
        lambda: int("".join(runtime.generate("a", {}))),
    ]

    with ThreadPoolExecutor(6) as threads:
        most = list(threads.map(lambda call: call(), calls * 10))

    assert most == [1] * 30


_ALONE = """
import threading
import numpy as np


class Model:
    def __init__(self):
        self.inside, self.most, self.second = 0, 0, threading.Event()

    def call(self):
        self.inside += 1
        self.most = max(self.most, self.inside)
        if self.inside > 1:
            self.second.set()
        # Whoever may come in has the time to.
        self.second.wait(0.01)
        self.inside -= 1
        return self.most

    def predict(self, inputs):
        return np.array([self.call()])

    def explain(self, inputs):
        return {"most": self.call()}

    def generate(self, prompt, parameters):
        yield str(self.call())
"""


def test_bytes_reach_what_takes_them(tmp_path: Path) -> None:
    """A class around a model that takes bytes gets text unless it takes bytes, too; the model always gets bytes."""
    (tmp_path / "model.py").write_text(
        "class Model:\n    takes_bytes = True\n    def predict(self, inputs):\n"
        "        (items,) = inputs.values()\n        return [item[::-1] for item in items]\n"
    )
    (tmp_path / SETTINGS_FILE).write_text('{"runtime": "custom", "transformer": "transformer:Transformer"}')
    given = []
    for says in ("takes_bytes = True", "x = 1"):
        (tmp_path / "transformer.py").write_text(
            f"class Transformer:\n    {says}\n    def preprocess(self, inputs):\n        return inputs\n"
        )
        given.append(open_model(tmp_path, Trust(code=True)))
    raw, text = given

    assert (raw.takes_bytes, text.takes_bytes) == (True, False)
    assert raw.predict({"x": np.array([b"\xff\x00"], object)})["output-0"].tolist() == [b"\x00\xff"]
    assert text.predict({"x": np.array(["ab"], object)})["output-0"].tolist() == [b"ba"]
