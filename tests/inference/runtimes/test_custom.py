"""What only the custom runtime promises: a class's methods, called as they are written, and clear words about them."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from inference.directory import open_model
from inference.errors import InvalidInput, ModelLoadFailed, PredictionFailed, Unsupported
from inference.protocol import v2
from inference.protocol.tensors import Tensor
from inference.protocol.v2 import InferRequest
from inference.runtime import Asked, Runtime
from inference.settings import SETTINGS_FILE, Trust
from tests.inference.grpc.calling import client as connected
from tests.inference.serving import predictor

_ROWS = {"x": np.array([[1.0, 2.0], [3.0, 4.0]])}


def _model(directory: Path, body: str, settings: str = "{}") -> Runtime:
    lines = "\n".join(f"    {line}" for line in body.strip("\n").splitlines())
    (directory / "model.py").write_text(
        f"import asyncio\nimport threading\nimport numpy as np\n\nclass Model:\n{lines}\n"
    )
    (directory / SETTINGS_FILE).write_text(settings)
    return open_model(directory, Trust(code=True), "custom")


@pytest.mark.parametrize(
    "asynchronous", [(), ("preprocess",), ("predict", "load"), ("load", "preprocess", "predict", "postprocess")]
)
def test_methods_run_in_order_plain_or_not(tmp_path: Path, asynchronous: tuple[str, ...]) -> None:
    """load, then preprocess, predict and postprocess, each of them plain or a coroutine."""
    body = """
def load(self, directory):
    self.add = int(directory.is_dir())

def preprocess(self, inputs):
    return inputs["x"] * 10

def predict(self, rows):
    return rows.sum(axis=1) + self.add

def postprocess(self, sums):
    return {"sum": sums, "text": [f"{value:g}" for value in sums]}
"""
    for name in asynchronous:
        body = body.replace(f"def {name}", f"async def {name}")
    outputs = _model(tmp_path, body).predict(_ROWS)

    assert outputs["sum"].tolist() == [31.0, 71.0]
    assert outputs["text"].tolist() == ["31", "71"]
    assert outputs["text"].dtype == object


def test_coroutines_of_several_calls_run_at_the_same_time(tmp_path: Path) -> None:
    """Four calls that wait for each other all end, on a thread that is not their own; plain code takes turns."""
    meeting = """
def __init__(self):
    self.waiting = 0
    self.together = None

async def predict(self, inputs):
    self.together = self.together or asyncio.Event()
    self.waiting += 1
    if self.waiting == 4:
        self.together.set()
    await self.together.wait()
    return [threading.get_ident()] * 2
"""
    runtime = _model(tmp_path, meeting)
    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(runtime.predict, [_ROWS] * 4))
    idents = {int(answer["output-0"][0]) for answer in answers}

    assert runtime.thread_safe
    assert len(idents) == 1
    assert threading.get_ident() not in idents
    assert not _model(tmp_path, "def predict(self, inputs):\n    return [1]").thread_safe
    assert _model(tmp_path, "thread_safe = True\ndef predict(self, inputs):\n    return [1]").thread_safe


_PREDICTS = "def predict(self, inputs): pass"


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("pass", r"model\.py: Model: expected a method predict\(self, inputs\), got none"),
        ("def predict(self): pass", r"Model\.predict: expected predict\(self, inputs\) or .*, got predict\(\)"),
        ("def predict(self, a, b): pass", r"or predict\(self, inputs, parameters\), got predict\(a, b\)"),
        ("predict = 3", r"Model\.predict: expected a method, got 3"),
        ("def predict(self, inputs): yield 1", "expected a method that returns, got one that yields"),
        (f"def load(self, path): pass\n{_PREDICTS}", r"load\(self\) or load\(self, directory\), got load\(path\)"),
        (f"def load(self): raise OSError('gone')\n{_PREDICTS}", r"Model\.load: OSError: gone"),
        (f"async def load(self): raise OSError('gone')\n{_PREDICTS}", r"Model\.load: OSError: gone"),
        (f"def load(self): raise SystemExit(3)\n{_PREDICTS}", r"Model\.load: SystemExit: 3"),
        (f"async def load(self): raise SystemExit(3)\n{_PREDICTS}", r"Model\.load: SystemExit: 3"),
        (f"def __init__(self): raise SystemExit(3)\n{_PREDICTS}", r"Model\(\): SystemExit: 3"),
        (f"inputs = [{{'name': 'x'}}]\n{_PREDICTS}", r"Model\.inputs: expected a tensor such as"),
    ],
)
def test_wrong_classes_are_refused_at_load(tmp_path: Path, body: str, says: str) -> None:
    """What cannot work is said when the model loads, with the method, expected and got, not at the first call."""
    with pytest.raises(ModelLoadFailed, match=says):
        _model(tmp_path, body)


def test_second_arguments_of_its_own_keep_their_default(tmp_path: Path) -> None:
    """Only an argument called `parameters` gets the request's parameters; they are empty in V1."""
    runtime = _model(
        tmp_path,
        "def preprocess(self, inputs, scale=2):\n    return inputs['x'] * scale\n"
        "def predict(self, rows, parameters):\n    return rows[:, 0] + parameters.get('add', 0)",
    )

    assert runtime.predict(_ROWS)["output-0"].tolist() == [2.0, 6.0]
    assert runtime.answer(_ROWS, Asked(parameters={"add": 5})).outputs["output-0"].tolist() == [7.0, 11.0]


