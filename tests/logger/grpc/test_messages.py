"""The reader of gRPC messages against google's protobuf, and the bodies that it writes against the V2 decoder."""

from __future__ import annotations

import math
import struct
from typing import Any

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet
from hypothesis import given
from hypothesis import strategies as st

from inference.protocol import v2
from logger.grpc import messages, wire
from logger.grpc.wire import Malformed
from tests.logger.grpc import oip

# The number kinds and their bounds, as the protocol's typed contents have them.
TYPED: dict[str, tuple[str, st.SearchStrategy[Any]]] = {
    "BOOL": ("bool_contents", st.booleans()),
    "INT8": ("int_contents", st.integers(-(1 << 7), (1 << 7) - 1)),
    "INT16": ("int_contents", st.integers(-(1 << 15), (1 << 15) - 1)),
    "INT32": ("int_contents", st.integers(-(1 << 31), (1 << 31) - 1)),
    "INT64": ("int64_contents", st.integers(-(1 << 63), (1 << 63) - 1)),
    "UINT8": ("uint_contents", st.integers(0, (1 << 8) - 1)),
    "UINT16": ("uint_contents", st.integers(0, (1 << 16) - 1)),
    "UINT32": ("uint_contents", st.integers(0, (1 << 32) - 1)),
    "UINT64": ("uint64_contents", st.integers(0, (1 << 64) - 1)),
    "FP32": ("fp32_contents", st.floats(width=32)),
    "FP64": ("fp64_contents", st.floats()),
    "BYTES": ("bytes_contents", st.binary(max_size=40)),
}
PARAMETER = st.one_of(
    st.tuples(st.just("bool_param"), st.booleans()),
    st.tuples(st.just("int64_param"), st.integers(-(1 << 63), (1 << 63) - 1)),
    st.tuples(st.just("string_param"), st.text(max_size=10)),
    st.tuples(st.just("double_param"), st.floats()),
    st.tuples(st.just("uint64_param"), st.integers(0, (1 << 64) - 1)),
)
PARAMETERS_FIELD = 4
PARAMETERS = st.dictionaries(st.text(max_size=5), PARAMETER, max_size=3)


def fill(target: Any, parameters: dict[str, tuple[str, Any]]) -> None:  # noqa: ANN401 - protobuf's classes have no types
    """Set parameters."""
    for name, (kind, value) in parameters.items():
        setattr(target[name], kind, value)


def plain(parameters: dict[str, tuple[str, Any]]) -> dict[str, Any]:
    """Give parameters as V2 has them: NaN and infinities, which JSON lacks, as text."""
    return {
        name: str(value) if isinstance(value, float) and not math.isfinite(value) else value
        for name, (_, value) in parameters.items()
    }


@given(
    st.lists(
        st.tuples(st.sampled_from(sorted(TYPED)), PARAMETERS, st.data()).map(
            lambda item: (item[0], item[1], item[2].draw(st.lists(TYPED[item[0]][1], min_size=1, max_size=6)))
        ),
        max_size=4,
    ),
    PARAMETERS,
    st.text(max_size=8),
)
def test_typed_contents_keep_every_value(
    tensors: list[tuple[str, dict[str, Any], list[Any]]], parameters: dict[str, Any], identity: str
) -> None:
    """Whatever google's encoder writes, the V2 decoder reads from our body: names, shapes, values, parameters."""
    message = oip.Request(model_name="m", id=identity)
    fill(message.parameters, parameters)
    for index, (datatype, own, values) in enumerate(tensors):
        tensor = message.inputs.add(name=f"t{index}", datatype=datatype, shape=[len(values)])
        fill(tensor.parameters, own)
        getattr(tensor.contents, TYPED[datatype][0]).extend(values)
    found = messages.request_body([memoryview(message.SerializeToString())])
    decoded = v2.decode_request(found.body, found.head)

    assert (found.model, decoded.id) == ("m", identity or None)
    assert dict(decoded.parameters) == plain(parameters)
    for tensor, (datatype, own, values) in zip(decoded.inputs, tensors, strict=True):
        assert (tensor.datatype, tensor.shape) == (datatype, (len(values),))
        kept = {name: value for name, value in tensor.parameters.items() if name != "binary_data_size"}
        assert kept == {name: value for name, value in plain(own).items() if name != "binary_data_size"}
        if datatype.startswith("FP"):
            np.testing.assert_array_equal(tensor.data, np.array(values, tensor.data.dtype))
        else:
            assert tensor.data.tolist() == values


