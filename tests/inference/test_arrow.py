"""Arrow columns and V2 tensors: what goes there comes back, and what has no tensor is refused by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from inference import arrow
from inference.arrowsize import inflated
from inference.protocol.errors import BadTensor, MalformedBody
from inference.protocol.tensors import Tensor

DTYPES = ("?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f4", "f8")


def stream(table: pa.Table) -> bytes:
    """Write a table as another program would."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    body: bytes = sink.getvalue().to_pybytes()
    return body


@given(
    st.sampled_from(DTYPES).flatmap(
        lambda dtype: arrays.arrays(dtype, arrays.array_shapes(min_dims=1, max_dims=4, max_side=4))
    )
)
def test_numbers_come_back(array: np.ndarray[Any, Any]) -> None:
    """Every number type of V2 that Arrow has, in any shape; [rows, 1] is [rows], as everywhere in a stream."""
    (found,) = arrow.decode(arrow.encode([Tensor.of("x", array)]))
    expected = array.reshape(-1) if array.ndim == 2 and array.shape[1] == 1 else array

    assert (found.name, found.shape) == ("x", expected.shape)
    np.testing.assert_array_equal(found.data, expected)


@given(st.lists(st.text(st.characters(codec="utf-8")), min_size=1, max_size=8))
def test_texts_come_back(texts: list[str]) -> None:
    """UTF-8 text is V2's BYTES."""
    (found,) = arrow.decode(arrow.encode([Tensor.of("x", np.array(texts, object))]))

    assert found.datatype == "BYTES"
    assert [item.decode() for item in found.data] == texts


@pytest.mark.parametrize(
    ("column", "datatype", "expected"),
    [
        (pa.array([1, None, 3]), "FP64", [1.0, None, 3.0]),
        (pa.array([1.5, None]), "FP64", [1.5, None]),
        (pa.array([[1, 2], [3, 4]]), "INT64", [[1, 2], [3, 4]]),
        (pa.array([[1, 2], [3, 4]], pa.large_list(pa.int8())), "INT8", [[1, 2], [3, 4]]),
        (pa.array([[1, 2], [3, 4], [5, 6]], pa.list_(pa.int16(), 2)).slice(1), "INT16", [[3, 4], [5, 6]]),
        (pa.array([[[1.0], [2.0]]], pa.list_(pa.list_(pa.float32(), 1), 2)), "FP32", [[[1.0], [2.0]]]),
        (pa.array(["a", "b", "a"]).dictionary_encode(), "BYTES", [b"a", b"b", b"a"]),
        (pa.array([b"\xff", b""]), "BYTES", [b"\xff", b""]),
        (pa.array(["1.25"]).cast(pa.decimal128(5, 2)), "FP64", [1.25]),
        (pa.array([None, None]), "FP64", [None, None]),
        (pa.array([True, False]), "BOOL", [True, False]),
    ],
)
def test_what_other_programs_write_is_read(column: pa.Array, datatype: str, expected: list[Any]) -> None:
    """Lists, slices, dictionaries, decimals and missing numbers, as pandas, Spark and others write them."""
    (found,) = arrow.decode(stream(pa.table({"x": column})))

    assert found.datatype == datatype
    assert [None if value != value else value for value in found.data.tolist()] == expected  # noqa: PLR0124 - NaN


def test_a_tensor_column_keeps_its_shape() -> None:
    """Arrow's own tensors are V2's, of as many dimensions."""
    array = np.arange(12.0).reshape(2, 2, 3)
    column = pa.FixedShapeTensorArray.from_numpy_ndarray(array)
    (found,) = arrow.decode(stream(pa.table({"x": column})))

    np.testing.assert_array_equal(found.data, array)


