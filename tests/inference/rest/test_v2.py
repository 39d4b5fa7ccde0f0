"""V2 over a real socket; bodies are written from the specification, not by our encoder."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.inference.serving import predictor

HALVES = "tests.inference.halves:Halves"
INFER = "/v2/models/m/infer"
ROWS = [[5.0, 3.4, 1.5, 0.2], [6.6, 3.0, 5.6, 2.0]]
FLAT = [value for row in ROWS for value in row]
RAW = struct.pack("<8d", *FLAT)
LENGTH = "inference-header-content-length"


def _tensor(**changes: Any) -> dict[str, Any]:  # noqa: ANN401 - fields of a JSON object
    tensor = {"name": "input-0", "shape": [2, 4], "datatype": "FP64", "data": FLAT} | changes
    return {key: value for key, value in tensor.items() if value is not None}


def _binary(head: dict[str, Any], raw: bytes) -> tuple[bytes, dict[str, str]]:
    text = json.dumps(head).encode()
    return text + raw, {LENGTH: str(len(text)), "content-type": "application/octet-stream"}


def test_health(client: httpx.Client) -> None:
    """Live and ready answer as the protocol says."""
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}


def test_server_metadata(client: httpx.Client) -> None:
    """The server names itself, its version and its extensions."""
    body = client.get("/v2").json()

    assert body["name"] == "sidelight"
    assert body["version"]
    assert body["extensions"] == [
        "model_repository_extension", "model_repository", "binary_tensor_data", "classification", "statistics",
        "model_configuration",
    ]  # fmt: skip


@pytest.mark.parametrize("path", ["/v2/models/m", "/v2/models/m/versions/1"])
def test_model_metadata(client: httpx.Client, path: str) -> None:
    """A model is described with version, platform and tensors."""
    assert client.get(path).json() == {
        "name": "m",
        "versions": ["1"],
        "platform": "sklearn_estimator",
        "inputs": [{"name": "input-0", "datatype": "FP64", "shape": [-1, 4]}],
        "outputs": [{"name": "output-0", "datatype": "INT64", "shape": [-1]}],
    }


@pytest.mark.parametrize("path", ["/v2/models/m/ready", "/v2/models/m/versions/1/ready"])
def test_model_ready(client: httpx.Client, path: str) -> None:
    """A loaded model is ready under its name and under its version."""
    assert client.get(path).json() == {"name": "m", "ready": True}


def test_models_are_listed(client: httpx.Client) -> None:
    """The list names every model, as KServe's servers do."""
    assert client.get("/v2/models").json() == {"models": ["m"]}


@pytest.mark.parametrize("path", [INFER, "/v2/models/m/versions/1/infer"])
@pytest.mark.parametrize("data", [FLAT, ROWS], ids=["flat", "nested"])
def test_infer_json(client: httpx.Client, path: str, data: object) -> None:
    """JSON in, JSON out; the id comes back, and the output is flat with shape and datatype."""
    answer = client.post(path, json={"id": "x-1", "inputs": [_tensor(data=data)]})

    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == {
        "model_name": "m",
        "model_version": "1",
        "id": "x-1",
        "outputs": [{"name": "output-0", "shape": [2], "datatype": "INT64", "data": [0, 2]}],
    }


def test_infer_binary_in_and_out(client: httpx.Client) -> None:
    """A binary request asking for binary outputs gets little-endian bytes behind the JSON."""
    tensor = _tensor(data=None, parameters={"binary_data_size": len(RAW)})
    content, headers = _binary({"inputs": [tensor], "parameters": {"binary_data_output": True}}, RAW)
    answer = client.post(INFER, content=content, headers=headers)
    length = int(answer.headers[LENGTH])
    head = json.loads(answer.content[:length])

    assert answer.headers["content-type"] == "application/octet-stream"
    assert head["outputs"] == [
        {"name": "output-0", "shape": [2], "datatype": "INT64", "parameters": {"binary_data_size": 16}}
    ]
    assert struct.unpack("<2q", answer.content[length:]) == (0, 2)


def test_output_parameter_beats_request_parameter(client: httpx.Client) -> None:
    """`binary_data` of a requested output wins over `binary_data_output` of the request."""
    outputs = [{"name": "output-0", "parameters": {"binary_data": False}}]
    body = {"inputs": [_tensor()], "parameters": {"binary_data_output": True}, "outputs": outputs}
    answer = client.post(INFER, json=body)

    assert LENGTH not in answer.headers
    assert answer.json()["outputs"][0]["data"] == [0, 2]


