"""Rows of one call → columns: V2 tensors by name; V1 rows as one vector, by position, by key, or as one value.

Values stay plain until many calls are written at once (`arrow`), which is what makes it cheap. Missing numbers (JSON's
null) become Arrow's null; a V2 tensor's NaN stays NaN. Next on the path: `inference/observations.py`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import NoneType
from typing import Any, Final

import numpy as np
import pyarrow as pa

from inference.protocol.datatypes import BYTES
from inference.protocol.errors import BadTensor, MalformedBody
from inference.protocol.tensors import Tensor, flatten

MAX_COLUMNS: Final = 4_096
"""Most columns of one call: each costs about a quarter of a KiB in every record, whatever it holds."""
_NUMBERS: Final = {int, float, NoneType}
_TYPES: Final[Mapping[str, pa.DataType]] = {"bool": pa.bool_(), "text": pa.string(), "binary": pa.binary()}


@dataclass(frozen=True, slots=True)
class Column:
    """One feature of some rows. `values` is flat, row-major: an array of numbers, or a list of texts or the like."""

    kind: str
    """`text`, `binary`, `bool`, or an array's dtype."""
    shape: tuple[int, ...]
    """Shape of one row's value; () is one value."""
    values: np.ndarray[Any, Any] | list[Any]
    nullable: bool = False
    """Whether NaN stands for a missing number."""

    @property
    def nbytes(self) -> int:
        """About how many bytes the values take in a record."""
        if isinstance(self.values, np.ndarray):
            return self.values.nbytes + self.values.size // 8  # a bit for each tells which are missing
        return sum(4 + _length(value) for value in self.values)


Columns = dict[str, Column]


def field_of(name: str, column: Column) -> pa.Field:
    """Give the Arrow field of a column; values of more than one dimension are flat and say their shape."""
    kind = _TYPES[column.kind] if column.kind in _TYPES else pa.from_numpy_dtype(np.dtype(column.kind))
    if not column.shape:
        return pa.field(name, kind)
    flat = pa.list_(kind, math.prod(column.shape))
    return pa.field(name, flat, metadata={"shape": json.dumps(column.shape)} if len(column.shape) > 1 else None)


def arrow(columns: Sequence[Column]) -> pa.Array:
    """Put the rows of columns that share kind and shape one after the other."""
    first = columns[0]
    if isinstance(first.values, list):
        values = pa.array([value for column in columns for value in column.values], _TYPES[first.kind])
    else:
        values = pa.array(np.concatenate([column.values for column in columns]), from_pandas=first.nullable)
    return pa.FixedSizeListArray.from_arrays(values, math.prod(first.shape)) if first.shape else values


def of_tensors(prefix: str, tensors: Sequence[Tensor]) -> tuple[Columns, int]:
    """Give the columns of V2 tensors and how many rows they have: their first dimension. Empty tensors make no column.

    Raises:
        MalformedBody: no values at all, or tensors that differ in their number of rows.
    """
    held = [tensor for tensor in tensors if tensor.data.size]
    if not held:
        raise MalformedBody("body", "has no values in its tensors")
    rows = {tensor.shape[0] if tensor.shape else 1 for tensor in held}
    if len(rows) != 1:
        shapes = ", ".join(f"{tensor.name!r} {list(tensor.shape)}" for tensor in held[:8])
        raise MalformedBody("tensors", f"expected one number of rows, got {shapes}")
    return {prefix + tensor.name: _of_tensor(tensor) for tensor in held}, rows.pop()


def of_rows(prefix: str, key: str, rows: list[Any]) -> tuple[Columns, int]:
    """Give the columns of V1 rows and how many rows there are.

    Raises:
        MalformedBody: no rows, rows of different lengths or keys, or values that make no column.
    """
    if not rows:
        raise MalformedBody(key, "expected at least one row, got none")
    kinds = set(map(type, rows))
    if kinds == {dict}:
        return _by_key(prefix, key, rows), len(rows)
    if kinds == {list}:
        return _of_lists(prefix + key, key, rows), len(rows)
    return {prefix + key: _of_values(rows, key)}, len(rows)


def _of_tensor(tensor: Tensor) -> Column:
    shape = tensor.shape[1:]
    if shape == (1,):
        shape = ()
    flat = tensor.data.ravel()
    if tensor.datatype == BYTES:
        return _of_bytes(flat.tolist(), shape)
    if flat.dtype.itemsize == 2 and flat.dtype.kind == "f":  # noqa: PLR2004 - half precision: few can read it
        flat = flat.astype("<f4")
    return Column(flat.dtype.str, shape, flat)


def _of_bytes(items: list[bytes], shape: tuple[int, ...]) -> Column:
    try:
        return Column("text", shape, [item.decode() for item in items])
    except UnicodeDecodeError:
        return Column("binary", shape, items)


def _of_lists(name: str, key: str, rows: list[list[Any]]) -> Columns:
    """Give one vector column where all is of one kind, else a column for each position."""
    column = _vector(rows, key)
    if column is not None:
        return {name: column}
    widths = sorted({len(row) for row in rows})
    if len(widths) != 1 or not widths[0]:
        raise MalformedBody(key, f"expected rows of one length above 0, got lengths {widths[:8]}")
    positions = zip(*rows, strict=True)
    return {f"{name}.{at}": _of_values(list(values), f"{key}[...][{at}]") for at, values in enumerate(positions)}


def _by_key(prefix: str, key: str, rows: list[dict[str, Any]]) -> Columns:
    names = rows[0].keys()
    if not names:
        raise MalformedBody(key, "expected objects with keys, got an empty one")
    for index, row in enumerate(rows):
        if row.keys() != names:
            odd = sorted(row.keys() ^ names)[:8]
            raise MalformedBody(f"{key}[{index}]", f"expected the keys of the first row; only one of them has {odd}")
    return {prefix + name: _of_values([row[name] for row in rows], f"{key}.{name}") for name in names}


def _of_values(values: list[Any], where: str) -> Column:
    """Give the column of one value for each row."""
    kinds = set(map(type, values))
    if kinds <= _NUMBERS:
        # A column that is 1 in one call and 1.5 in the next must not change its type: JSON has but one kind of number.
        return Column("<f8", (), np.array(values, np.float64), nullable=True)
    if kinds <= {str, NoneType}:
        return Column("text", (), values)
    if kinds <= {bool, NoneType}:
        return Column("bool", (), values)
    column = _vector(values, where) if kinds == {list} else None
    if column is None:
        found = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise MalformedBody(where, f"expected numbers, texts, booleans or lists of one shape, got {found}")
    return column


def _vector(rows: list[Any], where: str) -> Column | None:
    """Give the column of nested lists that are all numbers or all booleans; None when they are not."""
    try:
        flat, nesting = flatten(rows, where)
    except BadTensor:
        return None
    # The kinds first: NumPy would take texts for numbers, or pad each to the longest of them.
    kinds = set(map(type, flat))
    if not flat or kinds == {NoneType}:
        return None
    if kinds <= _NUMBERS:
        return Column("<f8", nesting[1:], np.array(flat, np.float64), nullable=True)
    return Column("|b1", nesting[1:], np.array(flat, np.bool_)) if kinds == {bool} else None


def _length(value: str | bytes | None) -> int:
    if isinstance(value, str):
        return len(value) if value.isascii() else len(value.encode())
    return len(value) if isinstance(value, bytes) else 1
