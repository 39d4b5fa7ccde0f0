"""Small Arrow bodies that say very much: refused by column and limit, before memory or time is spent on them."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference import arrow
from inference.arrowbounds import decoded
from inference.protocol.errors import ProtocolError
from tests.inference.test_arrow import stream

WIDEST = (1 << 31) - 1
MIB = 1 << 20


def nulls(count: int) -> pa.Array:
    """Give nulls, which have no buffers, however many they are."""
    return pa.Array.from_buffers(pa.null(), count, [None])


def fixed(size: int, count: int) -> pa.Array:
    """Give lists of so many nulls each."""
    return pa.Array.from_buffers(pa.list_(pa.null(), size), count, [None], children=[nulls(size * count)])


def lists(count: int) -> pa.Array:
    """Give one list of so many nulls."""
    return pa.Array.from_buffers(
        pa.list_(pa.null()), 1, [None, pa.py_buffer(struct.pack("<ii", 0, count))], children=[nulls(count)]
    )


def views(size: int, count: int, kind: pa.DataType | None = None) -> pa.Array:
    """Give texts that are all the same one."""
    one = struct.pack("<i4sii", size, b"aaaa", 0, 0)
    buffers = [None, pa.py_buffer(one * count), pa.py_buffer(b"a" * size)]
    return pa.Array.from_buffers(kind or pa.string_view(), count, buffers)


def words(size: int, count: int) -> pa.Array:
    """Give a dictionary of two words whose rows are all the longer one."""
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(count, np.int8)), pa.array(["a" * size, "b"]))


def table(*columns: pa.Array, times: int = 1) -> bytes:
    """Write columns as a body, again and again."""
    batch = pa.record_batch({f"c{place}": column for place, column in enumerate(columns)})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema, options=pa.ipc.IpcWriteOptions(allow_64bit=True)) as writer:
        for _ in range(times):
            writer.write_batch(batch)
    body: bytes = sink.getvalue().to_pybytes()
    return body


ROWS = "expected columns with 1 to 10000000 rows"
BYTES = "expected at most 268435456 bytes of tensors in a body"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (table(nulls(1 << 40)), f"{ROWS}, got 1 columns and 1099511627776 rows"),
        (table(nulls((1 << 62) + 1), times=4), f"{ROWS}, got 1 columns and 18446744073709551620 rows"),
        (table(*[nulls(10_000_000)] * 40), f"column 'c3': {BYTES}, of which 28435456 are left; got 80000000"),
        (table(fixed(WIDEST, 100)), f"column 'c0': {BYTES}, of which 268435456 are left; got 17179869"),
        (table(lists(WIDEST)), f"column 'c0': {BYTES}"),
        (table(words(MIB, 100_000)), f"column 'c0': {BYTES}"),
        (table(pa.array([1] * 999), words(MIB, 999)), f"column 'c1': {BYTES}, of which 268427464 are left; got 10475"),
        (table(views(MIB, 60_000)), f"column 'c0': {BYTES}"),
        (table(views(MIB, 60_000, pa.binary_view())), "column 'c0': expected numbers, booleans, texts or lists of"),
        (
            table(pa.DictionaryArray.from_arrays(pa.array([0], pa.int8()), pa.array([[1]]))),
            "column 'c0': dictionary: expected numbers, booleans, texts or lists of them, got list<",
        ),
        (
            table(pa.RunEndEncodedArray.from_arrays(pa.array([9_999_999], pa.int32()), pa.array([1]))),
            "column 'c0': expected numbers, booleans, texts or lists of them, got run_end_encoded",
        ),
        (table(pa.array([{"a": 1}])), "column 'c0': expected numbers, booleans, texts or lists of them, got struct"),
    ],
)  # fmt: skip
def test_what_would_become_too_large_is_refused(body: bytes, said: str) -> None:
    """The answer names the column, what it would become, and the limit."""
    with pytest.raises(ProtocolError) as refused:
        arrow.decode(body)

    assert said in str(refused.value)
    assert len(body) < 4 * MIB


@pytest.mark.parametrize(
    "shape",
    ["[0, 1e9]", "[" * 100_000, f"[0, {'9' * 40}]", f"[0, {2**62}, {2**62}]", f"[{'9' * 5_000}]", str([0] * 99)],
)
def test_a_shape_that_no_array_has_is_refused(shape: str) -> None:
    """Whatever a column's metadata says of its shape, it is an answer to the caller."""
    column = pa.array([[], []], pa.list_(pa.float64(), 0))
    body = stream(pa.table([column], schema=pa.schema([pa.field("c0", column.type, metadata={"shape": shape})])))
    with pytest.raises(ProtocolError, match="column 'c0'"):
        arrow.decode(body)


