"""The Open Inference Protocol over a real gRPC channel: descriptions, predictions, repository."""

from __future__ import annotations

from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import given, settings

from inference.protocol.grpc_codec import encode_request
from inference.protocol.grpc_messages import ModelInferRequest, ModelInferResponse
from inference.protocol.tensors import Tensor
from inference.protocol.v2 import InferRequest, RequestedOutput
from tests.inference.grpc.calling import Client, code_of, request
from tests.inference.protocol.drawn import tensors
from tests.inference.serving import Server, eventually

ROWS = np.array([[5.0, 3.4, 1.5, 0.2], [6.6, 3.0, 5.6, 2.0]])


def test_the_server_is_described(iris: Client) -> None:
    """Live, ready, and what it is."""
    server = iris.call("ServerMetadata")

    assert iris.call("ServerLive").live
    assert iris.call("ServerReady").ready
    assert (server.name, bool(server.version)) == ("sidelight", True)
    assert "model_repository_extension" in server.extensions


@pytest.mark.parametrize("version", ["", "1"])
def test_models_are_described(iris: Client, version: str) -> None:
    """A model is ready under its name and its version, and described with its tensors."""
    model = iris.call("ModelMetadata", name="m", version=version)

    assert iris.call("ModelReady", name="m", version=version).ready
    assert (model.name, list(model.versions), model.platform) == ("m", ["1"], "sklearn_estimator")
    assert [(item.name, item.datatype, list(item.shape)) for item in model.inputs] == [("input-0", "FP64", [-1, 4])]
    assert [(item.name, item.datatype, list(item.shape)) for item in model.outputs] == [("output-0", "INT64", [-1])]


@pytest.mark.parametrize("raw", [True, False], ids=["raw", "typed"])
def test_answers_go_as_requests_come(iris: Client, *, raw: bool) -> None:
    """A raw request is answered raw, a typed one typed, with name, version and id."""
    data = encode_request("m", request(ROWS, id="x-1"), raw=raw)
    answer = ModelInferResponse.FromString(iris.raw("ModelInfer", data))

    assert (answer.model_name, answer.model_version, answer.id) == ("m", "1", "x-1")
    assert (len(answer.raw_output_contents), answer.outputs[0].HasField("contents")) == (int(raw), not raw)
    assert iris.infer(request(ROWS), raw=raw).outputs[0].data.tolist() == [0, 2]


@settings(max_examples=150)
@given(tensor=tensors().filter(lambda tensor: tensor.shape), raw=...)
def test_every_tensor_comes_back(stub: Client, tensor: Tensor, *, raw: bool) -> None:
    """Every datatype goes to the model and back as it was; BF16 as the FP32 that holds it."""
    texts = tensor.datatype == "BYTES"
    data = np.array([b"%x" % index for index in range(tensor.data.size)], object) if texts else tensor.data
    sent = Tensor(
        name=tensor.name, datatype=tensor.datatype, shape=tensor.shape, data=data.reshape(tensor.shape),
        parameters=tensor.parameters,
    )  # fmt: skip
    (found,) = stub.infer(InferRequest(inputs=(sent,)), raw=raw).outputs

    assert (found.name, found.shape) == (sent.name, sent.shape)
    assert found.datatype == ("FP32" if sent.datatype == "BF16" else sent.datatype)
    assert dict(found.parameters) == dict(sent.parameters)
    if texts:
        assert found.data.tolist() == sent.data.tolist()
    elif sent.datatype == "BF16":
        # Rounded on its way, which makes every NaN the same one.
        assert np.array_equal(found.data, sent.data, equal_nan=True)
    else:
        assert found.data.tobytes() == np.ascontiguousarray(sent.data).tobytes()


def test_large_tensors_pass(stub: Client) -> None:
    """Forty megabytes go to the model and back, beyond gRPC's own bound of four."""
    array = np.arange(5_000_000, dtype="f8").reshape(5, -1)
    (found,) = stub.infer(request(array)).outputs

    assert np.array_equal(found.data, array)


def test_messages_beyond_the_bound_are_refused(stub: Client) -> None:
    """A message above --max-body is RESOURCE_EXHAUSTED, and the server serves on."""
    call = stub.future(encode_request("m", request(np.zeros((9, 1 << 20))), raw=True))

    assert code_of(call) is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert stub.infer(request(ROWS)).outputs[0].data.tolist() == ROWS.tolist()


def test_asked_outputs_and_parameters(stub: Client) -> None:
    """Only asked outputs come, in the asked order; parameters reach the model, and its own come back."""
    asked = (RequestedOutput(name="input-1"), RequestedOutput(name="input-0"))
    answer = stub.infer(request(ROWS, ROWS + 1, outputs=asked, parameters={"a": 1, "b": 0.5}))

    assert [tensor.name for tensor in answer.outputs] == ["input-1", "input-0"]
    assert dict(answer.parameters) == {"a": 1, "b": 0.5}