def test_json_in_binary_out(client: httpx.Client) -> None:
    """A JSON request may ask for a binary output."""
    outputs = [{"name": "output-0", "parameters": {"binary_data": True}}]
    answer = client.post(INFER, json={"inputs": [_tensor()], "outputs": outputs})

    assert struct.unpack("<2q", answer.content[int(answer.headers[LENGTH]) :]) == (0, 2)


def test_binary_in_json_out(client: httpx.Client) -> None:
    """A binary request that asks for nothing else gets JSON."""
    tensor = _tensor(data=None, parameters={"binary_data_size": len(RAW)})
    content, headers = _binary({"inputs": [tensor]}, RAW)

    assert client.post(INFER, content=content, headers=headers).json()["outputs"][0]["data"] == [0, 2]


def test_half_precision_goes_out_in_binary_only(tmp_path: Path) -> None:
    """FP16 has no JSON form: who did not ask for binary data is told so and gets no bytes that it may not read."""
    body = {"inputs": [_tensor(shape=[1, 2], data=[1.5, -2.0])]}
    asked = {"outputs": [{"name": "half", "parameters": {"binary_data": True}}, {"name": "whole"}]}
    with predictor(tmp_path, tmp_path, "--runtime", HALVES) as server, server.client() as client:
        refused = client.post(INFER, json=body)
        other = client.post(INFER, json=body | {"outputs": [{"name": "whole"}]})
        given = client.post(INFER, json=body | asked)
    length = int(given.headers[LENGTH])
    half, whole = json.loads(given.content[:length])["outputs"]

    assert refused.status_code == 400
    assert refused.json() == {"error": "output 'half': FP16 has no JSON form; ask for binary data"}
    assert other.json()["outputs"][0]["data"] == [1.5, -2.0]
    assert (half["datatype"], struct.unpack("<2e", given.content[length:])) == ("FP16", (1.5, -2.0))
    assert whole["data"] == [1.5, -2.0]


def test_triton_s_words_for_outputs(tmp_path: Path) -> None:
    """`classification` gives the highest of each row; shared memory is refused, for the caller would read anything."""
    body = {"inputs": [_tensor(shape=[1, 2], data=[1.5, -2.0])]}
    with predictor(tmp_path, tmp_path, "--runtime", HALVES) as server, server.client() as client:
        ranked = client.post(INFER, json=body | _asking(classification=1))
        wrong = client.post(INFER, json=body | _asking(classification=-1))
        shared = client.post(INFER, json=body | _asking(shared_memory_region="r", shared_memory_byte_size=8))
        tensor = _tensor(data=None, parameters={"shared_memory_region": "r", "shared_memory_byte_size": 64})
        given = client.post(INFER, json={"inputs": [tensor]})

    assert ranked.json()["outputs"] == [{"name": "whole", "shape": [1, 1], "datatype": "BYTES", "data": ["1.500000:0"]}]
    assert (wrong.status_code, shared.status_code, given.status_code) == (400, 501, 400)
    assert shared.json() == {"error": "output 'whole': shared memory is not offered; ask for its contents"}
    assert given.json()["error"].endswith("; shared memory is not offered")


def _asking(**parameters: object) -> dict[str, Any]:
    return {"outputs": [{"name": "whole", "parameters": parameters}]}


