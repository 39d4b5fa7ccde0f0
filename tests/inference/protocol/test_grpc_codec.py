"""ModelInfer's messages: every tensor there and back, raw and typed, and what is refused."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.protocol.errors import ProtocolError
from inference.protocol.grpc_codec import Received, decode_response, encode_request, encode_response
from inference.protocol.grpc_messages import MESSAGES, ModelInferRequest, ModelInferResponse
from inference.protocol.tensors import Tensor
from inference.protocol.v2 import InferRequest, InferResponse, RequestedOutput
from tests.inference.protocol.drawn import NAMES, PARAMETERS, tensors

TENSORS = st.lists(tensors(), max_size=3, unique_by=lambda tensor: tensor.name).map(tuple)
PAST_INT8 = [1, 1, 1, 128]
Input = MESSAGES.of("ModelInferRequest.InferInputTensor")
FLOATS = [1.5, -2.0, float("inf"), 0.0]


def _same(one: tuple[Tensor, ...], other: tuple[Tensor, ...]) -> bool:
    return len(one) == len(other) and all(
        (a.name, a.datatype, a.shape, dict(a.parameters)) == (b.name, b.datatype, b.shape, dict(b.parameters))
        and (a.data.tolist() == b.data.tolist() if a.data.dtype.hasobject else _bits(a) == _bits(b))
        for a, b in zip(one, other, strict=True)
    )


def _bits(tensor: Tensor) -> bytes:
    # Written as BF16, every NaN becomes the one quiet NaN: bits are compared where they are carried, not rounded.
    data = np.where(np.isnan(tensor.data), np.float32("nan"), tensor.data) if tensor.datatype == "BF16" else tensor.data
    return np.ascontiguousarray(data).tobytes()


def _message(**fields: Any) -> Any:  # noqa: ANN401 - messages are made at run time
    message = ModelInferRequest(model_name="m", **fields)
    message.inputs.add(name="x", datatype="FP32", shape=[2, 2])
    return message


@given(
    inputs=TENSORS, parameters=PARAMETERS, outputs=st.lists(st.tuples(NAMES, PARAMETERS), max_size=2), raw=st.booleans()
)
def test_requests_come_back(
    inputs: tuple[Tensor, ...], parameters: dict[str, Any], outputs: list[tuple[str, Any]], *, raw: bool
) -> None:
    """A request that is written, raw or typed, is read as it was: values bit by bit, parameters, asked outputs."""
    asked = tuple(RequestedOutput(name=name, parameters=given) for name, given in outputs)
    request = InferRequest(inputs=inputs, id="i", parameters=parameters, outputs=asked)
    received = Received(encode_request("m", request, "3", raw=raw))
    found = received.request()

    assert (received.model, received.version, received.id) == ("m", "3", "i")
    assert _same(found.inputs, inputs)
    assert (found.id, dict(found.parameters)) == ("i", parameters)
    assert [(item.name, dict(item.parameters)) for item in found.outputs] == outputs


@given(outputs=TENSORS, parameters=PARAMETERS, raw=st.booleans())
def test_responses_come_back(outputs: tuple[Tensor, ...], parameters: dict[str, Any], *, raw: bool) -> None:
    """A response that is written is read as it was."""
    response = InferResponse(model_name="m", outputs=outputs, model_version="1", parameters=parameters)
    found = decode_response(encode_response(response, raw=raw))

    assert _same(found.outputs, outputs)
    assert (found.model_name, found.model_version, found.id) == ("m", "1", None)
    assert dict(found.parameters) == parameters


def test_raw_and_typed_are_the_protocol_s() -> None:
    """Typed contents stand in the field of their datatype, raw ones as little-endian bytes in the message's own."""
    outputs = (Tensor.of("y", np.array([[1.5], [2.0]], "f4")), Tensor.of("n", np.array([3, -4])))
    response = InferResponse(model_name="m", outputs=outputs)
    typed = ModelInferResponse.FromString(encode_response(response, raw=False))
    raw = ModelInferResponse.FromString(encode_response(response, raw=True))

    assert list(typed.outputs[0].contents.fp32_contents) == [1.5, 2.0]
    assert list(typed.outputs[1].contents.int64_contents) == [3, -4]
    assert list(typed.raw_output_contents) == []
    assert list(raw.raw_output_contents) == [struct.pack("<2f", 1.5, 2.0), struct.pack("<2q", 3, -4)]
    assert not raw.outputs[0].HasField("contents")


def test_answers_without_a_typed_form_go_raw() -> None:
    """One tensor of half precision makes all of an answer raw: contents are never mixed."""
    outputs = (Tensor.of("h", np.array([1.5], "f2")), Tensor.of("y", np.array([2.0])))
    message = ModelInferResponse.FromString(encode_response(InferResponse(model_name="m", outputs=outputs), raw=False))

    assert list(message.raw_output_contents) == [struct.pack("<e", 1.5), struct.pack("<d", 2.0)]