@pytest.mark.parametrize(
    ("fields", "code", "says"),
    [
        ({"model_name": "nobody"}, "NOT_FOUND", "Request for unknown model: 'nobody' is not found"),
        (
            {"model_name": "m", "model_version": "7"},
            "NOT_FOUND",
            "Request for unknown model: 'm' version 7 is not found",
        ),
        ({"model_name": "m", "raw_input_contents": [b"x"]}, "INVALID_ARGUMENT", "raw_input_contents: expected one for"),
        ({"model_name": "m"}, "INVALID_ARGUMENT", "expected"),
    ],
)
def test_refusals(iris: Client, fields: dict[str, Any], code: str, says: str) -> None:
    """What a caller does wrong is his status, with a text that says what."""
    call = iris.future(ModelInferRequest(**fields).SerializeToString())

    assert code_of(call) is grpc.StatusCode[code]
    assert says in call.details()


@pytest.mark.parametrize(
    "method", ["ModelInfer", "ModelReady", "ModelMetadata", "RepositoryModelLoad", "RepositoryIndex"]
)
def test_what_is_no_message(iris: Client, method: str) -> None:
    """Bytes that are no message are the caller's mistake, not the server's."""
    with pytest.raises(grpc.RpcError) as caught:
        iris.raw(method, b"\xff\xff")

    assert code_of(caught.value) is grpc.StatusCode.INVALID_ARGUMENT
    assert f"message: no {method}Request" in caught.value.details()


def test_unknown_methods(iris: Client) -> None:
    """A method that the protocol does not have is UNIMPLEMENTED."""
    with pytest.raises(grpc.RpcError) as caught:
        iris.raw("SystemSharedMemoryStatus", b"")

    assert code_of(caught.value) is grpc.StatusCode.UNIMPLEMENTED


def test_metadata(stub: Client, echo: Server) -> None:
    """The request id comes back; a synthetic call is counted as one."""
    data = encode_request("m", request(ROWS), raw=True)
    call = stub.future(data, (("x-request-id", "r-7"), ("x-sidelight-synthetic", "true")))
    call.result()
    line = 'sidelight_predictor_requests_total{model_name="m",protocol="grpc",status="200",synthetic="true"}'

    assert ("x-request-id", "r-7") in call.initial_metadata()
    with echo.client() as http:
        eventually(lambda: line in http.get("/metrics").text, "the synthetic call is counted")


def test_compressed_requests(iris: Client) -> None:
    """A request that was compressed is read like any other."""
    infer = iris.channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
    data = encode_request("m", request(np.repeat(ROWS, 100, axis=0)), raw=False)
    answer = ModelInferResponse.FromString(infer(data, compression=grpc.Compression.Gzip, timeout=30))

    assert list(answer.outputs[0].contents.int64_contents) == [0] * 100 + [2] * 100


def test_repository(stub: Client) -> None:
    """Models are listed, unloaded and loaded, by KServe's messages and by Triton's alike."""
    before = stub.call("RepositoryIndex").models
    unloaded = stub.call("RepositoryModelUnload", model_name="m")
    ready = [stub.call("ModelReady", name="m").ready, len(stub.call("RepositoryIndex", ready=True).models)]
    call = stub.future(encode_request("m", request(ROWS), raw=True))
    code = code_of(call)
    loaded = stub.call("RepositoryModelLoad", name_in_repository="m")

    assert [(entry.name, entry.version, entry.state) for entry in before] == [("m", "1", "READY")]
    assert (unloaded.model_name, unloaded.isUnloaded, ready) == ("m", True, [False, 0])
    assert code is grpc.StatusCode.UNAVAILABLE
    assert dict(call.trailing_metadata())["retry-after"] == "1"
    assert dict(call.trailing_metadata())["grpc-retry-pushback-ms"] == "1000"
    assert (loaded.model_name, loaded.isLoaded) == ("m", True)
    assert stub.call("ModelReady", name="m").ready


def test_loads_that_cannot_be(stub: Client) -> None:
    """An unknown model is NOT_FOUND; files in a load call are not offered."""
    codes = []
    for fields in (
        {"model_name": "nobody"},
        {"name_in_repository": "m", "parameters": {"file:1/m": {"bytes_param": b"x"}}},
    ):
        with pytest.raises(grpc.RpcError) as caught:
            stub.call("RepositoryModelLoad", **fields)
        codes.append(code_of(caught.value).name)

    assert codes == ["NOT_FOUND", "UNIMPLEMENTED"]