@pytest.mark.parametrize("datatype", ["FP32", "INT64", "UINT8"])
def test_other_number_types_are_taken(client: httpx.Client, datatype: str) -> None:
    """Numbers of any type are cast to what the model works with."""
    data = [5, 3, 1, 0, 7, 3, 6, 2]
    answer = client.post(INFER, json={"inputs": [_tensor(datatype=datatype, data=data)]})

    assert answer.json()["outputs"][0]["data"] == [0, 2]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("", "body: expected a JSON object, got nothing"),
        ("{", "body: no JSON"),
        ("[]", "body: expected a JSON object"),
        ({}, "inputs: expected a list of tensors"),
        ({"inputs": []}, "inputs: expected at least one, got none"),
        ({"inputs": [3]}, "inputs[0]: expected a JSON object"),
        ({"inputs": [_tensor(name=None)]}, "inputs[0]: 'name'"),
        ({"inputs": [_tensor(shape=[3, 4])]}, "tensor 'input-0': shape [3, 4] needs 12 values, got 8"),
        ({"inputs": [_tensor(shape=[-2, 4])]}, "expected sizes from 0 up, got -2"),
        ({"inputs": [_tensor(shape=[4, 2])]}, "input 'input-0': expected shape [rows, 4], got [4, 2]"),
        ({"inputs": [_tensor(shape=[], data=[1.0])]}, "expected at least one dimension"),
        ({"inputs": [_tensor(datatype="FP128")]}, "datatype 'FP128': expected one of BOOL"),
        ({"inputs": [_tensor(datatype="FP16")]}, "FP16 has no JSON form"),
        ({"inputs": [_tensor(datatype="INT8", data=[300, *FLAT[1:]])]}, "INT8"),
        ({"inputs": [_tensor(data=["a"] * 8)]}, "FP64: expected float or int, got 'a'"),
        ({"inputs": [_tensor(data=None)]}, "has neither 'data' nor the parameter"),
        ({"inputs": [_tensor(), _tensor()]}, "tensor 'input-0': is given twice"),
        ({"inputs": [_tensor(parameters={"binary_data_size": 64})]}, "without the header"),
        (
            {"inputs": [_tensor()], "outputs": [{"name": "odd"}]},
            "outputs: unknown ['odd']; the model gives ['output-0']",
        ),
        ({"inputs": [_tensor()], "id": 5}, "id: expected text"),
        ({"inputs": [_tensor(shape=[0, 4], data=[])]}, "at least one row"),
    ],
)
def test_bad_bodies(client: httpx.Client, body: str | dict[str, Any], says: str) -> None:
    """A body that does not follow the protocol or the model is answered with 400, what and where."""
    content = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    answer = client.post(INFER, content=content)

    assert answer.status_code == 400
    assert list(answer.json()) == ["error"]
    assert says in answer.json()["error"]


@pytest.mark.parametrize(
    ("size", "raw", "length", "says"),
    [
        (64, RAW[:-1], None, "binary_data_size is 64, only 63 bytes are left"),
        (63, RAW, None, "needs 64 bytes, got 63"),
        (64, RAW + b"x", None, "1 bytes follow the last tensor"),
        (64, RAW, "100000000", "Inference-Header-Content-Length: expected 1 to"),
        (64, RAW, "-1", "Inference-Header-Content-Length: expected a number of bytes, got '-1'"),
        (64, RAW, "9" * 5_000, "Inference-Header-Content-Length: expected a number of bytes, got '999"),
        (64, RAW, "many", "Inference-Header-Content-Length: expected a number of bytes, got 'many'"),
        (-1, RAW, None, "expected a number of bytes, got -1"),
    ],
)
def test_bad_binary_bodies(client: httpx.Client, size: int, raw: bytes, length: str | None, says: str) -> None:
    """Cut, overlong or mislabelled binary tensors are answered with 400."""
    content, headers = _binary({"inputs": [_tensor(data=None, parameters={"binary_data_size": size})]}, raw)
    answer = client.post(INFER, content=content, headers=headers | ({LENGTH: length} if length else {}))

    assert answer.status_code == 400
    assert says in answer.json()["error"]


def test_binary_body_without_length(client: httpx.Client) -> None:
    """A body that calls itself binary must say how long its JSON is."""
    answer = client.post(INFER, content=RAW, headers={"content-type": "application/octet-stream"})

    assert answer.status_code == 400
    assert "Inference-Header-Content-Length" in answer.json()["error"]


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/v2/models/other", "Request for unknown model: 'other' is not found"),
        ("/v2/models/other/ready", "Request for unknown model: 'other' is not found"),
        ("/v2/models/m/versions/7", "Request for unknown model: 'm' version 7 is not found"),
        ("/v2/models/m/versions/7/ready", "Request for unknown model: 'm' version 7 is not found"),
    ],
)
def test_unknown_models_and_versions(client: httpx.Client, path: str, says: str) -> None:
    """Names and versions that do not exist are answered with 404."""
    answer = client.get(path)

    assert (answer.status_code, answer.json()) == (404, {"error": says})


@pytest.mark.parametrize("path", ["/v2/models/other/infer", "/v2/models/m/versions/7/infer"])
def test_inference_on_unknown_models(client: httpx.Client, path: str) -> None:
    """Inference on what does not exist is answered with 404."""
    answer = client.post(path, json={"inputs": [_tensor()]})

    assert answer.status_code == 404
    assert "unknown model" in answer.json()["error"]


@pytest.mark.parametrize("limit", ["x", "9" * 400, "9" * 5_000])
def test_time_limits_that_are_none(client: httpx.Client, limit: str) -> None:
    """What no clock knows is the caller's mistake, however many digits it has."""
    answer = client.post(INFER, json={"inputs": [_tensor()]}, headers={"x-sidelight-timeout-ms": limit})

    assert answer.status_code == 400
    assert "expected milliseconds" in answer.json()["error"]