def test_what_is_less_than_nothing_makes_up_for_nothing() -> None:
    """Views that say a negative length do not hide those that are too large, which would all be read."""
    long, less = struct.pack("<i4sii", MIB, b"aaaa", 0, 0), struct.pack("<i4sii", -MIB, b"aaaa", 0, 0)
    buffers = [None, pa.py_buffer(long * 300 + less * 300), pa.py_buffer(b"a" * MIB)]
    body = table(pa.Array.from_buffers(pa.string_view(), 600, buffers))
    with pytest.raises(ProtocolError, match=f"column 'c0': {BYTES}"):
        arrow.decode(body)


def test_what_is_large_enough_already_is_read() -> None:
    """A full body of numbers is no bomb, nor is a dictionary of words that many rows have."""
    pixels = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(48 * MIB, np.uint8)), 48 << 10)
    (image,) = arrow.decode(table(pixels))
    (found,) = arrow.decode(table(words(1_000, 50_000)))

    assert image.shape == (MIB >> 10, 48 << 10)
    assert (found.shape, found.data[-1]) == ((50_000,), b"a" * 1_000)


LEAVES = st.sampled_from(["null", "i1", "f8", "bool", "text", "view", "words"])
SIZES = st.sampled_from([0, 1, 2, 3, 70_000, WIDEST])


@st.composite
def columns(draw: st.DrawFn, rows: int) -> pa.Array:
    """Draw a column of lists of lists; only what has no bytes may be very much."""
    sizes = draw(st.lists(SIZES, max_size=3))
    count = rows
    for size in sizes:
        count *= size
    leaf = draw(LEAVES if count < 1_000 else st.just("null"))
    if count >= 1 << 62:
        sizes, count = [], rows
    array = _leaf(leaf, count)
    for place in range(len(sizes), 0, -1):
        count = rows
        for size in sizes[: place - 1]:
            count *= size
        array = pa.Array.from_buffers(pa.list_(array.type, sizes[place - 1]), count, [None], children=[array])
    return array


def _leaf(kind: str, count: int) -> pa.Array:
    if kind == "null":
        return nulls(count)
    if kind == "view":
        return views(300_000, count)
    if kind == "words":
        return words(300_000, count)
    if kind == "text":
        return pa.array(["text"] * count, pa.string())
    return pa.array(np.zeros(count, kind))


@given(st.integers(1, 3).flatmap(lambda rows: st.lists(columns(rows), min_size=1, max_size=3)))
def test_no_tensors_beyond_the_bound(drawn: list[Any]) -> None:
    """Whatever the columns, they are refused, or become no more than what was computed before, and is allowed."""
    try:
        tensors = arrow.decode(table(*drawn))
    except ProtocolError:
        return
    for tensor, column in zip(tensors, drawn, strict=True):
        size = sum(map(len, tensor.data.flat)) if tensor.datatype == "BYTES" else tensor.data.nbytes

        assert size <= decoded(pa.field("c", column.type), [column]) <= arrow.MAX_DECODED


WHOLE = table(
    nulls(3), words(20, 3), fixed(2, 3), views(20, 3), pa.array([[1], [2], [3]]), pa.array([True, False, True])
)


@given(st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.sampled_from([0, 1, 0x7F, 0x80, 0xFF])), max_size=6))
def test_broken_streams_of_such_columns_are_refused(changes: list[tuple[int, int]]) -> None:
    """Whichever bytes are changed, the body is read or refused; nothing else is raised."""
    body = bytearray(WHOLE)
    for place, value in changes:
        body[place] = value
    try:
        tensors = arrow.decode(bytes(body))
    except ProtocolError:
        return

    assert all(tensor.data.shape == tensor.shape for tensor in tensors)
