"""Observations: bodies of both protocols, compressed or not, ours or an agent's, to rows and back."""

from __future__ import annotations

import gzip
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.columns import MAX_COLUMNS
from inference.observations import META, ArrowCodec, body_of, decode_inputs, decode_rows, encode_rows, protocol_of
from inference.protocol import v2
from inference.protocol.errors import MalformedBody, ProtocolError
from inference.protocol.tensors import Tensor
from streams.events import Event, Value
from streams.pairing import Exchange, Pairing, Undecodable
from streams.settings import PairingSettings
from tests.streams.payloads import START_US, event, record

V1_IN, V1_OUT = b'{"instances":[[1,2.5],[3,4]]}', b'{"predictions":[0,1]}'
_BODIES = st.binary(max_size=60) | st.sampled_from([
    V1_IN, V1_OUT, b'{"inputs":[{"name":"a","shape":[1],"datatype":"FP64","data":[1]}]}',
    b'{"inputs":[{"name":"a","shape":[1],"datatype":"INT8","parameters":{"binary_data_size":1}}]}\x01',
    b'{"model_name":"m","outputs":[{"name":"b","shape":[1],"datatype":"BYTES","data":["x"]}]}',
    gzip.compress(V1_IN, mtime=0), b'{"instances":[{"a":[1,"x"]},{"a":null}]}',
    b'{"predictions":[[[]]]}', b'{"instances":[[1,[2]],[1,[2]]]}',
])  # fmt: skip


def exchange(
    request: bytes,
    response: bytes,
    request_extensions: Mapping[str, Value] | None = None,
    response_extensions: Mapping[str, Value] | None = None,
    offset: int = 0,
) -> Exchange:
    """Pair two events."""
    pairing = Pairing(PairingSettings())
    name = f"call-{offset}"
    pairing.take(record(event(name, "request", 0, request, request_extensions), offset))
    found = pairing.take(record(event(name, "response", 4, response, response_extensions), offset + 1)).exchange
    assert found is not None
    return found


def observed(*exchanges: Exchange) -> pa.Table:
    """Write exchanges and read them."""
    codec = ArrowCodec()
    return decode_rows(codec.encode([codec.decode(item) for item in exchanges]))


def refusal(found: Exchange) -> str:
    """Give the reason why an exchange cannot be decoded."""
    with pytest.raises(Undecodable) as caught:
        ArrowCodec().decode(found)
    assert caught.value.reason == "undecodable"
    return caught.value.detail


def test_every_row_says_where_it_comes_from() -> None:
    """Ids, place, order, time, status, latency, model and rate stand in every row."""
    about: dict[str, Value] = {"modelname": "m", "modelversion": "3", "sampledrate": "0.5"}
    found = exchange(V1_IN, V1_OUT, about, {"latencyus": 4_000, "statuscode": 201}, offset=8)
    table = observed(found)

    assert table.schema.names == [*META.names, "in.instances", "out.predictions"]
    assert table.to_pylist()[1] == {
        "_id": "call-8", "_row": 1, "_time": START_US, "_order": START_US // 1000 + 4, "_partition": 0, "_offset": 9,
        "_request": "call-8-request", "_response": "call-8-response", "_status": 201, "_latency_us": 4_000,
        "_model": "m", "_version": "3", "_sampled_rate": 0.5, "in.instances": [3.0, 4.0], "out.predictions": 1.0,
    }  # fmt: skip


def test_what_an_event_does_not_say_is_null() -> None:
    """An agent's events know no latency, model or rate; nonsense in these extensions is no number either."""
    for latency in ({}, {"latencyus": "soon"}, {"latencyus": "9" * 30}):
        row = observed(exchange(V1_IN, V1_OUT, {"sampledrate": "?"}, latency)).to_pylist()[0]

        assert [row[name] for name in ("_latency_us", "_model", "_version", "_sampled_rate")] == [None] * 4


def test_many_calls_share_one_batch() -> None:
    """Rows of calls of different sizes stand one after the other, each with its own index and ids."""
    one = exchange(b'{"instances":[[9,9]]}', b'{"predictions":[7]}', offset=2)
    table = observed(exchange(V1_IN, V1_OUT), one)

    assert table["_row"].to_pylist() == [0, 1, 0]
    assert table["_id"].to_pylist() == ["call-0", "call-0", "call-2"]
    assert table["in.instances"].to_pylist() == [[1.0, 2.5], [3.0, 4.0], [9.0, 9.0]]


