"""Observation columns → a monitor's columns: by source, by name, or by position in the one vector. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from detectors.base import Array, Rows
from detectors.errors import InvalidRows
from detectors.settings import ColumnSettings, MonitorSettings

_SOURCE: Final = re.compile(r"(?P<column>.+)\[(?P<index>\d{1,9})\]")
_LONGEST: Final = 200


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
        # An event's own clock may be wrong by years; the order's is bounded. A year 3000 would use up a budget that
        # counts time, and leave nothing for the windows that follow.
        latest = table["_order"].to_numpy().astype(np.int64) * 1000 + 999
        return Rows(
            columns=columns,
            ids=np.array(table["_id"].to_pylist()),
            times_us=np.minimum(table["_time"].to_numpy().astype(np.int64), latest),
            places=places,
        )


def of_version(table: pa.Table, version: str) -> pa.Table:
    """Give the rows that a version of the model answered; all rows for no version."""
    return table.filter(pc.equal(table["_version"], version)) if version else table


def _columns(table: pa.Table, prefix: str, wanted: Sequence[ColumnSettings]) -> dict[str, Array]:
    positions = _positions(table, prefix)
    found = {}
    for position, column in enumerate(wanted):
        array = _named(table, prefix, column)
        if array is None and len(wanted) == 1 and not column.source:
            array = _only(table, prefix)
        if array is None and positions and not column.source:
            if len(positions) != len(wanted):
                raise InvalidRows(_miscounted(positions[0].name, len(positions), column, wanted))
            array = positions[position].values(table)
        if array is None:
            there = ", ".join(name for name in table.column_names if name.startswith(prefix)) or "none"
            raise InvalidRows(f"column {column.name!r}: no source {column.source!r} among {there}")
        found[column.name] = _typed(array, column)
    return found


@dataclass(frozen=True, slots=True)
class _Place:
    """One position of rows that are lists: an element of the one vector, or a column of its own."""

    name: str
    index: int | None

    def values(self, table: pa.Table) -> pa.ChunkedArray:
        return table[self.name] if self.index is None else pc.list_element(table[self.name], self.index)


def _positions(table: pa.Table, prefix: str) -> list[_Place]:
    """Give the positions of rows that are lists, in order; none when the columns are of another make.

    Lists of numbers are one vector; in lists of mixed kinds each position is a column, `in.instances.0` and so on.
    """
    names = [name for name in table.column_names if name.startswith(prefix)]
    parted = [name.rpartition(".") for name in names]
    stems = {stem for stem, _, _ in parted}
    if len(stems) == 1 and {last for _, _, last in parted} == {str(at) for at in range(len(names))}:
        (stem,) = stems
        return [_Place(f"{stem}.{at}", None) for at in range(len(names))]
    vectors = [name for name in names if pa.types.is_fixed_size_list(table.schema.field(name).type)]
    if len(vectors) != 1:
        return []
    return [_Place(vectors[0], at) for at in range(table.schema.field(vectors[0]).type.list_size)]


def _miscounted(name: str, count: int, column: ColumnSettings, wanted: Sequence[ColumnSettings]) -> str:
    whole = f"{name!r} has {count} values" if not name.endswith(".0") else f"rows have {count} values in {name!r} on"
    return (
        f"column {column.name!r}: {whole}, the monitor names {len(wanted)} columns; expected all of them in the "
        f"model's order, or a 'source' such as {name.partition('.')[2].removesuffix('.0')}[0] for each"
    )


def _named(table: pa.Table, prefix: str, column: ColumnSettings) -> pa.ChunkedArray | None:
    whole = prefix + (column.source or column.name)
    if whole in table.column_names:
        return table[whole]
    parts = _SOURCE.fullmatch(whole)
    if parts is None:
        return None
    apart = f"{parts['column']}.{parts['index']}"
    if apart in table.column_names:
        return table[apart]
    if parts["column"] not in table.column_names:
        return None
    return _element(table, parts["column"], int(parts["index"]), column)


def _only(table: pa.Table, prefix: str) -> pa.ChunkedArray | None:
    names = [name for name in table.column_names if name.startswith(prefix)]
    return table[names[0]] if len(names) == 1 and not pa.types.is_nested(table.schema.field(names[0]).type) else None


def _element(table: pa.Table, name: str, index: int, column: ColumnSettings) -> pa.ChunkedArray:
    kind = table.schema.field(name).type
    width = kind.list_size if pa.types.is_fixed_size_list(kind) else 1
    if not pa.types.is_fixed_size_list(kind) or index >= width:
        raise InvalidRows(f"column {column.name!r}: expected position {index} in {name!r}, which has {width}")
    return pc.list_element(table[name], index)


def _typed(array: Any, column: ColumnSettings) -> Array:  # noqa: ANN401 - pyarrow is untyped
    if column.kind == "categorical":
        return np.array([spelt(value) for value in array.to_pylist()])
    if not (pa.types.is_floating(array.type) or pa.types.is_integer(array.type) or pa.types.is_boolean(array.type)):
        raise InvalidRows(f"column {column.name!r}: expected numbers, got {array.type}")
    # Not safely: a whole number above 2^53 loses digits, and is still a number.
    return np.asarray(pc.cast(array, pa.float64(), safe=False).to_numpy(), dtype=np.float64)


def spelt(value: object) -> str:
    """Spell a category: 1, 1.0 and "1" are one, for JSON, Parquet and YAML disagree about codes; missing is empty.

    Cut to 200 characters: an array of texts pads all of them to the longest.
    """
    if value is None:
        return ""
    if isinstance(value, float):
        if math.isnan(value):
            return ""
        return str(int(value))[:_LONGEST] if value.is_integer() else repr(value)
    return str(value)[:_LONGEST]