@pytest.mark.parametrize(
    ("column", "said"),
    [
        (pa.array([[1], [2, 3]]), "column 'x': expected lists of one length, got [1, 2]"),
        (pa.array(["a", None]), "column 'x': string: expected a value in every row, 1 are missing"),
        (pa.array([True, None]), "column 'x': bool: expected a value in every row, 1 are missing"),
        (pa.array([[1], None]), "column 'x': list<item: int64>: expected a value in every row"),
        (pa.array([0], pa.timestamp("s")), "column 'x': expected numbers, booleans, texts or lists of them, got times"),
    ],
)  # fmt: skip
def test_what_has_no_tensor_is_refused_by_name(column: pa.Array, said: str) -> None:
    """The error names the column, what it holds and what was expected."""
    with pytest.raises(BadTensor) as refused:
        arrow.decode(stream(pa.table({"x": column})))

    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "no Arrow IPC stream"),
        (b"{}", "no Arrow IPC stream"),
        (stream(pa.table({"x": pa.array([], pa.int8())})), "expected columns with 1 to"),
        (stream(pa.table({"x": [1]}).select([])), "expected columns with 1 to"),
        (stream(pa.Table.from_arrays([pa.array([1]), pa.array([2])], ["x", "x"])), "columns of different names"),
    ],
)
def test_what_is_no_stream_is_refused(body: bytes, said: str) -> None:
    """Nothing else is raised, whatever the bytes are."""
    with pytest.raises(MalformedBody, match=said):
        arrow.decode(body)


@given(st.data())
def test_broken_streams_are_refused(data: st.DataObject) -> None:
    """A stream that was cut or changed is read or refused; it never raises anything else."""
    body = bytearray(arrow.encode([Tensor.of("x", np.arange(6.0).reshape(3, 2)), Tensor.of("t", np.array(["a"] * 3))]))
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(body[: data.draw(st.integers(0, len(body)))])
    try:
        tensors = arrow.decode(cut)
    except (MalformedBody, BadTensor):
        return

    assert all(tensor.data.shape == tensor.shape for tensor in tensors)


def compressed(table: pa.Table, codec: str) -> bytes:
    """Write a table with compressed buffers."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression=codec)) as writer:
        writer.write_table(table, max_chunksize=100_000)
    body: bytes = sink.getvalue().to_pybytes()
    return body


@pytest.mark.parametrize("codec", ["lz4", "zstd"])
def test_compressed_buffers_are_read(codec: str) -> None:
    """Numbers, texts and dictionaries of texts, compressed, are what they were; some buffers do not get smaller."""
    words = pa.array(["a", "b" * 500, "a"] * 40)
    table = pa.table({"x": np.arange(120.0), "word": words.dictionary_encode(), "text": words})
    found = {tensor.name: tensor.data.tolist() for tensor in arrow.decode(compressed(table, codec))}

    assert found["x"] == list(range(120))
    assert found["word"] == found["text"] == [word.encode() for word in words.to_pylist()]


@pytest.mark.parametrize("codec", ["lz4", "zstd"])
@pytest.mark.parametrize("form", ["numbers", "dictionary"])
def test_a_small_body_of_large_buffers_is_refused(codec: str, form: str) -> None:
    """What compressed buffers hold is known, and bounded, before any memory is taken for it."""
    rows = arrow.MAX_INFLATED // 8 + 100_000
    numbers = pa.array(np.zeros(rows))
    column = numbers if form == "numbers" else pa.DictionaryArray.from_arrays(pa.array([0], pa.int32()), numbers)
    body = compressed(pa.table({"x": column}), codec)

    assert len(body) < arrow.MAX_INFLATED // 100
    with pytest.raises(MalformedBody, match="expected compressed buffers of at most 67108864 bytes, got "):
        arrow.decode(body)


@given(st.data())
def test_the_full_size_is_what_arrow_says(data: st.DataObject) -> None:
    """Whatever the columns, compressed buffers become as many bytes as the same buffers have without compression."""
    columns = data.draw(st.dictionaries(st.sampled_from("abc"), st.sampled_from(["f8", "i4", "text"]), min_size=1))
    rows = data.draw(st.integers(0, 300))
    values = {
        name: pa.array([str(row % 7) * 9 for row in range(rows)]) if kind == "text" else np.zeros(rows, kind)
        for name, kind in columns.items()
    }
    table = pa.table(values)

    assert 0 <= inflated(compressed(table, "zstd")) - table.nbytes <= 64 * len(columns)
    assert inflated(stream(table)) == 0
