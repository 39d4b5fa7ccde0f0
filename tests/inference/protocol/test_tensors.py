"""Tensors: raw bytes and JSON data, both ways, and everything that does not fit."""

from __future__ import annotations

import contextlib
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.protocol.datatypes import NUMPY, WIDTH, datatype_of
from inference.protocol.errors import BadTensor, ProtocolError, UnknownDatatype
from inference.protocol.tensors import MAX_ELEMENTS, Tensor, check_shape, from_json, from_raw, to_json, to_raw
from tests.inference.protocol.drawn import tensors

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=12,
)


def _same(left: np.ndarray[Any, Any], right: np.ndarray[Any, Any]) -> bool:
    """Tell whether two arrays are equal, NaN being equal to NaN."""
    if left.dtype == object:
        return left.shape == right.shape and left.ravel().tolist() == right.ravel().tolist()
    return np.array_equal(left, right, equal_nan=left.dtype.kind == "f")


@given(tensor=tensors())
def test_raw_bytes_come_back(tensor: Tensor) -> None:
    """For every datatype and shape, NaN and infinities included: what was written raw is read back equal."""
    found = from_raw(tensor.datatype, tensor.shape, to_raw(tensor), "tensor")

    assert _same(found, tensor.data)


@given(tensor=tensors(json=True))
def test_json_data_come_back(tensor: Tensor) -> None:
    """For every datatype with a JSON form: flat data and nested data are both read back equal."""
    flat = from_json(tensor.datatype, tensor.shape, to_json(tensor), "tensor")
    texts = np.array([item.decode() for item in tensor.data.ravel()], object) if tensor.datatype == "BYTES" else None
    nested = (tensor.data if texts is None else texts.reshape(tensor.shape)).tolist()

    assert _same(flat, tensor.data)
    # A scalar has no nested form, and an empty list does not tell its inner sizes.
    if tensor.shape and 0 not in tensor.shape:
        assert _same(from_json(tensor.datatype, tensor.shape, nested, "tensor"), tensor.data)


def test_raw_layouts_are_those_of_the_specification() -> None:
    """Little-endian, row-major, BOOL one byte, BYTES with four bytes of length, BF16 the upper half of FP32."""
    cases: list[tuple[str, tuple[int, ...], bytes, list[Any]]] = [
        ("BOOL", (2,), b"\x00\x01", [False, True]),
        ("UINT16", (2,), b"\x01\x00\x00\x01", [1, 256]),
        ("INT32", (1, 2), b"\xff\xff\xff\xff\x02\x00\x00\x00", [[-1, 2]]),
        ("INT64", (1,), b"\x00\x00\x00\x00\x00\x00\x00\x80", [-(2**63)]),
        ("FP16", (1,), b"\x00\x3c", [1.0]),
        ("BF16", (2,), b"\x80\x3f\x00\xc0", [1.0, -2.0]),
        ("FP32", (1,), struct.pack("<f", 0.5), [0.5]),
        ("FP64", (), struct.pack("<d", -0.25), -0.25),  # type: ignore[list-item]
        ("BYTES", (2,), b"\x02\x00\x00\x00hi\x00\x00\x00\x00", [b"hi", b""]),
    ]
    for datatype, shape, raw, expected in cases:
        assert from_raw(datatype, shape, raw, "tensor").tolist() == expected, datatype