@pytest.mark.parametrize(
    ("gives", "expected"),
    [
        ("[1, 2]", {"output-0": [1, 2]}),
        ("['a', 'b']", {"output-0": ["a", "b"]}),
        ("[b'a', b'b']", {"output-0": [b"a", b"b"]}),
        ("np.eye(2)", {"output-0": [[1.0, 0.0], [0.0, 1.0]]}),
        ("[{'a': 1, 'b': 'x'}, {'a': 2, 'b': 'y'}]", {"a": [1, 2], "b": ["x", "y"]}),
        ("{'a': [1, 2], 'b': np.zeros((2, 1))}", {"a": [1, 2], "b": [[0.0], [0.0]]}),
    ],
)
def test_what_a_class_may_give(tmp_path: Path, gives: str, expected: dict[str, Any]) -> None:
    """An array, a list, an object per row, or arrays by output name."""
    outputs = _model(tmp_path, f"def predict(self, inputs):\n    return {gives}").predict(_ROWS)

    assert {name: array.tolist() for name, array in outputs.items()} == expected


@pytest.mark.parametrize(
    ("gives", "says"),
    [
        ("None", "output 'output-0': expected one value per row, got None"),
        ("3", "expected one value per row, got 3"),
        ("{}", "the model gave no outputs"),
        ("[[1], [2, 3]]", "expected one shape for all rows"),
        ("[{'a': 1}, {'b': 1}]", "objects with different keys"),
        ("[object()]", "expected numbers or text, got object"),
        ("np.array(['a', 3], object)", "expected numbers or text, got int"),
    ],
)
def test_what_a_class_may_not_give(tmp_path: Path, gives: str, says: str) -> None:
    """What has no tensor form is the model's failure, with the output's name."""
    runtime = _model(tmp_path, f"def predict(self, inputs):\n    return {gives}")

    with pytest.raises(PredictionFailed, match=says):
        runtime.predict(_ROWS)


def test_whose_mistake_it_is(tmp_path: Path) -> None:
    """A ValueError before the prediction is the caller's mistake, during it the model's own failure."""
    runtime = _model(
        tmp_path,
        "def preprocess(self, inputs):\n    return inputs['x'].reshape(1, 4)\n"
        "def predict(self, rows):\n    return rows[:, 9]",
    )

    with pytest.raises(InvalidInput, match="cannot reshape"):
        runtime.predict({"x": np.ones(3)})
    with pytest.raises(IndexError):
        runtime.predict(_ROWS)
    with pytest.raises(InvalidInput, match="at least one row"):
        runtime.predict({"x": np.ones((0, 2))})


def test_declared_inputs_are_held_to(tmp_path: Path) -> None:
    """A class that declares its tensors gets exactly those, is described by them, and may let calls be joined."""
    body = """
inputs = [{"name": "n", "datatype": "INT32", "shape": [-1]}]
outputs = [{"name": "twice", "datatype": "INT32", "shape": [-1]}]
max_batch = 16

def predict(self, inputs):
    return {"twice": inputs["n"] * 2}
"""
    runtime = _model(tmp_path, body)

    assert runtime.predict({"instances": np.array([1.0, 2.0])})["twice"].dtype == np.int32
    assert (runtime.inputs[0].name, runtime.outputs[0].name, runtime.max_batch) == ("n", "twice", 16)
    with pytest.raises(InvalidInput, match=r"1\.5 does not fit INT32"):
        runtime.predict({"n": np.array([1.5])})