@pytest.mark.parametrize("size", [10, 70_000, 3_000_000])
def test_large_contents_are_cut_out(size: int) -> None:
    """Contents of any size, several of them, between other fields, are read right."""
    arrays = [np.arange(size, dtype="f4"), np.arange(size, dtype="i8"), np.array([b"a", b"bc"], object)]
    inputs = tuple(Tensor.of(f"x{index}", array) for index, array in enumerate(arrays))
    data = encode_request("m", InferRequest(inputs=inputs), raw=True)
    # Fields may come in any order: one behind the contents is read, too.
    found = Received(data + ModelInferRequest(id="last").SerializeToString())

    assert found.id == "last"
    assert _same(found.request().inputs, inputs)


@given(data=st.binary(max_size=200), raws=st.lists(st.binary(max_size=8), max_size=3))
def test_any_bytes_are_read_or_refused(data: bytes, raws: list[bytes]) -> None:
    """Whatever comes is a request, or the client's mistake."""
    message = ModelInferRequest(raw_input_contents=raws).SerializeToString()
    for whole in (data, message + data, data + message, message + data + bytes(70_000)):
        try:
            Received(whole).request()
        except ProtocolError:
            continue


@given(data=st.data())
def test_cut_messages_are_refused(data: st.DataObject) -> None:
    """A large message that ends too early is not taken for a shorter one."""
    array = np.zeros(20_000)
    whole = encode_request("m", InferRequest(inputs=(Tensor.of("x", array),)), raw=True)
    end = data.draw(st.integers(1, len(whole) - 1))

    try:
        found = Received(whole[:end]).request()
    except ProtocolError:
        return
    assert found.inputs == ()


def test_numbers_are_read_unpacked_and_beside_unknown_fields() -> None:
    """Typed numbers may be packed or not, and in several parts; fields that nobody knows are passed over."""
    message = _message()
    message.inputs[0].contents.fp32_contents.extend(FLOATS[:2])
    # InferTensorContents: field 6 unpacked, twice; then field 99.
    rest = b"".join(b"\x35" + struct.pack("<f", value) for value in FLOATS[2:]) + b"\x98\x06\x01"
    message.inputs[0].contents.MergeFromString(rest)

    found = Received(message.SerializeToString()).request()

    assert found.inputs[0].data.tolist() == [FLOATS[:2], FLOATS[2:]]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda m: m.raw_input_contents.extend([b"", b""]), "contents: expected one for each of 1 inputs, got 2"),
        (lambda m: m.raw_input_contents.append(bytes(15)), "tensor 'x': shape [2, 2] of FP32 needs 16 bytes, got 15"),
        (
            lambda m: (m.raw_input_contents.append(bytes(16)), m.inputs[0].contents.fp32_contents.extend(FLOATS)),
            "tensor 'x': has both 'contents' and raw contents",
        ),
        (lambda _: None, "tensor 'x': shape [2, 2] needs 4 values, got 0"),
        (
            lambda m: setattr(m.inputs[0].parameters["shared_memory_region"], "string_param", "r"),
            "tensor 'x': shared memory is not offered; send the contents",
        ),
        (lambda m: m.inputs[0].contents.fp64_contents.extend(FLOATS), "expected fp32_contents, got fp64_contents"),
        (lambda m: m.inputs[0].shape.__setitem__(0, -1), "tensor 'x': shape [-1, 2]: expected sizes from 0 up"),
        (lambda m: m.inputs[0].shape.__setitem__(0, 1 << 62), "expected at most 2147483648 elements"),
        (lambda m: setattr(m.inputs[0], "datatype", "FP16"), "FP16 has no typed contents; send raw contents"),
        (lambda m: setattr(m.inputs[0], "datatype", "FP8"), "datatype 'FP8': expected one of BOOL, "),
        (
            lambda m: m.inputs[0].MergeFrom(Input(datatype="INT8", contents={"int_contents": PAST_INT8})),
            "INT8: expected -128 to 127, got 1 to 128",
        ),
        (
            lambda m: (m.inputs.add().CopyFrom(m.inputs[0]), m.raw_input_contents.extend([bytes(16)] * 2)),
            "inputs: a name is given twice: ['x', 'x']",
        ),
    ],
)  # fmt: skip
def test_mistakes_are_named(change: Any, says: str) -> None:  # noqa: ANN401 - changes of a message made at run time
    """Contents that do not fit are refused with the tensor, what was expected and what came."""
    message = _message()
    change(message)

    with pytest.raises(ProtocolError) as caught:
        Received(message.SerializeToString()).request()

    assert says in str(caught.value)


def test_parameters_of_every_kind() -> None:
    """Parameters keep their kind; what gRPC cannot nest goes as JSON text."""
    given_parameters = {"b": True, "i": -5, "u": (1 << 64) - 1, "d": 0.25, "s": "t"}
    response = InferResponse(model_name="m", outputs=(), parameters=given_parameters | {"nested": {"a": [1]}})
    found = decode_response(encode_response(response, raw=False))

    assert dict(found.parameters) == given_parameters | {"nested": '{"a": [1]}'}


def test_no_rows_beside_an_unknown_field_are_no_rows() -> None:
    """Bytes of a field that nobody knows are not taken for numbers where there are none."""
    message = ModelInferRequest(model_name="m")
    item = message.inputs.add(name="x", datatype="FP32", shape=[0, 4])
    item.contents.MergeFromString(b"\x78\x01")
    (tensor,) = Received(message.SerializeToString()).request().inputs

    assert tensor.data.shape == (0, 4)
