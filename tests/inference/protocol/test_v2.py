"""V2 bodies, JSON and binary, both ways, and what is none."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.protocol import v2
from inference.protocol.errors import BadTensor, MalformedBody, ProtocolError, UnknownDatatype
from inference.protocol.tensors import Tensor
from tests.inference.protocol.drawn import NAMES, PARAMETERS, tensors

_TESTDATA = Path(__file__).parent / "testdata"
_REQUEST = (_TESTDATA / "v2_request.json").read_bytes()
_RESPONSE = (_TESTDATA / "v2_response.json").read_bytes()
_HEAD = (_TESTDATA / "v2_binary_head.json").read_bytes()
_TAIL = bytes.fromhex((_TESTDATA / "v2_binary_tail.hex").read_text())
_MANY = st.lists(tensors(), max_size=3, unique_by=lambda tensor: tensor.name)
_IDS = st.none() | st.text(max_size=4)


def _equal(left: tuple[Tensor, ...], right: tuple[Tensor, ...]) -> None:
    assert len(left) == len(right)
    for one, other in zip(left, right, strict=True):
        assert (one.name, one.datatype, one.shape) == (other.name, other.datatype, other.shape)
        assert {key: value for key, value in one.parameters.items() if key != "binary_data_size"} == other.parameters
        if one.data.dtype == object:
            assert one.data.ravel().tolist() == other.data.ravel().tolist()
        else:
            np.testing.assert_array_equal(one.data, other.data)


@given(inputs=_MANY, identity=_IDS, parameters=PARAMETERS, wanted=st.dictionaries(NAMES, PARAMETERS, max_size=2))
def test_binary_requests_come_back(
    inputs: list[Tensor], identity: str | None, parameters: dict[str, Any], wanted: dict[str, dict[str, Any]]
) -> None:
    """Every datatype and shape, with ids, parameters and named outputs."""
    outputs = tuple(v2.RequestedOutput(name=name, parameters=own) for name, own in wanted.items())
    request = v2.InferRequest(inputs=tuple(inputs), id=identity, parameters=parameters, outputs=outputs)
    found = v2.decode_request(*v2.encode_request(request, binary=True))

    _equal(found.inputs, request.inputs)
    assert (found.id, found.parameters, found.outputs) == (identity, parameters, outputs)


@given(inputs=st.lists(tensors(json=True), max_size=3, unique_by=lambda tensor: tensor.name))
def test_json_requests_come_back(inputs: list[Tensor]) -> None:
    """Every datatype that has a JSON form, without a header length."""
    body, length = v2.encode_request(v2.InferRequest(inputs=tuple(inputs)))

    assert length is None
    _equal(v2.decode_request(body).inputs, tuple(inputs))


@given(
    outputs=st.lists(tensors(json=True), max_size=3, unique_by=lambda tensor: tensor.name),
    binary=st.sets(st.integers(0, 2)),
    version=st.none() | st.text(max_size=3),
)
def test_mixed_responses_come_back(outputs: list[Tensor], binary: set[int], version: str | None) -> None:
    """Some outputs raw, some JSON, in any combination."""
    raw = {tensor.name for index, tensor in enumerate(outputs) if index in binary}
    response = v2.InferResponse(model_name="m", model_version=version, outputs=tuple(outputs))
    body, length = v2.encode_response(response, raw.__contains__)
    found = v2.decode_response(body, length)

    assert (length is None) == (not raw)
    assert (found.model_name, found.model_version) == ("m", version)
    _equal(found.outputs, tuple(outputs))


def test_json_request_of_the_specification() -> None:
    """Flat and nested data, several datatypes, a requested output."""
    request = v2.decode_request(_REQUEST)
    by_name = {tensor.name: tensor for tensor in request.inputs}

    assert request.id == "42"
    assert by_name["input0"].data.tolist() == [[1, 2], [3, 4]]
    assert by_name["input1"].data.tolist() == [True, False, True]
    assert by_name["nested"].data.tolist() == [[[0.5, -1.0]], [[2000.0, 0.0]]]
    assert by_name["words"].data.tolist() == ["café".encode(), b""]
    assert request.outputs == (v2.RequestedOutput(name="output0"),)


def test_json_response_of_the_specification() -> None:
    """Null for absent optionals, as KServe's servers write."""
    response = v2.decode_response(_RESPONSE)

    assert (response.model_name, response.model_version, response.id) == ("mymodel", "1", "42")
    np.testing.assert_allclose(response.outputs[0].data, [[1.0, 1.1], [2.0, 2.1], [3.0, 3.1]], rtol=1e-6)