def test_schemas_tell_calls_apart() -> None:
    """Calls share a record only when their columns are the same, null by NaN included."""
    codec = ArrowCodec()
    narrow = codec.decode(exchange(V1_IN, V1_OUT))
    same = codec.decode(exchange(b'{"instances":[[1,null]]}', b'{"predictions":[2.5]}'))
    wide = codec.decode(exchange(b'{"instances":[[1,2,3]]}', b'{"predictions":[2.5]}'))
    tensor = Tensor.of("instances", np.zeros((1, 2)))
    body, _ = v2.encode_request(v2.InferRequest(inputs=(tensor,)))
    answer, _ = v2.encode_response(v2.InferResponse(model_name="m", outputs=(Tensor.of("predictions", np.zeros(1)),)))
    other = codec.decode(exchange(body, answer, {"protocol": "v2"}))

    assert narrow.schema == same.schema
    assert len({narrow.schema, wide.schema, other.schema}) == 3


def _v2(*, binary: bool) -> tuple[tuple[bytes, int | None], tuple[bytes, int | None]]:
    inputs = (Tensor.of("age", np.array([[41.0], [25.5]], "<f4")), Tensor.of("job", np.array([["nurse"], ["cook"]])))
    outputs = (Tensor.of("score", np.array([[0.25, 0.75], [0.5, 0.5]])),)
    request = v2.encode_request(v2.InferRequest(inputs=inputs), binary=binary)
    return request, v2.encode_response(v2.InferResponse(model_name="m", outputs=outputs), lambda _name: binary)


def _is_v2(table: pa.Table) -> None:
    assert table["in.age"].to_pylist() == [41.0, 25.5]
    assert table["in.job"].to_pylist() == ["nurse", "cook"]
    assert table["out.score"].to_pylist() == [[0.25, 0.75], [0.5, 0.5]]


def test_v2_json_and_binary_give_the_same_rows() -> None:
    """Tensors by name, whether they came as JSON or raw behind their header length."""
    for binary in (False, True):
        (request, length), (response, answered) = _v2(binary=binary)
        lengths: list[dict[str, Value]] = [
            {} if size is None else {"inferenceheaderlength": size} for size in (length, answered)
        ]
        found = exchange(request, response, lengths[0] | {"protocol": "v2"}, lengths[1])

        _is_v2(observed(found))


def test_an_agents_binary_tensors_are_found_again() -> None:
    """KServe's agent records neither protocol, path nor header length, and the request's content type on both."""
    (request, _), (response, _) = _v2(binary=True)

    _is_v2(observed(exchange(request, response, {"protocol": ""}, {"protocol": ""})))


@pytest.mark.parametrize("change", [b"", b"\x00"])
def test_a_binary_body_without_length_is_found_safely(change: bytes) -> None:
    """Where JSON ends is taken only when the tensors fill the rest to the byte: cut or prolonged, it is refused."""
    (request, _), (response, _) = _v2(binary=True)
    broken = request + change if change else request[:-1]

    assert "request:" in refusal(exchange(broken, response, {"protocol": "v2"}))


@pytest.mark.parametrize(
    ("extensions", "body", "expected"),
    [
        ({"protocol": "v2"}, V1_IN, "v2"),
        ({"protocol": "v1"}, b"", "v1"),
        ({"protocol": "unknown", "path": "/v2/models/m/infer"}, b"", "v2"),
        ({"protocol": "", "path": "/v1/models/m:predict"}, b'{"inputs":[{"datatype":"FP32"}]}', "v1"),
        ({"protocol": ""}, b'{"inputs":[{"datatype":"FP32"}]}', "v2"),
        ({"protocol": ""}, b'{"inputs":[[1]]}', "v1"),
        ({"protocol": ""}, V1_IN, "v1"),
    ],
)
def test_the_protocol_is_told_by_extension_path_or_body(
    extensions: dict[str, Value], body: bytes, expected: str
) -> None:
    """In this order: as the logger wrote, as the path says, as the body looks."""
    assert protocol_of(event("a", "request", 0, body, extensions), body) == expected


def _encoded(body: bytes, encoding: str) -> Event:
    return event("a", "request", 0, body, {"contentencoding": encoding} if encoding else {})


def test_gzip_is_read_with_and_without_a_word() -> None:
    """KServe's agent does not say that a body is compressed; its first bytes do."""
    packed = gzip.compress(V1_IN, mtime=0)

    assert [body_of(_encoded(packed, encoding)) for encoding in ("gzip", "X-GZip", "")] == [V1_IN] * 3
    assert body_of(_encoded(V1_IN, "identity")) == V1_IN
    assert decode_inputs(_encoded(packed, ""))[1] == 2


def test_a_table_that_compresses_well_is_no_bomb() -> None:
    """The same few rows again and again, as in a load test, may shrink as much as they like up to 8 MiB."""
    body = orjson.dumps({"instances": [[number % 7 * 0.25, 1.5, 0, 0] for number in range(300_000)]})
    packed = gzip.compress(body, mtime=0)

    assert len(body) < 8 << 20
    assert len(body) > 200 * len(packed)
    assert body_of(_encoded(packed, "gzip")) == body