def test_options_act(tmp_path: Path) -> None:
    """The class is chosen and built by the settings."""
    (tmp_path / "adders.py").write_text(
        "class Adder:\n    def __init__(self, add=0):\n        self.add = add\n"
        "    def predict(self, inputs):\n        return inputs['x'][:, 0] + self.add\n"
    )
    (tmp_path / SETTINGS_FILE).write_text(
        '{"options": {"model": "adders:Adder", "arguments": {"add": 9}}, "output_name": "y"}'
    )

    assert open_model(tmp_path, Trust(code=True), "custom").predict(_ROWS)["y"].tolist() == [10.0, 12.0]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_text_comes_piece_by_piece(tmp_path: Path, asynchronous: bool) -> None:  # noqa: FBT001 - a parameter
    """A class with `generate` streams, plain or asynchronous, and needs no predict; others say that they do not."""
    body = (
        "def generate(self, prompt, parameters):\n    for at in range(parameters['n']):\n        yield f'{prompt}{at} '"
    )
    runtime = _model(tmp_path, f"{'async ' if asynchronous else ''}{body}")
    pieces = runtime.generate("a", {"n": 3})

    assert isinstance(pieces, Iterator)
    assert list(pieces) == ["a0 ", "a1 ", "a2 "]
    with pytest.raises(Unsupported, match="generates no text"):
        _model(tmp_path, "def predict(self, inputs):\n    return [1]").generate("a", {})


@pytest.mark.parametrize("asynchronous", [False, True])
def test_answers_come_one_by_one(tmp_path: Path, asynchronous: bool) -> None:  # noqa: FBT001 - a parameter
    """A class with `stream` gives several, plain or asynchronous; it gets parameters if it takes them."""
    body = (
        "def stream(self, inputs, parameters):\n"
        "    for at in range(parameters['n']):\n"
        "        yield {'y': inputs['x'] + at}"
    )
    runtime = _model(tmp_path, f"{'async ' if asynchronous else ''}{body}")
    answers = runtime.stream(_ROWS, Asked(parameters={"n": 2}))

    assert [answer.outputs["y"][0].tolist() for answer in answers] == [[1.0, 2.0], [2.0, 3.0]]
    with pytest.raises(Unsupported, match="several answers"):
        runtime.predict(_ROWS)


def _threads() -> set[threading.Thread]:
    # Others may begin and end meanwhile.
    return {thread for thread in threading.enumerate() if thread.name == "model-Model"}


def test_unload_lets_the_class_clean_up(tmp_path: Path) -> None:
    """`unload` runs once, plain or not, and the model's thread ends."""
    runtime = _model(
        tmp_path,
        "def load(self, directory):\n    self.path = directory / 'gone'\n"
        "async def predict(self, inputs):\n    return [1]\n"
        "async def unload(self):\n    self.path.touch()",
    )
    before = _threads()
    runtime.predict(_ROWS)
    during = _threads() - before
    runtime.unload()

    assert (tmp_path / "gone").exists()
    assert len(during) == 1
    assert not during & _threads()


def test_served_over_http(tmp_path: Path) -> None:
    """Through the server: parameters reach the class, calls wait for each other, texts come whole and as a stream."""
    _model(
        tmp_path,
        "def __init__(self):\n    self.waiting = 0\n    self.together = None\n"
        "async def predict(self, inputs, parameters):\n"
        "    self.together = self.together or asyncio.Event()\n"
        "    self.waiting += 1\n"
        "    if self.waiting == 3:\n        self.together.set()\n"
        "    await self.together.wait()\n"
        "    return inputs['x'] + parameters.get('add', 0)\n"
        "async def generate(self, prompt, parameters):\n"
        "    for at in range(parameters['n']):\n        yield f'{prompt}{at} '",
    )
    body = {"inputs": [{"name": "x", "shape": [1], "datatype": "INT64", "data": [1]}], "parameters": {"add": 5}}
    text = {"text_input": "a", "parameters": {"n": 2}}
    words = ("--runtime", "custom", "--trusted", "--max_threads", "3")
    with predictor(tmp_path, tmp_path, *words) as server, server.client() as client, ThreadPoolExecutor(3) as threads:
        answers = list(threads.map(lambda _: client.post("/v2/models/m/infer", json=body).json(), range(3)))
        whole = client.post("/v2/models/m/generate", json=text).json()
        streamed = client.post("/v2/models/m/generate_stream", json=text).text

    assert [answer["outputs"][0]["data"] for answer in answers] == [[6]] * 3
    assert whole["text_output"] == "a0 a1 "
    assert [json.loads(line[5:])["text_output"] for line in streamed.splitlines() if line.startswith("data:")][:2] == [
        "a0 ",
        "a1 ",
    ]