@given(st.lists(st.tuples(st.sampled_from(["INT64", "FP16", "BF16", "BYTES"]), st.binary(max_size=64)), max_size=4))
def test_raw_contents_are_not_touched(tensors: list[tuple[str, bytes]]) -> None:
    """What came raw goes raw, byte by byte, even when it does not fit its shape: who reads it has to judge."""
    message = oip.Response(model_name="m", model_version="7")
    for index, (datatype, raw) in enumerate(tensors):
        message.outputs.add(name=f"t{index}", datatype=datatype, shape=[1])
        message.raw_output_contents.append(raw)
    found = messages.response_body([memoryview(message.SerializeToString())], streamed=False)

    assert not isinstance(found, str)
    assert found.body[found.head :] == b"".join(raw for _, raw in tensors)
    assert found.version == "7"


def ours(data: bytes) -> dict[str, Any] | None:
    """Read a request, None when it is none."""
    try:
        return wire.read(memoryview(data), messages.REQUEST)
    except Malformed:
        return None


def theirs(data: bytes) -> Any | None:  # noqa: ANN401 - protobuf's classes have no types
    """Read a request as google does, None when it is none."""
    try:
        return oip.Request.FromString(data)
    except DecodeError:
        return None


def agree(found: dict[str, Any], want: Any) -> None:  # noqa: ANN401 - as above
    """Compare what both readers found, down to the last value."""
    for name in ("model_name", "model_version", "id"):
        assert found.get(name, "") == getattr(want, name)
    assert [bytes(raw) for raw in found.get("raw", [])] == list(want.raw_input_contents)
    compare_parameters(found, want)
    tensors = found.get("tensors", [])
    assert len(tensors) == len(want.inputs)
    for tensor, wanted in zip(tensors, want.inputs, strict=True):
        assert (tensor.get("name", ""), tensor.get("datatype", "")) == (wanted.name, wanted.datatype)
        assert [wire._signed(size) for size in tensor.get("shape", [])] == list(wanted.shape)
        compare_parameters(tensor, wanted)
        contents = tensor.get("contents", {})
        assert [value != 0 for value in contents.get("bool", [])] == list(wanted.contents.bool_contents)
        assert [value & 0xFFFFFFFF for value in contents.get("int", [])] == [
            value & 0xFFFFFFFF for value in wanted.contents.int_contents
        ]
        assert [wire._signed(value) for value in contents.get("int64", [])] == list(wanted.contents.int64_contents)
        assert list(contents.get("uint64", [])) == list(wanted.contents.uint64_contents)
        assert [bytes(value) for value in contents.get("bytes", [])] == list(wanted.contents.bytes_contents)
        floats = struct.unpack(f"<{len(wanted.contents.fp32_contents)}f", contents.get("fp32", b""))
        np.testing.assert_array_equal(floats, list(wanted.contents.fp32_contents))
    assert [item.get("name", "") for item in found.get("requested", [])] == [item.name for item in want.outputs]


def compare_parameters(found: dict[str, Any], want: Any) -> None:  # noqa: ANN401 - as above
    """Compare the parameters of a message or tensor."""
    if any(item.field_number == PARAMETERS_FIELD for item in UnknownFieldSet(want)):
        # What google's Python reader does with an entry of a map that has a field too many: it sets it aside unread.
        return
    wanted = {}
    for name, value in want.parameters.items():
        kind = value.WhichOneof("parameter_choice")
        wanted[name] = None if kind is None else getattr(value, kind)
    assert repr({name: value.get("value") for name, value in sorted(found.get("parameters", {}).items())}) == repr(
        dict(sorted(wanted.items()))
    )


@given(st.binary(max_size=60), st.integers(0, 200), st.integers(0, 6), st.booleans())
def test_damaged_messages_are_read_as_google_reads_them(piece: bytes, at: int, cut: int, raw: bool) -> None:  # noqa: FBT001 - drawn
    """Whatever is spliced into a message: both readers refuse it, or both find the same in it."""
    text = oip.request(raw=raw)
    data = text[:at] + piece + text[at + cut :]
    found, want = ours(data), theirs(data)

    assert (found is None) == (want is None)
    if found is not None:
        agree(found, want)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_as_google_reads_them(data: bytes) -> None:
    """Bytes from nowhere: both readers refuse them, or both find the same in them."""
    found, want = ours(data), theirs(data)

    assert (found is None) == (want is None)
    if found is not None:
        agree(found, want)


def varint(value: int) -> bytes:
    """Write a varint."""
    found = b""
    while value >= 0x80:
        found += bytes([value & 0x7F | 0x80])
        value >>= 7
    return found + bytes([value])


@given(st.lists(st.lists(st.integers(0, (1 << 64) - 1), max_size=4), max_size=4), st.booleans())
def test_numbers_may_come_packed_or_one_by_one(runs: list[list[int]], packed: bool) -> None:  # noqa: FBT001 - drawn
    """Proto3 packs repeated numbers; a sender may also write them one by one, or in several packs."""
    contents = b""
    for run in runs:
        inside = b"".join(map(varint, run))
        contents += b"\x2a" + varint(len(inside)) + inside if packed else b"".join(b"\x28" + varint(v) for v in run)
    tensor = b"\x2a" + varint(len(contents)) + contents
    data = b"\x2a" + varint(len(tensor)) + tensor
    found, want = ours(data), theirs(data)

    assert found is not None
    assert want is not None
    agree(found, want)
    assert list(want.inputs[0].contents.uint64_contents) == [value for run in runs for value in run]


