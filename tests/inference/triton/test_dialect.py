"""Where KServe's and Triton's servers answer the same call differently, `--dialect` decides."""

from __future__ import annotations

import grpc
import numpy as np
import pytest

from inference.protocol.grpc_codec import encode_request
from inference.protocol.grpc_messages import ModelInferResponse
from inference.protocol.tensors import Tensor
from inference.protocol.v2 import InferRequest
from tests.inference.grpc.calling import client, code_of
from tests.inference.serving import Server

ONES = np.ones((1, 16), np.int32)
REQUEST = InferRequest(inputs=(Tensor.of("INPUT0", ONES), Tensor.of("INPUT1", ONES)))


def _server(request: pytest.FixtureRequest, dialect: str) -> Server:
    server: Server = request.getfixturevalue({"kserve": "examples", "triton": "triton"}[dialect])
    return server


@pytest.mark.parametrize(("dialect", "name"), [("kserve", "sidelight"), ("triton", "triton")])
def test_the_server_s_name(request: pytest.FixtureRequest, dialect: str, name: str) -> None:
    """Triton's examples insist on theirs."""
    server = _server(request, dialect)
    with server.client() as http, client(server.grpc) as stub:
        assert http.get("/v2").json()["name"] == name
        assert stub.call("ServerMetadata").name == name


@pytest.mark.parametrize(("dialect", "raw"), [("kserve", 0), ("triton", 2)])
def test_the_form_of_outputs(request: pytest.FixtureRequest, dialect: str, raw: int) -> None:
    """A typed request is answered typed, but raw in Triton's dialect."""
    with client(_server(request, dialect).grpc) as stub:
        answer = ModelInferResponse.FromString(stub.raw("ModelInfer", encode_request("simple", REQUEST, raw=False)))

    assert len(answer.raw_output_contents) == raw
    assert [each.HasField("contents") for each in answer.outputs] == [not raw] * 2


@pytest.mark.parametrize(("dialect", "code"), [("kserve", "UNIMPLEMENTED"), ("triton", "INTERNAL")])
def test_loads_with_files(request: pytest.FixtureRequest, dialect: str, code: str) -> None:
    """They are refused; Triton has one status for all that is wrong with a load."""
    with client(_server(request, dialect).grpc) as stub, pytest.raises(grpc.RpcError) as caught:
        stub.call("RepositoryModelLoad", name_in_repository="simple", parameters={"file:x": {"bytes_param": b"x"}})

    assert code_of(caught.value).name == code
    assert "failed to poll from model repository" in caught.value.details()


def test_unknown_models_have_triton_s_words_in_v2(examples: Server) -> None:
    """In either dialect; V1 has KServe's."""
    with examples.client() as http, client(examples.grpc) as stub:
        told = http.get("/v2/models/nobody").json()["error"]
        one = http.get("/v1/models/nobody").json()["error"]
        with pytest.raises(grpc.RpcError) as caught:
            stub.call("ModelMetadata", name="nobody", version="3")

    assert told == "Request for unknown model: 'nobody' is not found"
    assert one == "Model with name nobody does not exist."
    assert caught.value.details() == "Request for unknown model: 'nobody' is not found"


def test_a_load_may_bring_settings(triton: Server) -> None:
    """They hold until the next load; a load that fails changes nothing."""
    path = "/v2/repository/models/simple_string"
    with triton.client() as http:
        sizes = []
        for config in ('{"max_batch_size": 16}', '{"max_batch_size": "x"}', None):
            body = {} if config is None else {"parameters": {"config": config}}
            status = http.post(f"{path}/load", json=body).status_code
            sizes.append((status, http.get("/v2/models/simple_string/config").json()["max_batch_size"]))

    assert sizes == [(200, 16), (400, 16), (200, 8)]