_IMAGE = b"\xff\xd8\xff\x00image\x00"
_FLIPS = """
takes_bytes = True
max_batch = 8

def predict(self, inputs):
    (images,) = inputs.values()
    assert {type(image) for image in images.flat} == {bytes}
    return [image[::-1] for image in images.flat]
"""


def _images(*images: bytes, binary_output: bool = False) -> InferRequest:
    tensor = Tensor(name="image", datatype="BYTES", shape=(len(images),), data=np.array(images, object))
    return InferRequest(inputs=(tensor,), parameters={"binary_data_output": binary_output})


def _posted(client: httpx.Client, body: bytes, length: int | None) -> httpx.Response:
    head = {} if length is None else {"inference-header-content-length": str(length)}
    return client.post("/v2/models/m/infer", content=body, headers=head)


def test_bytes_that_are_no_text_go_in_and_out(tmp_path: Path) -> None:
    """A class that takes bytes gets images in REST's binary form and over gRPC, and gives such; text is bytes, too."""
    _model(tmp_path, _FLIPS)
    images = (_IMAGE, b"text", b"")
    asked, in_json = (
        v2.encode_request(_images(*images, binary_output=binary), binary=True) for binary in (True, False)
    )
    with predictor(tmp_path, tmp_path, "--runtime", "custom", "--trusted") as server, server.client() as client:
        rest, no_json = (_posted(client, *each) for each in (asked, in_json))
        as_json = _posted(client, *v2.encode_request(_images(b"text")))
        over_v1 = client.post("/v1/models/m:predict", json={"instances": ["text"]})
        with connected(server.grpc) as stub:
            typed, raw = (stub.infer(_images(*images), raw=raw).outputs[0] for raw in (False, True))
    given = v2.decode_response(rest.content, int(rest.headers["inference-header-content-length"])).outputs[0]

    expected = [image[::-1] for image in images]
    assert [tensor.data.tolist() for tensor in (given, typed, raw)] == [expected] * 3
    assert as_json.json()["outputs"][0]["data"] == ["txet"]
    assert over_v1.json() == {"predictions": ["txet"]}
    assert no_json.status_code == 400
    assert "'output-0': BYTES element 0 is no UTF-8" in no_json.json()["error"]
    assert "ask for binary data" in no_json.json()["error"]


def test_bytes_that_are_no_text_need_a_class_that_takes_them(tmp_path: Path) -> None:
    """A class gets text unless it says otherwise: other bytes are the caller's mistake, with the element's number."""
    _model(tmp_path, "def predict(self, inputs):\n    return [str(type(word)) for word in inputs['image']]")
    asked = [v2.encode_request(_images(b"text", *more), binary=True) for more in ((), (_IMAGE,))]
    with predictor(tmp_path, tmp_path, "--runtime", "custom", "--trusted") as server, server.client() as client:
        fine, refused = (_posted(client, *each) for each in asked)

    assert fine.json()["outputs"][0]["data"] == ["<class 'str'>"]
    assert refused.status_code == 400
    assert "tensor 'image': element 1: expected UTF-8 text" in refused.json()["error"]


def test_v1_has_no_form_for_bytes_that_are_no_text(tmp_path: Path) -> None:
    """An answer that V1 cannot say is refused with its output's name and the way that can."""
    _model(tmp_path, "def predict(self, inputs):\n    return {'image': [b'ok', b'\\xff']}")
    with predictor(tmp_path, tmp_path, "--runtime", "custom", "--trusted") as server, server.client() as client:
        answer = client.post("/v1/models/m:predict", json={"instances": [1, 2]})

    assert answer.status_code == 400
    assert "output 'image': element 1: expected UTF-8 text" in answer.json()["error"]
    assert "ask over V2" in answer.json()["error"]