def test_binary_request_of_the_specification() -> None:
    """JSON, then the raw tensors in the order of the inputs; a tensor with JSON data may stand among them."""
    request = v2.decode_request(_HEAD + _TAIL, len(_HEAD))

    assert [tensor.data.tolist() for tensor in request.inputs] == [
        [[1, 2], [3, 2**32 - 1]], [True, False, True], [b"abc", b""], [-1],
    ]  # fmt: skip
    assert (request.wants_binary("output0"), request.wants_binary("output1")) == (True, False)


def test_an_outputs_own_wish_beats_the_requests() -> None:
    """`binary_data` of one output is stronger than `binary_data_output` of the request; without both it is JSON."""
    own = tuple(v2.RequestedOutput(name=str(wish), parameters={"binary_data": wish}) for wish in (True, False))
    requests = [
        v2.InferRequest(inputs=(), outputs=own, parameters={"binary_data_output": wish}) for wish in (True, False)
    ]

    assert [request.wants_binary("True") for request in requests] == [True, True]
    assert [request.wants_binary("False") for request in requests] == [False, False]
    assert [request.wants_binary("another") for request in requests] == [True, False]
    assert not v2.InferRequest(inputs=()).wants_binary("another")


def _with(**fields: object) -> bytes:
    tensor = {"name": "age", "shape": [2], "datatype": "FP64", "data": [1.0, 2.0]} | fields
    return orjson.dumps({"inputs": [{key: value for key, value in tensor.items() if value is not ...}]})


@pytest.mark.parametrize(
    ("body", "error", "message"),
    [
        (b"", MalformedBody, "got nothing"),
        (b"{", MalformedBody, "body: no JSON"),
        (b'{"inputs": [NaN]}', MalformedBody, "body: no JSON"),
        (b"[]", MalformedBody, "body: expected a JSON object, got list"),
        (b"{}", MalformedBody, "inputs: expected a list of tensors, got NoneType"),
        (b'{"inputs": {}}', MalformedBody, "inputs: expected a list of tensors, got dict"),
        (b'{"inputs": [7]}', MalformedBody, r"inputs\[0\]: expected a JSON object, got int"),
        (b'{"inputs": [], "id": 7}', MalformedBody, "id: expected text, got int"),
        (b'{"inputs": [], "parameters": []}', MalformedBody, "request: parameters: expected a JSON object"),
        (b'{"inputs": [], "outputs": [{}]}', MalformedBody, "outputs: 'name': expected text, got None"),
        (_with(name=...), MalformedBody, r"inputs\[0\]: 'name': expected text, got None"),
        (_with(shape=...), BadTensor, "tensor 'age': shape: expected a list of at most 32 sizes, got None"),
        (_with(shape=[3]), BadTensor, r"tensor 'age': shape \[3\] needs 3 values, got 2"),
        (_with(shape=[-2]), BadTensor, "tensor 'age': shape .*expected sizes from 0 up"),
        (_with(shape=[2**63]), BadTensor, "expected at most"),
        (_with(datatype="FP8"), UnknownDatatype, "tensor 'age': datatype 'FP8': expected one of BOOL"),
        (_with(datatype=...), UnknownDatatype, "datatype None"),
        (_with(datatype="FP16"), BadTensor, "FP16 has no JSON form"),
        (_with(data=...), MalformedBody, "tensor 'age': has neither 'data' nor the parameter 'binary_data_size'"),
        (_with(data=None), BadTensor, "tensor 'age': data: expected a list, got None"),
        (_with(data=["a", "b"]), BadTensor, "expected float or int, got 'a'"),
        (_with(datatype="INT8", data=[1, True]), BadTensor, "INT8: expected int, got True"),
        (_with(parameters=7), MalformedBody, "tensor 'age': parameters: expected a JSON object, got int"),
        (_with(data=..., parameters={"binary_data_size": 16}), MalformedBody, "without the header Inference-Header"),
        (_with(parameters={"binary_data_size": 16}), MalformedBody, "without the header Inference-Header"),
        (b'{"inputs": [%s, %s]}' % ((b'{"name":"a","shape":[1],"datatype":"INT8","data":[1]}',) * 2), BadTensor,
         "tensor 'a': is given twice"),
        (_REQUEST + b"\x00\x01", MalformedBody, "body: no JSON"),
    ],
)  # fmt: skip
def test_malformed_requests_are_refused(body: bytes, error: type[ProtocolError], message: str) -> None:
    """What, which tensor, expected, got."""
    with pytest.raises(error, match=message):
        v2.decode_request(body)