def test_what_google_may_write_but_nobody_does() -> None:
    """Groups are skipped, embedded messages that come twice are merged, the last member of a oneof counts."""
    group = b"\xa3\x06" + b"\x08\x01" + b"\xab\x06\xac\x06" + b"\xa4\x06"
    contents = b"\x2a\x0c" + b"\x2a\x04\x18\x01\x18\x02" + b"\x2a\x04\x18\x03\x18\x04"
    parameter = b"\x22\x09\x0a\x01k\x12\x04\x08\x01\x10\x05"
    found, want = ours(group + contents + parameter), theirs(group + contents + parameter)

    assert found is not None
    agree(found, want)
    assert list(found["tensors"][0]["contents"]["int64"]) == [1, 2, 3, 4]
    assert found["parameters"] == {"k": {"value": 5}}


@pytest.mark.parametrize(
    ("datatype", "contents"),
    [
        ("INT8", {"int_contents": [200]}),
        ("UINT16", {"uint_contents": [70_000]}),
        ("INT64", {"int_contents": [1]}),
        ("FP16", {"fp32_contents": [1.0]}),
        ("NONE", {"fp64_contents": [1.0]}),
        ("FP32", {"fp32_contents": [1.0], "fp64_contents": [1.0]}),
    ],
)
def test_contents_that_do_not_fit_are_refused(datatype: str, contents: dict[str, list[float]]) -> None:
    """Values out of range, or of another kind than the datatype's, are no tensor."""
    message = oip.Request(model_name="m")
    tensor = message.inputs.add(name="t", datatype=datatype, shape=[1])
    for name, values in contents.items():
        getattr(tensor.contents, name).extend(values)
    with pytest.raises(Malformed):
        messages.request_body([memoryview(message.SerializeToString())])


def test_raw_and_typed_together_are_refused() -> None:
    """The protocol allows the one or the other; and as many raw contents as tensors."""
    message = oip.Request.FromString(oip.request(raw=False))
    message.raw_input_contents.append(b"")
    with pytest.raises(Malformed, match="2 tensors, 1 raw"):
        messages.request_body([memoryview(message.SerializeToString())])


def test_requested_outputs_are_kept() -> None:
    """Which outputs a client asks for stands in the body, with its parameters."""
    message = oip.Request(model_name="m")
    message.outputs.add(name="y").parameters["classification"].int64_param = 3
    found = messages.request_body([memoryview(message.SerializeToString())])

    (asked,) = v2.decode_request(found.body, found.head).outputs
    assert (asked.name, dict(asked.parameters)) == ("y", {"classification": 3})


def test_the_rows_of_a_stream_are_put_together() -> None:
    """Several messages of one shape make one body with all their rows, in order."""
    found = messages.request_body([memoryview(oip.request(rows)) for rows in (1, 2, 3)])
    numbers, words = v2.decode_request(found.body, found.head).inputs

    assert numbers.shape == words.shape == (6,)
    assert words.data.tolist() == [b"ab"] * 6


def test_streams_of_different_shapes_are_refused() -> None:
    """Messages that have no rows together, or speak to several models, stay what they are."""
    other = oip.Request(model_name="m")
    other.inputs.add(name="z", datatype="INT8", shape=[1]).contents.int_contents.append(1)
    with pytest.raises(Malformed, match="fit together"):
        messages.request_body([memoryview(oip.request()), memoryview(other.SerializeToString())])
    with pytest.raises(Malformed, match="several models"):
        messages.request_body([memoryview(oip.request()), memoryview(oip.request(model="n"))])


def test_an_error_within_a_stream_is_told() -> None:
    """Triton's streams tell errors inside of messages."""
    good, bad = oip.Streamed(), oip.Streamed(error_message="no such input")
    good.infer_response.MergeFromString(oip.response())
    texts = [memoryview(item.SerializeToString()) for item in (good, bad)]

    assert messages.response_body(texts, streamed=True) == "no such input"
    found = messages.response_body(texts[:1], streamed=True)
    assert not isinstance(found, str)
    assert v2.decode_response(found.body, found.head).outputs[0].data.tolist() == [0, 1]


@given(st.binary(max_size=120))
def test_nothing_but_our_error_is_ever_raised(data: bytes) -> None:
    """The shipper survives whatever a client sends."""
    try:
        messages.request_body([memoryview(data)])
        messages.response_body([memoryview(data)], streamed=True)
    except Malformed as exc:
        assert str(exc)  # noqa: PT017 - a refusal says why, and most drawn bytes are refused