@pytest.mark.parametrize(
    ("datatype", "shape", "raw", "message"),
    [
        ("FP32", (2, 3), bytes(20), r"age: shape \[2, 3\] of FP32 needs 24 bytes, got 20"),
        ("FP32", (1,), bytes(5), r"needs 4 bytes, got 5"),
        ("INT64", (1 << 31,), b"", r"needs 17179869184 bytes, got 0"),
        ("BOOL", (2,), b"\x01\x02", r"expected bytes 0 or 1"),
        ("BYTES", (1,), b"\x05\x00\x00\x00abc", r"element 0: needs 5 bytes, 3 are there"),
        ("BYTES", (2,), b"\x00\x00\x00\x00\x01\x00\x00\x00", r"element 1: needs 1 bytes, 0 are there"),
        ("BYTES", (2,), b"\x02\x00\x00\x00ab\x01\x00", r"element 1: its length is cut off at byte 6 of 8"),
        ("BYTES", (1,), b"\xff\xff\xff\xffabcd", r"element 0: needs 4294967295 bytes, 4 are there"),
        ("BYTES", (1,), b"\x01\x00\x00\x00ab", r"1 bytes follow the last of 1 BYTES elements"),
        ("BYTES", (1 << 30,), b"\x01\x00\x00\x00a", r"needs at least 4294967296 bytes, got 5"),
    ],
)
def test_raw_bytes_that_do_not_fit_are_refused(datatype: str, shape: tuple[int, ...], raw: bytes, message: str) -> None:
    """Too few, too many, or lengths past the end: refused with the numbers, before anything is allocated."""
    with pytest.raises(BadTensor, match=message):
        from_raw(datatype, shape, raw, "age")


@pytest.mark.parametrize(
    ("datatype", "shape", "data", "message"),
    [
        ("FP32", (2, 3), [1, 2, 3, 4, 5], r"age: shape \[2, 3\] needs 6 values, got 5"),
        ("FP64", (2, 2), [[1, 2], [3]], r"nested lists are ragged"),
        ("FP64", (2, 2), [[1, 2], 3], r"nested lists are ragged"),
        ("FP64", (2, 3), [[1, 2], [3, 4], [5, 6]], r"shape \[2, 3\]: the data is nested as \[3, 2\]"),
        ("FP64", (1,), 7, r"expected a list, got 7"),
        ("FP64", (1,), {"a": 1}, r"expected a list, got"),
        ("FP64", (1,), ["7"], r"FP64: expected float or int, got '7'"),
        ("FP64", (1,), [None], r"FP64: expected float or int, got None"),
        ("FP64", (1,), [True], r"FP64: expected float or int, got True"),
        ("FP32", (1,), [1e300], r"FP32: a value is out of range"),
        ("INT32", (1,), [True], r"INT32: expected int, got True"),
        ("INT32", (1,), [1.0], r"INT32: expected int, got 1.0"),
        ("UINT8", (2,), [0, 300], r"UINT8: expected 0 to 255, got 0 to 300"),
        ("UINT8", (1,), [-1], r"UINT8: expected 0 to 255, got -1 to -1"),
        ("INT64", (1,), [2**63], r"INT64: expected -9223372036854775808 to 9223372036854775807"),
        ("BOOL", (1,), [1], r"BOOL: expected bool, got 1"),
        ("BYTES", (1,), [7], r"BYTES: expected text, got 7"),
        ("FP16", (1,), [1.0], r"FP16 has no JSON form"),
        ("BF16", (1,), [1.0], r"BF16 has no JSON form"),
    ],
)
def test_json_data_that_do_not_fit_are_refused(
    datatype: str, shape: tuple[int, ...], data: object, message: str
) -> None:
    """Another count, nesting, type or range than declared: refused with what, where, expected and got."""
    with pytest.raises(BadTensor, match=message):
        from_json(datatype, shape, data, "age")


def test_json_nested_too_deep_is_refused() -> None:
    """NumPy knows 32 dimensions; deeper nesting is an error of ours, not of its."""
    deep: list[Any] = [1.0]
    for _ in range(40):
        deep = [deep]

    with pytest.raises(BadTensor, match="nested deeper than 32"):
        from_json("FP64", (1,), deep, "age")


@pytest.mark.parametrize(
    "shape",
    [
        None,
        3,
        "2",
        {"0": 2},
        [2.0],
        [True],
        [-1],
        ["2"],
        [None],
        [1] * 33,
        [MAX_ELEMENTS + 1],
        [2**62, 2**62],
        [0, 2**62],
    ],
)
def test_impossible_shapes_are_refused(shape: object) -> None:
    """No list, no whole sizes, negative, too many dimensions, or more elements than any body holds."""
    with pytest.raises(BadTensor, match="shape"):
        check_shape(shape, "age")