@pytest.mark.parametrize(
    ("body", "encoding", "message"),
    [
        (gzip.compress(V1_IN, mtime=0)[:-9], "gzip", "broken gzip"),
        (b"\x1f\x8b\x08" + bytes(30), "", "broken gzip"),
        (V1_IN, "gzip", "broken gzip"),
        (V1_IN, "br", "content encoding 'br': expected gzip or identity"),
        (gzip.compress(bytes(20 << 20)), "gzip", "bytes of gzip hold more than"),
    ],
)
def test_bodies_that_cannot_be_unpacked_are_refused(body: bytes, encoding: str, message: str) -> None:
    """Cut, mislabelled, unknown, or small bodies that would fill the memory."""
    with pytest.raises(MalformedBody, match=message):
        body_of(_encoded(body, encoding))


def test_a_body_that_is_not_there_is_refused() -> None:
    """An event without data has nothing to decode."""
    with pytest.raises(MalformedBody, match="body: empty"):
        body_of(Event(id="1", source="/", type="t"))


@pytest.mark.parametrize(
    ("request_body", "response_body", "detail"),
    [
        (b"{", V1_OUT, "request: body: no JSON"),
        (V1_IN, b"<html>", "response: body: no JSON"),
        (V1_IN, b'{"error":"no"}', "response: predictions: expected a list"),
        (V1_IN, b'{"predictions":[1]}', "response: expected 2 rows as in the request, got 1"),
        (b'{"instances":[]}', b'{"predictions":[]}', "request: instances: expected at least one row"),
        (b'{"instances":[[1],[2,3]]}', V1_OUT, "request: instances: expected rows of one length"),
    ],
)
def test_what_cannot_be_decoded_says_which_side(request_body: bytes, response_body: bytes, detail: str) -> None:
    """Request or response, where in it, expected and got."""
    assert refusal(exchange(request_body, response_body)).startswith(detail)


def test_columns_are_bounded() -> None:
    """An object with more keys than any table should have is refused, with the numbers."""
    body = orjson.dumps({"instances": [{str(number): 1 for number in range(MAX_COLUMNS)}]})

    detail = refusal(exchange(body, b'{"predictions":[1]}'))
    assert detail == f"expected at most {MAX_COLUMNS} columns, got {MAX_COLUMNS + 1}"


@given(request=_BODIES, response=_BODIES, protocol=st.sampled_from(["v1", "v2", ""]), length=st.none() | st.text())
def test_any_bodies_are_rows_or_undecodable(request: bytes, response: bytes, protocol: str, length: str | None) -> None:
    """Whatever two events carry: rows that can be written and read, or the one error that the assembler knows."""
    if not request or not response:
        return
    extensions: dict[str, Value] = {"protocol": protocol}
    if length is not None:
        extensions["inferenceheaderlength"] = length
    found = exchange(request, response, extensions, extensions)
    codec = ArrowCodec()
    try:
        decoded = codec.decode(found)
    except Undecodable:
        return

    assert decode_rows(codec.encode([decoded, decoded])).num_rows == 2 * decoded.rows


@pytest.mark.parametrize("rows", [1, 100, 10_000])
@pytest.mark.parametrize("width", [1, 50])
def test_the_size_of_rows_is_known_before_they_are_written(rows: int, width: int) -> None:
    """The estimate that keeps records below the limit is near the truth, and not below it by more than a little."""
    body = orjson.dumps({"instances": [[0.5] * width] * rows})
    decoded = ArrowCodec().decode(exchange(body, orjson.dumps({"predictions": ["some text"] * rows})))
    written = len(encode_rows([decoded] * 3))

    assert written <= 3 * decoded.nbytes + 8_192
    assert written >= 2 * decoded.nbytes


def _stream(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def test_what_are_no_observations_is_refused() -> None:
    """No Arrow, cut off, without the columns that every observation has, or with another type."""
    whole = encode_rows([ArrowCodec().decode(exchange(V1_IN, V1_OUT))])
    table = decode_rows(whole)
    retyped: Any = table.set_column(3, "_order", table["_order"].cast(pa.string()))
    for value, message in [
        (b"", "no Arrow IPC stream"),
        (b"hello", "no Arrow IPC stream"),
        (whole[: len(whole) // 2], "no Arrow IPC stream"),
        (_stream(table.drop_columns(["_offset"])), "column '_offset': expected int64, got none"),
        (_stream(retyped), "column '_order': expected int64, got string"),
    ]:
        with pytest.raises(ProtocolError, match=message):
            decode_rows(value)