_EXPLAINS = """
inputs = [{"name": "x", "datatype": "FP64", "shape": [-1, 2]}]

def preprocess(self, inputs):
    if (inputs["x"] < 0).any():
        raise ValueError("x: expected numbers from 0 up")
    return inputs["x"] * 2

def predict(self, rows):
    return rows.sum(axis=1)

def postprocess(self, sums):
    return {"sum": sums}

@def explain(self, rows, parameters):
    if parameters.get("fail"):
        raise RuntimeError("no idea")
    said = {"seed": parameters.get("seed", 0), "meta": {"by": "part"}, "odd": [[1], []]}
    return {"parts": rows.T, "names": np.array(["left", "right"], object), **said}
"""


@pytest.mark.parametrize("asynchronous", ["", "async "])
def test_a_class_that_explains_answers_v1_and_v2(tmp_path: Path, asynchronous: str) -> None:
    """V1 gives its object as it is, V2 its entries as outputs; both go through preprocess, and know of parameters."""
    _model(tmp_path, _EXPLAINS.replace("@", asynchronous))
    tensor = {"name": "x", "datatype": "FP64", "shape": [2, 2], "data": [1, 2, 3, 4]}
    with predictor(tmp_path, tmp_path, "--runtime", "custom", "--trusted") as server, server.client() as client:
        over_v1 = client.post("/v1/models/m:explain", json={"instances": [[1, 2], [3, 4]], "seed": 7})
        over_v2 = client.post("/v2/models/m/explain", json={"id": "a", "inputs": [tensor], "parameters": {"seed": 7}})
        chosen = client.post(
            "/v2/models/m/versions/1/explain", json={"inputs": [tensor], "outputs": [{"name": "parts"}]}
        )
        bad = client.post("/v1/models/m:explain", json={"instances": [[-1, 2]]})
        failed = client.post("/v1/models/m:explain", json={"instances": [[1, 2]], "fail": True})

    parts = [[2.0, 6.0], [4.0, 8.0]]
    assert over_v1.json() == {
        "parts": parts, "names": ["left", "right"], "seed": 7, "meta": {"by": "part"}, "odd": [[1], []],
    }  # fmt: skip
    assert over_v1.headers["x-sidelight-model-version"] == "1"
    answer = over_v2.json()
    assert (answer["id"], answer["model_version"]) == ("a", "1")
    assert {output["name"]: output["data"] for output in answer["outputs"]} == {
        "parts": [2.0, 6.0, 4.0, 8.0], "names": ["left", "right"], "seed": [7], "meta": ['{"by":"part"}'],
        "odd": ["[[1],[]]"],
    }  # fmt: skip
    assert [output["name"] for output in chosen.json()["outputs"]] == ["parts"]
    assert (bad.status_code, bad.json()) == (400, {"error": "inputs: x: expected numbers from 0 up"})
    assert (failed.status_code, failed.json()) == (500, {"error": "RuntimeError : no idea"})


@pytest.mark.parametrize(
    ("given", "expected"),
    [("3", "expected an object, got int"), ("{'a': object()}", "has no JSON form"), ("{1j: 2}", "has no JSON form")],
)
def test_explanations_that_are_none_are_the_models_failure(tmp_path: Path, given: str, expected: str) -> None:
    """What is no object, or what JSON cannot say, is 500 with the reason."""
    _model(tmp_path, f"def predict(self, inputs):\n    return [1]\ndef explain(self, inputs):\n    return {given}")
    with predictor(tmp_path, tmp_path, "--runtime", "custom", "--trusted") as server, server.client() as client:
        answer = client.post("/v1/models/m:explain", json={"instances": [1]})

    assert answer.status_code == 500
    assert expected in answer.json()["error"]


def test_a_class_without_explain_says_so_before_anything_else(tmp_path: Path) -> None:
    """501 with who explains, whatever the body."""
    _model(tmp_path, "def predict(self, inputs):\n    return [1]")
    with predictor(tmp_path, tmp_path, "--runtime", "custom", "--trusted") as server, server.client() as client:
        answers = [client.post(f"/{path}", content=b"{}") for path in ("v1/models/m:explain", "v2/models/m/explain")]

    assert [answer.status_code for answer in answers] == [501, 501]
    assert "the service's explainer does" in answers[0].json()["error"]
