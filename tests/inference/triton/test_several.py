"""Models that give a call several answers, over ModelStreamInfer."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest

from inference.protocol.grpc_codec import encode_request
from inference.protocol.grpc_messages import ModelStreamInferResponse
from inference.protocol.tensors import Tensor
from inference.protocol.v2 import InferRequest
from tests.inference.grpc.calling import Client, client, code_of
from tests.inference.serving import Server


@pytest.fixture(name="stub")
def _stub(examples: Server) -> Iterator[Client]:
    with client(examples.grpc) as connected:
        yield connected


def _message(*numbers: int, **parameters: Any) -> bytes:  # noqa: ANN401 - as V2 has them
    tensors = (
        Tensor.of("IN", np.array(numbers, np.int32)),
        Tensor.of("DELAY", np.zeros(len(numbers), np.uint32)),
        Tensor.of("WAIT", np.zeros(1, np.uint32)),
    )
    asked = InferRequest(inputs=tensors, id=str(numbers[0]), parameters=parameters)
    return encode_request("repeat_int32", asked, raw=True)


def _told(call: Any) -> list[tuple[str, int | str | None, bool]]:  # noqa: ANN401 - grpc has no types
    """Give each answer's id, its number or what is wrong, and whether it is the last."""
    found: list[tuple[str, int | str | None, bool]] = []
    for data in call:
        message = ModelStreamInferResponse.FromString(data)
        answer = message.infer_response
        numbers = [int(np.frombuffer(raw, np.int32)[0]) for raw in answer.raw_output_contents]
        told = message.error_message or (numbers[0] if numbers else None)
        found.append((answer.id, told, answer.parameters["triton_final_response"].bool_param))
    return found


def test_each_answer_comes_by_itself(stub: Client) -> None:
    """In order, with its message's id; the empty last one for whom it was asked for."""
    asked = [_message(7, 8), _message(9, triton_enable_empty_final_response=True)]

    assert _told(stub.stream(iter(asked))) == [
        ("7", 7, False), ("7", 8, False), ("9", 9, False), ("9", None, True),
    ]  # fmt: skip


def test_what_goes_wrong_is_the_last_answer(stub: Client) -> None:
    """Behind those that were made; the stream goes on."""
    found = _told(stub.stream(iter([_message(1, -1, 2), _message(3)])))

    assert [(identity, final) for identity, _, final in found] == [("1", False), ("1", True), ("3", False)]
    assert "ValueError : below zero" in str(found[1][1])


def test_a_model_that_is_loaded_later(examples: Server, stub: Client) -> None:
    """A stream that has asked for it in vain gets its answers as soon as it is there."""
    messages: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    path = "/v2/repository/models/repeat_int32"
    with examples.client() as http:
        http.post(f"{path}/unload").raise_for_status()
        stream = stub.stream(iter(messages.get, b"end"))
        messages.put(_message(1))
        refused = _told([next(stream)])
        http.post(f"{path}/load").raise_for_status()
    messages.put(_message(7, 8))
    messages.put(b"end")

    assert "not ready" in str(refused[0][1])
    assert _told(stream) == [("7", 7, False), ("7", 8, False)]


def test_one_answer_is_not_to_be_had(examples: Server, stub: Client) -> None:
    """Outside of a stream there is room for one."""
    with pytest.raises(grpc.RpcError) as caught:
        stub.raw("ModelInfer", _message(1))
    body = {
        "inputs": [
            {"name": "IN", "datatype": "INT32", "shape": [1], "data": [1]},
            {"name": "DELAY", "datatype": "UINT32", "shape": [1], "data": [0]},
            {"name": "WAIT", "datatype": "UINT32", "shape": [1], "data": [0]},
        ]
    }
    with examples.client() as http:
        answer = http.post("/v2/models/repeat_int32/infer", json=body)

    assert code_of(caught.value) is grpc.StatusCode.UNIMPLEMENTED
    assert (answer.status_code, "several answers" in answer.json()["error"]) == (501, True)


def test_they_are_described(stub: Client) -> None:
    """Triton's word for them is `decoupled`."""
    assert stub.call("ModelConfig", name="repeat_int32").config.model_transaction_policy.decoupled
