"""Arrow columns ↔ V2 tensors, and Arrow IPC streams as bodies of requests and responses. Pure.

A column is a tensor: of shape [rows] for single values, [rows, k] for lists of one length, and so on; the field's
metadata `shape`, as `inference/columns.py` writes it, tells the shape of flat lists. Used by the Kafka stream and by
batch prediction.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa

from inference import columns as cols
from inference.arrowbounds import decoded, is_raw, is_text, no_tensor
from inference.arrowsize import inflated
from inference.protocol.datatypes import BYTES
from inference.protocol.errors import BadTensor, MalformedBody
from inference.protocol.tensors import Tensor

STREAM: Final = "application/vnd.apache.arrow.stream"
MAX_STREAM_ROWS: Final = 10_000_000
"""Most rows of one body: Arrow can say very many in a few bytes."""
MAX_INFLATED: Final = 64 << 20
"""Most bytes that the compressed buffers of one body may become, as for a body that is compressed as a whole."""
MAX_DECODED: Final = 256 << 20
"""Most bytes that the columns of one body may become as tensors. More than a body may have: a bit becomes a byte, a
missing number eight, a short text fifty."""

_MOST_DIMENSIONS: Final = 32
"""As many as an array may have."""


def decode(body: bytes) -> tuple[Tensor, ...]:
    """Read an Arrow IPC stream: one tensor for each column.

    Raises:
        MalformedBody: no Arrow IPC stream, no columns, no rows, or too many, or compressed buffers that hold too much.
        BadTensor: a column whose type has no tensor, or with which the tensors would be too large.
    """
    try:
        size = inflated(body)
        if size > MAX_INFLATED:
            raise MalformedBody("body", f"expected compressed buffers of at most {MAX_INFLATED} bytes, got {size}")
        with pa.ipc.open_stream(body) as reader:
            table = reader.read_all()
        names = table.column_names
        table.validate()
        _bound(table)
        # Only now: it follows every view of a text, however many there are of the same one.
        table.validate(full=True)
        if len(set(names)) != len(names):
            raise MalformedBody("body", f"expected columns of different names, got {names[:32]}")
        return tuple(tensor_of(field, column) for field, column in zip(table.schema, table.columns, strict=True))
    except (pa.ArrowException, OSError, ValueError) as exc:
        raise MalformedBody("body", f"no Arrow IPC stream: {exc}") from exc


def _bound(table: pa.Table) -> None:
    """Refuse what would become too large."""
    # Not `num_rows`, which is a sum of 64 bits and starts anew.
    rows = max((sum(map(len, column.chunks)) for column in table.columns), default=0)
    if not 0 < rows <= MAX_STREAM_ROWS:
        shape = f"{table.num_columns} columns and {rows} rows"
        raise MalformedBody("body", f"expected columns with 1 to {MAX_STREAM_ROWS} rows, got {shape}")
    left = MAX_DECODED
    for field, column in zip(table.schema, table.columns, strict=True):
        size = decoded(field, column.chunks)
        if size > left:
            raise BadTensor(
                f"column {field.name!r}",
                f"expected at most {MAX_DECODED} bytes of tensors in a body, of which {left} are left; got {size}",
            )
        left -= size


def encode(tensors: Sequence[Tensor]) -> bytes:
    """Write tensors of the same number of rows as an Arrow IPC stream.

    Raises:
        MalformedBody: no values, or tensors that differ in their number of rows.
    """
    table = table_of(tensors)
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def table_of(tensors: Sequence[Tensor]) -> pa.Table:
    """Give tensors of the same number of rows as the columns of a table. Raises what `encode` raises."""
    columns, _ = cols.of_tensors("", tensors)
    schema = pa.schema([cols.field_of(name, column) for name, column in columns.items()])
    return pa.Table.from_arrays([cols.arrow([column]) for column in columns.values()], schema=schema)


def tensor_of(field: pa.Field, column: pa.Array | pa.ChunkedArray) -> Tensor:
    """Give a column as a tensor. A missing number is NaN, and makes whole numbers FP64.

    Raises:
        BadTensor: a type without a tensor, lists of different lengths, or something missing that has no NaN.
    """
    where = f"column {field.name!r}"
    flat = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    array, shape = _values(flat, where)
    told = _told_shape(field, where)
    if told is not None and math.prod(told) == math.prod(shape):
        shape = told
    try:
        shaped = array.reshape(len(flat), *shape)
    except (ValueError, OverflowError) as exc:  # empty, and of sizes that no array has
        raise BadTensor(where, f"shape {[len(flat), *shape]}: {exc}") from exc
    if shaped.dtype == object:
        return Tensor(name=field.name, datatype=BYTES, shape=shaped.shape, data=shaped)
    return Tensor.of(field.name, shaped)


def _values(column: Any, where: str) -> tuple[np.ndarray[Any, Any], tuple[int, ...]]:  # noqa: ANN401 - pyarrow has no types
    """Give a column's values, flat, and the shape of one row."""
    kind = column.type
    if isinstance(kind, pa.FixedShapeTensorType):
        tensor = column.to_numpy_ndarray()
        _refuse_missing(column, where)
        return tensor.reshape(-1), tensor.shape[1:]
    if isinstance(kind, pa.BaseExtensionType):
        return _values(column.storage, where)
    if pa.types.is_dictionary(kind):
        return _values(column.dictionary_decode(), where)
    if pa.types.is_fixed_size_list(kind):
        _refuse_missing(column, where)
        values, shape = _values(column.flatten(), where)
        return values, (kind.list_size, *shape)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _lists(column, where)
    return _scalars(column, where), ()


