"""Puts the rows of several payload partitions into one order that is the same in every run. Pure.

Each partition's rows come in (order, offset) order, and its watermark says that nothing older will follow. Rows below
the least watermark are released, sorted by order, partition, offset and row: a k-way merge whose result depends on the
payload log alone, whatever was interrupted or sent twice.
Rows at or below the highest offset seen of a partition are re-sent ones.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_KEYS: Final = ("_order", "_partition", "_offset", "_row")


class Watermarks:
    """How far each payload partition is; shared by all services of one observations partition."""

    def __init__(self) -> None:
        self._partitions = 0
        self._at: dict[int, int] = {}

    def take(self, partition: int, partitions: int, watermark_ms: int) -> None:
        """Note a watermark; it never goes back."""
        self._partitions = max(self._partitions, partitions)
        self._at[partition] = max(self._at.get(partition, 0), watermark_ms)

    def least(self) -> int:
        """Give the time below which every partition is complete; 0 while one has not spoken."""
        if not self._partitions or len(self._at) < self._partitions:
            return 0
        return min(self._at.values())

    def state(self) -> dict[str, Any]:
        """Give everything as JSON-able values."""
        return {"partitions": self._partitions, "at": sorted(self._at.items())}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take what `state` gave."""
        self._partitions = state["partitions"]
        self._at = {partition: at for partition, at in state["at"]}  # noqa: C416 - pairs come back as lists


class Merge:
    """The pending rows of one service."""

    def __init__(self, max_rows: int = 200_000) -> None:
        self._max_rows = max_rows
        self._seen: dict[int, int] = {}
        self._pending: list[pa.Table] = []
        self._waiting = 0
        self.duplicates = 0
        self.forced = 0

    def offer(self, table: pa.Table) -> int:
        """Take one record's rows, all of one payload partition; give how many were new."""
        if not table.num_rows:
            return 0
        partition = int(table["_partition"][0].as_py())
        fresh = table.filter(pc.greater(table["_offset"], self._seen.get(partition, -1)))
        self.duplicates += table.num_rows - fresh.num_rows
        if fresh.num_rows:
            self._seen[partition] = int(pc.max(fresh["_offset"]).as_py())
            self._pending.append(fresh)
            self._waiting += fresh.num_rows
        return int(fresh.num_rows)

    def waiting(self) -> int:
        """Give how many rows wait."""
        return self._waiting

    def overfull(self) -> bool:
        """Tell whether so much waits that some has to go, due or not."""
        return self._waiting > self._max_rows

    def release(self, below_ms: int) -> list[pa.Table]:
        """Give the rows whose order is below a time, in order, as tables of one schema each.

        While the merge is overfull after that, the older half goes, too. So that this depends on the log alone and not
        on how it was cut into batches, call it whenever `offer` made the merge overfull.
        """
        ready = self._due(below_ms)
        while self.overfull():
            ready += self._due(self._middle())
        return _sorted(ready)

    def _due(self, below_ms: int) -> list[pa.Table]:
        ready, kept = [], []
        for table in self._pending:
            due = pc.less(table["_order"], below_ms)
            count = pc.sum(due).as_py() or 0
            if count:
                ready.append(table if count == table.num_rows else table.filter(due))
            if count < table.num_rows:
                kept.append(table.filter(pc.invert(due)) if count else table)
        self._pending = kept
        self._waiting -= sum(table.num_rows for table in ready)
        return ready

    def state(self) -> dict[str, Any]:
        """Give everything as JSON-able values."""
        return {
            "seen": sorted(self._seen.items()),
            "pending": [_packed(table) for table in self._pending],
            "duplicates": self.duplicates,
            "forced": self.forced,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take what `state` gave."""
        self._seen = {partition: offset for partition, offset in state["seen"]}  # noqa: C416 - pairs come back as lists
        self._pending = [_unpacked(text) for text in state["pending"]]
        self._waiting = sum(table.num_rows for table in self._pending)
        self.duplicates, self.forced = state["duplicates"], state["forced"]

    def _middle(self) -> int:
        """Give the order in the middle of what waits: a partition that stays silent must not fill the memory."""
        orders = np.concatenate([table["_order"].to_numpy() for table in self._pending])
        middle = int(np.median(orders)) + 1
        self.forced += int((orders < middle).sum())
        return middle


def _sorted(tables: list[pa.Table]) -> list[pa.Table]:
    if not tables:
        return []
    keys = [np.concatenate([table[name].to_numpy() for table in tables]) for name in _KEYS]
    order = np.lexsort(keys[::-1])
    if all(table.schema.equals(tables[0].schema) for table in tables):
        return [pa.concat_tables(tables).take(pa.array(order)).combine_chunks()]
    source = np.repeat(np.arange(len(tables)), [table.num_rows for table in tables])
    inside = np.concatenate([np.arange(table.num_rows) for table in tables])
    cuts = np.flatnonzero(np.diff(source[order])) + 1
    runs = np.split(order, cuts)
    return [tables[source[run[0]]].take(pa.array(inside[run])) for run in runs]


def _packed(table: pa.Table) -> str:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return base64.b64encode(sink.getvalue()).decode()


def _unpacked(text: str) -> pa.Table:
    with pa.ipc.open_stream(base64.b64decode(text)) as reader:
        return reader.read_all()
