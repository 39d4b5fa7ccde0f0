"""Reads one record of the observations topic: whose rows, of which payload partition, and how far that one is. Pure.

Whatever is wrong with a record is said here, before its rows are merged. Next on the path: `detectors/merge.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import pyarrow as pa

from detectors.errors import InvalidRows
from inference.observations import decode_rows
from streams.bindings import from_kafka
from streams.errors import InvalidEvent
from streams.events import OBSERVATIONS_TYPE, Event
from streams.stage import Record

_NEEDED: Final = ("_id", "_row", "_time", "_order", "_partition", "_offset")


@dataclass(frozen=True, slots=True)
class Told:
    """What one record says."""

    service: str
    partition: int
    partitions: int
    watermark_ms: int
    table: pa.Table | None


def read(record: Record) -> Told:
    """Read a record.

    Raises:
        InvalidEvent: it is no CloudEvent of this type, or its extensions or key say nothing usable.
        ProtocolError: its value is no table of observations.
        InvalidRows: its rows lack what tells their place.
    """
    event = from_kafka(record.headers, record.value)
    if event.type != OBSERVATIONS_TYPE:
        raise InvalidEvent("unexpected-type", f"type {event.type!r}: expected {OBSERVATIONS_TYPE}")
    partition, partitions, watermark = (_number(event, name) for name in ("partition", "partitions", "watermark"))
    if partition >= partitions:
        raise InvalidEvent("extension", f"extension 'partition': expected less than {partitions}, got {partition}")
    if event.data is None:
        return Told("", partition, partitions, watermark, None)
    try:
        service = (record.key or b"").decode()
    except UnicodeDecodeError as exc:
        raise InvalidEvent("encoding", f"key {record.key!r}: expected UTF-8: {exc}") from exc
    if not service:
        raise InvalidEvent("no-key", "key: expected the service as namespace/name, got none")
    return Told(service, partition, partitions, watermark, _table(event.data, partition))


def _number(event: Event, name: str) -> int:
    value = event.number(name)
    if value is None:
        raise InvalidEvent("extension", f"extension {name!r}: expected a whole number, got {event.text(name)!r}")
    return value


def _table(value: bytes, partition: int) -> pa.Table:
    """Give the table when its rows can be merged: nobody looks at them again before they stand in a window."""
    try:
        table = decode_rows(value)
        # Arrow trusts what it reads: offsets that point outside their buffer would end the process later.
        table.validate(full=True)
    except (pa.ArrowException, UnicodeDecodeError, MemoryError) as exc:
        # Arrow decodes names only when asked for them, and asks for as much memory as a broken length says.
        raise InvalidRows(f"broken table: {exc}") from exc
    if len(set(table.column_names)) != table.num_columns:
        raise InvalidRows("a column comes twice")
    missing = [name for name in _NEEDED if table[name].null_count]
    if missing:
        raise InvalidRows(f"column {missing[0]!r}: expected a value in every row, got null")
    others = sorted(set(table["_partition"].to_pylist()) - {partition})
    if others:
        raise InvalidRows(f"column '_partition': expected {partition} as in the event, got {others[0]}")
    return table