def _lists(column: Any, where: str) -> tuple[np.ndarray[Any, Any], tuple[int, ...]]:  # noqa: ANN401 - as above
    _refuse_missing(column, where)
    lengths = np.unique(np.diff(column.offsets.to_numpy()))
    if len(lengths) > 1:
        raise BadTensor(where, f"expected lists of one length, got {lengths[:8].tolist()}")
    values, shape = _values(column.flatten(), where)
    return values, (int(lengths[0]) if len(lengths) else 0, *shape)


def _scalars(column: Any, where: str) -> np.ndarray[Any, Any]:  # noqa: ANN401 - as above
    kind = column.type
    if pa.types.is_boolean(kind):
        _refuse_missing(column, where)
    elif pa.types.is_decimal(kind) or pa.types.is_null(kind):
        column = column.cast(pa.float64())
    elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        return _texts(column, where)
    elif pa.types.is_integer(kind) and column.null_count:
        column = column.cast(pa.float64(), safe=False)
    array: np.ndarray[Any, Any] = column.to_numpy(zero_copy_only=False)
    return array


def _texts(column: Any, where: str) -> np.ndarray[Any, Any]:  # noqa: ANN401 - as above
    kind = column.type
    text = is_text(kind)
    if not text and not is_raw(kind):
        raise no_tensor(where, kind)
    _refuse_missing(column, where)
    found = np.empty(len(column), object)
    found[:] = [value.encode() for value in column.to_pylist()] if text else column.to_pylist()
    return found


def _refuse_missing(column: Any, where: str) -> None:  # noqa: ANN401 - as above
    if column.null_count:
        raise BadTensor(where, f"{column.type}: expected a value in every row, {column.null_count} are missing")


def _told_shape(field: pa.Field, where: str) -> tuple[int, ...] | None:
    if not field.metadata or b"shape" not in field.metadata:
        return None
    told = field.metadata[b"shape"]
    try:
        shape = json.loads(told)
    except (ValueError, RecursionError) as exc:
        raise BadTensor(where, f"metadata 'shape': no JSON: {exc}") from exc
    if not isinstance(shape, list) or not all(isinstance(size, int) and size >= 0 for size in shape):
        raise BadTensor(where, f"metadata 'shape': expected a list of sizes, got {shape!r}")
    if len(shape) > _MOST_DIMENSIONS:
        raise BadTensor(where, f"metadata 'shape': expected at most {_MOST_DIMENSIONS} sizes, got {len(shape)}")
    return tuple(shape)