@pytest.mark.parametrize("datatype", ["FP128", "fp32", "", None, 7, ["FP32"], {}])
def test_unknown_datatypes_are_refused(datatype: object) -> None:
    """The message lists the datatypes that there are."""
    with pytest.raises(UnknownDatatype, match=r"age: datatype .*: expected one of BOOL, UINT8"):
        from_json(datatype, (1,), [1], "age")
    with pytest.raises(UnknownDatatype):
        from_raw(datatype, (1,), b"\x00", "age")


@given(value=st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_bf16_is_rounded_to_the_nearest(value: float) -> None:
    """No other BF16 value lies nearer than the one that was written."""
    tensor = Tensor(name="t", datatype="BF16", shape=(1,), data=np.array([value], "<f4"))
    raw = to_raw(tensor)
    bits = struct.unpack("<H", raw)[0]
    found = float(from_raw("BF16", (1,), raw, "t")[0])

    if np.isfinite(found):
        for other in (bits - 1, bits + 1):
            neighbour = float(from_raw("BF16", (1,), struct.pack("<H", other & 0xFFFF), "t")[0])
            assert not abs(neighbour - value) < abs(found - value)
    else:
        assert abs(value) > float(from_raw("BF16", (1,), b"\x7f\x7f", "t")[0])


def test_bf16_nan_stays_nan() -> None:
    """A NaN whose mark lies in the bits that are cut away does not become infinity."""
    data = np.array([0x7F800001], "<u4").view("<f4")
    tensor = Tensor(name="t", datatype="BF16", shape=(1,), data=data)

    assert np.isnan(from_raw("BF16", (1,), to_raw(tensor), "t")).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_have_no_json_form(value: float) -> None:
    """They are refused by name, and the way out is named."""
    with pytest.raises(BadTensor, match="'t': NaN and infinities have no JSON form; ask for binary data"):
        to_json(Tensor.of("t", np.array([value])))


def test_bytes_without_utf8_have_no_json_form() -> None:
    """They are refused instead of being mangled."""
    with pytest.raises(BadTensor, match="no UTF-8"):
        to_json(Tensor.of("t", np.array([b"\xff"])))


def test_data_of_another_size_than_the_shape_is_never_written() -> None:
    """A tensor built wrongly is refused where it is written, not where somebody reads it."""
    tensor = Tensor(name="t", datatype="FP64", shape=(3,), data=np.zeros(2))

    for write in (to_raw, to_json):
        with pytest.raises(BadTensor, match=r"shape \[3\] needs 3 values, got 2"):
            write(tensor)


def test_raw_numbers_are_aligned() -> None:
    """Numbers that lie at an odd place of the body are fit to compute with."""
    body = memoryview(b"x" + struct.pack("<2d", 1.0, 2.0))
    found = from_raw("FP64", (2,), body[1:], "t")

    assert found.flags.aligned
    assert found.tolist() == [1.0, 2.0]


def test_arrays_get_their_datatype() -> None:
    """Every dtype that V2 can say has its name, big-endian ones too; dates and complex numbers have none."""
    for name, dtype in NUMPY.items():
        if name not in {"BF16", "BYTES"}:
            assert datatype_of(np.zeros(1, dtype.newbyteorder(">"))) == name
            assert WIDTH[name] == dtype.itemsize
    assert Tensor.of("t", np.array(["é", "b"])).data.tolist() == [b"\xc3\xa9", b"b"]
    with pytest.raises(UnknownDatatype, match="complex128"):
        datatype_of(np.zeros(1, complex))


@given(
    datatype=st.sampled_from(list(NUMPY)), shape=st.lists(st.integers(-1, 5), max_size=3), data=_JSON, raw=st.binary()
)
def test_nothing_but_our_errors(datatype: str, shape: list[int], data: object, raw: bytes) -> None:
    """Whatever is sent, it is a tensor of the shape or a ProtocolError."""
    with contextlib.suppress(ProtocolError):
        assert from_json(datatype, check_shape(shape, "t"), data, "t").shape == tuple(shape)
    with contextlib.suppress(ProtocolError):
        assert from_raw(datatype, check_shape(shape, "t"), raw, "t").shape == tuple(shape)