@pytest.mark.parametrize(
    ("body", "length", "message"),
    [
        (_HEAD + _TAIL, None, "body: no JSON"),
        (_HEAD + _TAIL, 0, "expected 1 to 508 bytes, got 0"),
        (_HEAD + _TAIL, -5, "expected 1 to 508 bytes, got -5"),
        (_HEAD + _TAIL, 10_000, "Inference-Header-Content-Length: expected 1 to 508 bytes, got 10000"),
        (_HEAD + _TAIL, len(_HEAD) - 1, "body: no JSON"),
        (_HEAD + _TAIL, len(_HEAD) + 1, "body: no JSON"),
        (_HEAD + _TAIL[:-1], len(_HEAD), "tensor 'words': binary_data_size is 11, only 10 bytes are left"),
        (_HEAD + _TAIL[:7], len(_HEAD), "tensor 'input0': binary_data_size is 16, only 7 bytes are left"),
        (_HEAD + _TAIL + b"\x00", len(_HEAD), "binary data: 1 bytes follow the last tensor's"),
        (_REQUEST + b"\x00", len(_REQUEST), "binary data: 1 bytes follow the last tensor's"),
    ],
)
def test_malformed_binary_requests_are_refused(body: bytes, length: int | None, message: str) -> None:
    """Cut tensors, trailing bytes, and header lengths that are missing, wrong or beyond the body."""
    assert len(_HEAD + _TAIL) == 508
    with pytest.raises(ProtocolError, match=message):
        v2.decode_request(body, length)


@pytest.mark.parametrize("size", [True, -1, "16", 1.5, [16]])
def test_binary_sizes_have_to_be_sizes(size: object) -> None:
    """`binary_data_size` is a whole number of bytes."""
    body = _with(data=..., parameters={"binary_data_size": size})
    with pytest.raises(BadTensor, match="binary_data_size: expected a number of bytes"):
        v2.decode_request(body + bytes(16), len(body))


def test_data_in_both_forms_is_refused() -> None:
    """A tensor whose data comes twice, in JSON and raw, has no one meaning."""
    body = _with(parameters={"binary_data_size": 16})
    with pytest.raises(MalformedBody, match="tensor 'age': has both 'data' and the parameter 'binary_data_size'"):
        v2.decode_request(body + bytes(16), len(body))


def test_a_response_names_its_model() -> None:
    """`model_name` is not optional in a response."""
    with pytest.raises(MalformedBody, match="response: 'model_name' is missing"):
        v2.decode_response(b'{"outputs": []}')


def test_parameters_that_json_cannot_say_are_refused() -> None:
    """The codec's error, not the JSON library's."""
    with pytest.raises(MalformedBody, match="no JSON form"):
        v2.encode_request(v2.InferRequest(inputs=(), parameters={"a": object()}))


@given(
    body=st.sampled_from([_REQUEST, _RESPONSE, _HEAD + _TAIL]) | st.binary(),
    at=st.integers(0, 520),
    flip=st.binary(max_size=3),
    cut=st.integers(0, 3),
    length=st.none() | st.integers(-1, 520) | st.just(len(_HEAD)),
)
def test_mutations_lead_to_our_errors_only(body: bytes, at: int, flip: bytes, cut: int, length: int | None) -> None:
    """Any bytes, and any bytes changed, added or removed in a good body: decoded or ProtocolError."""
    mutated = body[:at] + flip + body[at + cut :]
    for decode in (v2.decode_request, v2.decode_response):
        with contextlib.suppress(ProtocolError):
            decode(mutated, length)
