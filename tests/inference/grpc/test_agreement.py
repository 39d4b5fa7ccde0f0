"""Four ways to say the same over real sockets: gRPC raw and typed, REST JSON and binary."""

from __future__ import annotations

import math

import httpx
import numpy as np
from hypothesis import given, settings

from inference.protocol import v2
from inference.protocol.tensors import Tensor
from inference.protocol.v2 import InferRequest, InferResponse
from tests.inference.grpc.calling import Client
from tests.inference.protocol.drawn import tensors
from tests.inference.serving import Server

_LENGTH = "inference-header-content-length"


def _rest(http: httpx.Client, request: InferRequest, *, binary: bool) -> InferResponse:
    body, length = v2.encode_request(request, binary=binary)
    headers = {} if length is None else {_LENGTH: str(length), "content-type": "application/octet-stream"}
    answer = http.post("/v2/models/m/infer", content=body, headers=headers)
    assert answer.status_code == 200, answer.text
    given_length = answer.headers.get(_LENGTH)
    return v2.decode_response(answer.content, None if given_length is None else int(given_length))


def _said(response: InferResponse) -> list[object]:
    tensors_ = [
        (
            tensor.name,
            tensor.datatype,
            tensor.shape,
            np.ascontiguousarray(tensor.data).tolist(),
            dict(tensor.parameters),
        )
        for tensor in response.outputs
    ]
    return [response.model_name, response.model_version, response.id, tensors_]


@settings(max_examples=100)
@given(tensor=tensors(json=True).filter(lambda tensor: tensor.shape and math.prod(tensor.shape)))
def test_four_ways_agree(stub: Client, echo: Server, tensor: Tensor) -> None:
    """Whatever the way, the same tensors give the same answer."""
    request = InferRequest(inputs=(tensor,), id="i")
    binary = InferRequest(inputs=(tensor,), id="i", parameters={"binary_data_output": True})
    with echo.client() as http:
        answers = [
            stub.infer(request, raw=True),
            stub.infer(request, raw=False),
            _rest(http, request, binary=False),
            _rest(http, binary, binary=True),
        ]
    for_binary = answers[-1].outputs[0].parameters
    sizes = {name: for_binary[name] for name in ("binary_data_size",) if name in for_binary}
    expected = _said(answers[0])

    assert _said(answers[1]) == _said(answers[2]) == expected
    assert [*_said(answers[3])[:3]] == expected[:3]
    assert answers[3].outputs[0].data.tolist() == answers[0].outputs[0].data.tolist()
    assert dict(for_binary) == dict(answers[0].outputs[0].parameters) | sizes
