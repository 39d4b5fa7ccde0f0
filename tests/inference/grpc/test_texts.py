"""Texts over ModelStreamInfer, as Triton's decoupled models answer: several answers to one message."""

from __future__ import annotations

import queue
from collections.abc import Sequence
from typing import Any

import numpy as np

from inference.protocol.grpc_codec import encode_request
from inference.protocol.grpc_messages import ModelStreamInferResponse
from inference.protocol.tensors import Tensor
from inference.protocol.v2 import InferRequest
from tests.inference.grpc.calling import Client
from tests.inference.serving import Server, eventually

_ASKS_FINAL = "triton_enable_empty_final_response"


def _message(text: object, *more: Tensor, raw: bool = True, **parameters: Any) -> bytes:  # noqa: ANN401 - as V2 has them
    prompt = Tensor.of("text_input", np.array([text], object))
    asked = InferRequest(inputs=(prompt, *more), id=str(text), parameters=parameters)
    return encode_request("m", asked, raw=raw)


def _told(answers: Sequence[bytes]) -> list[tuple[str, str, bool | None]]:
    """Give id, text or error, and whether it is the last, of each answer."""
    found = []
    for data in answers:
        message = ModelStreamInferResponse.FromString(data)
        answer = message.infer_response
        texts = [item.decode()[4:] for item in answer.raw_output_contents]
        texts += [item.decode() for output in answer.outputs for item in output.contents.bytes_contents]
        final = answer.parameters["triton_final_response"].bool_param if answer.parameters else None
        found.append((answer.id, message.error_message or "".join(texts), final))
    return found


def test_each_piece_is_an_answer(stub: Client) -> None:
    """In order, each with its message's id; the empty last one comes for whom it was asked for."""
    asked = [_message("to be"), _message("or not", raw=False, **{_ASKS_FINAL: True})]
    answers = list(stub.stream(iter(asked)))

    assert _told(answers) == [
        ("to be", "to", False), ("to be", "be", False),
        ("or not", "or", False), ("or not", "not", False), ("or not", "", True),
    ]  # fmt: skip
    first, last = (ModelStreamInferResponse.FromString(answers[at]).infer_response for at in (0, -1))
    assert (first.model_name, first.model_version) == (last.model_name, last.model_version) == ("m", "1")
    assert [(each.name, each.datatype, list(each.shape)) for each in first.outputs] == [("text_output", "BYTES", [1])]
    assert not last.outputs


def test_inputs_and_parameters_reach_the_model(stub: Client) -> None:
    """What beside the prompt has one element is a parameter; the message's own parameters are, too."""
    limit = Tensor.of("max_tokens", np.array([[3]], np.int32))
    asked = [_message("a b", limit), _message("c d", max_tokens=1)]

    assert [text for _, text, _ in _told(list(stub.stream(iter(asked))))] == ["a", "b", "a", "c"]


def test_what_goes_wrong_is_the_messages_own(stub: Client) -> None:
    """A prompt that is none, and a model that fails in mid-text, end their text; what stands beside it goes on."""
    many = Tensor.of("max_tokens", np.array([1, 2]))
    rows = InferRequest(inputs=(Tensor.of("x", np.array([b"seen"], object)),), id="rows")
    asked = [
        _message("a", many), _message("a fail b"), _message(""), _message(b"\xff"), encode_request("m", rows, raw=True),
        _message("end"),
    ]  # fmt: skip
    found = _told(list(stub.stream(iter(asked))))

    assert found[0][1] == "tensor 'max_tokens': expected one element for a text, got 2"
    assert [text for _, text, _ in found[1:3]] == ["a", "RuntimeError : the word was fail"]
    assert found[3][1] == "text_input: expected a word"
    assert found[4][1].startswith("tensor 'text_input': expected UTF-8 text")
    assert found[5:] == [("rows", "seen", True), ("end", "end", False)]
    assert [(final, text != "a") for _, text, final in found[:5]] == [
        (True, True), (False, False), (True, True), (True, True), (True, True),
    ]  # fmt: skip


def test_pieces_come_as_they_are_made(echo: Server, stub: Client) -> None:
    """The first piece is there while the second waits; a client that breaks off stops the model."""
    model = echo.log.parent / "model"
    messages: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    messages.put(_message("on and", wait=True))
    (model / "closed").unlink(missing_ok=True)
    stream = stub.stream(iter(messages.get, b"end"))
    first = _told([next(stream)])
    stream.cancel()
    (model / "open").touch()
    messages.put(b"end")
    eventually((model / "closed").exists, "the model stops")
    (model / "open").unlink()

    assert first == [("on and", "on", False)]
