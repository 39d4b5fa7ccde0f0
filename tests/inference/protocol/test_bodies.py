"""V2 JSON bodies are read alike, whichever of the two parsers reads them: short ones go to one, long ones to both."""

from __future__ import annotations

import threading

import numpy as np
import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from inference.protocol import bodies, v2
from inference.protocol.datatypes import NUMPY
from inference.protocol.errors import ProtocolError
from inference.protocol.tensors import Tensor
from inference.protocol.v2 import InferRequest

_LONG = b" " * 1_024
_NUMBERS = (
    "0", "-0", "-0.0", "1", "-1", "1.5", "1E3", "127", "128", "-129", "255", "256", "4294967296", "9007199254740993",
    "3.5e38", "1e-400", "9223372036854775807", "9223372036854775808", "-9223372036854775808", "18446744073709551615",
)  # fmt: skip
_ODD = (
    "true", "null", '"1"', '"["', "[]", "[1]", "[1, [2]]", "{}", "18446744073709551616", "-9223372036854775809",
    "1e999", "01", "1.", "NaN", '"\\ud800"', '"\\u0000"',
)  # fmt: skip
_VALUES = st.lists(st.sampled_from(_NUMBERS), max_size=4) | st.lists(st.sampled_from(_NUMBERS + _ODD), max_size=4)
_EXTRAS = ("", ', "id": "x"', ', "id": "["', ', "outputs": [{"name": "y"}]', ', "outputs": null', ', "inputs": []')
_PARAMETERS = ("", ', "parameters": {"a": 1, "b": {"c": [1]}, "a": 2.5}', ', "data": [1]', ', "parameters": []')


def _told(body: bytes) -> tuple[InferRequest | None, str]:
    try:
        return v2.decode_request(body), ""
    except ProtocolError as exc:
        return None, f"{type(exc).__name__}: {exc}"


@given(
    tensors=st.lists(st.tuples(st.sampled_from([*NUMPY, "FP8"]), _VALUES, st.sampled_from(_PARAMETERS)), max_size=2),
    extra=st.sampled_from(_EXTRAS),
)
@example(tensors=[("INT64", ["1", "[2, 3]", "[]"], "")], extra="")
@example(tensors=[("FP64", ["1", "1e999"], "")], extra="")
@example(tensors=[("UINT64", ["18446744073709551615"], "")], extra="")
@example(tensors=[("FP32", ["3.5e38"], "")], extra="")
@example(tensors=[("INT8", ["128"], "")], extra=', "outputs": [{"name": "y"}]')
def test_length_changes_nothing(tensors: list[tuple[str, list[str], str]], extra: str) -> None:
    """The same tensors to the bit, the same parameters, and the same complaints."""
    items = ", ".join(
        f'{{"name": "{at}", "shape": [{len(values)}], "datatype": "{datatype}", "data": [{", ".join(values)}]{more}}}'
        for at, (datatype, values, more) in enumerate(tensors)
    )
    body = f'{{"inputs": [{items}]{extra}}}'.encode()
    (short, refused), (long, refused_long) = _told(body), _told(body + _LONG)

    assert refused_long == refused
    if short is not None and long is not None:
        assert (long.id, long.parameters, long.outputs) == (short.id, short.parameters, short.outputs)
        for one, other in zip(short.inputs, long.inputs, strict=True):
            assert (one.name, one.shape, one.parameters) == (other.name, other.shape, other.parameters)
            assert one.data.dtype == other.data.dtype
            if one.data.dtype == object:
                assert one.data.tolist() == other.data.tolist()
            else:
                assert one.data.tobytes() == other.data.tobytes()


@given(values=st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=100, max_size=200))
def test_every_digit_counts(values: list[float]) -> None:
    """Floats come out of their shortest digits as they went in."""
    body, _ = v2.encode_request(InferRequest(inputs=(Tensor.of("x", np.array(values)),)))
    fields = bodies.read(body + _LONG, "inputs")

    assert isinstance(fields, dict)
    assert fields["inputs"][0]["data"].tolist() == values


@pytest.mark.parametrize(
    "text", [b'{"inputs": 1}', b'{"inputs": {"a": 1}}', b"{}", b"[1]", b'\xef\xbb\xbf{"inputs": []}']
)
def test_other_bodies_are_told_alike(text: bytes) -> None:
    """A body without tensors where they belong, or with what is no JSON before it."""
    assert _told(text + _LONG) == _told(text)
    assert _told(text)[0] is None


def test_nested_rows_stay_nested() -> None:
    """Rows as lists: what they are nested like is compared with the shape."""
    rows = [[float(row), 0.5] for row in range(200)]
    item = {"name": "x", "shape": [200, 2], "datatype": "FP64", "data": rows}
    request = v2.decode_request(orjson.dumps({"inputs": [item]}))

    assert request.inputs[0].data.tolist() == rows


def test_a_refused_body_leaves_nothing_behind() -> None:
    """The next body of the same thread is read as if there had been none before, also on other threads."""
    good = b'{"inputs": [{"name": "x", "shape": [2], "datatype": "INT32", "data": [1, 2]}]}' + _LONG
    found: list[list[int]] = []

    def both() -> None:
        for body in (good.replace(b"2]}", b"true]}"), good):
            request, _ = _told(body)
            if request is not None:
                found.append(request.inputs[0].data.tolist())

    threads = [threading.Thread(target=both) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert found == [[1, 2]] * 4


def test_long_bodies_are_read_apart() -> None:
    """More bytes than a thread's parser is kept for."""
    values = np.arange(300_000, dtype=np.int64)
    body, _ = v2.encode_request(InferRequest(inputs=(Tensor.of("x", values),)))

    assert len(body) > 1 << 20
    np.testing.assert_array_equal(v2.decode_request(body).inputs[0].data, values)
