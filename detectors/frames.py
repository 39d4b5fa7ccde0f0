"""Observation columns → a monitor's columns: by source, by name, or by position in the one vector. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from detectors.base import Array, Rows
from detectors.errors import InvalidRows
from detectors.settings import ColumnSettings, MonitorSettings

_SOURCE: Final = re.compile(r"(?P<column>.*?)(?:\[(?P<index>\d+)\])?")


class Framer:
    """Turns observation tables of one service into a monitor's rows."""

    def __init__(self, monitor: MonitorSettings) -> None:
        self._features, self._outputs = monitor.features, monitor.outputs

    def __call__(self, table: pa.Table) -> Rows:
        """Give the rows of a table.

        Raises:
            InvalidRows: a column of the monitor has no source in the table, or holds another kind of value.
        """
        columns = _columns(table, "in.", self._features) | _columns(table, "out.", self._outputs)
        places = np.column_stack(
            [table[name].to_numpy().astype(np.int64) for name in ("_partition", "_offset", "_row")]
        )
        return Rows(
            columns=columns,
            ids=np.array(table["_id"].to_pylist()),
            times_us=table["_time"].to_numpy().astype(np.int64),
            places=places,
        )


def _columns(table: pa.Table, prefix: str, wanted: Sequence[ColumnSettings]) -> dict[str, Array]:
    vectors = [
        name for name in table.column_names if name.startswith(prefix) and pa.types.is_fixed_size_list(table[name].type)
    ]
    found = {}
    for position, column in enumerate(wanted):
        array = _named(table, prefix, column)
        if array is None and len(vectors) == 1:
            array = _element(table, vectors[0], position, column)
        if array is None and len(wanted) == 1:
            array = _only(table, prefix)
        if array is None:
            there = ", ".join(name for name in table.column_names if name.startswith(prefix)) or "none"
            raise InvalidRows(f"column {column.name!r}: no source among {there}")
        found[column.name] = _typed(array, column)
    return found


def _named(table: pa.Table, prefix: str, column: ColumnSettings) -> pa.ChunkedArray | None:
    parts = _SOURCE.fullmatch(column.source or column.name)
    name = prefix + (parts["column"] if parts else column.name)
    if name not in table.column_names:
        return None
    if parts is not None and parts["index"] is not None:
        return _element(table, name, int(parts["index"]), column)
    return table[name]


def _only(table: pa.Table, prefix: str) -> pa.ChunkedArray | None:
    names = [name for name in table.column_names if name.startswith(prefix)]
    return table[names[0]] if len(names) == 1 and not pa.types.is_nested(table[names[0]].type) else None


def _element(table: pa.Table, name: str, index: int, column: ColumnSettings) -> pa.ChunkedArray:
    kind = table[name].type
    if not pa.types.is_fixed_size_list(kind) or index >= kind.list_size:
        width = kind.list_size if pa.types.is_fixed_size_list(kind) else 1
        raise InvalidRows(f"column {column.name!r}: expected position {index} in {name!r}, which has {width}")
    return pc.list_element(table[name], index)


def _typed(array: Any, column: ColumnSettings) -> Array:  # noqa: ANN401 - pyarrow is untyped
    if column.kind == "categorical":
        return np.array([spelt(value) for value in array.to_pylist()])
    if not (pa.types.is_floating(array.type) or pa.types.is_integer(array.type) or pa.types.is_boolean(array.type)):
        raise InvalidRows(f"column {column.name!r}: expected numbers, got {array.type}")
    return np.asarray(pc.cast(array, pa.float64()).to_numpy(zero_copy_only=False), dtype=np.float64)


def spelt(value: object) -> str:
    """Spell a category: 1, 1.0 and "1" are one, for JSON, Parquet and YAML disagree about codes; missing is empty."""
    if value is None:
        return ""
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else repr(value)
    return str(value)
