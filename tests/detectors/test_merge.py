"""The merge: one order, whatever the order of arrival."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from detectors.merge import Merge, Watermarks

Row = tuple[int, int, int]


def table(rows: Sequence[Row]) -> pa.Table:
    """Give rows (order, partition, offset) as a table."""
    orders, partitions, offsets = zip(*rows, strict=True)
    return pa.table({
        "_order": pa.array(orders, pa.int64()), "_partition": pa.array(partitions, pa.int32()),
        "_offset": pa.array(offsets, pa.int64()), "_row": pa.array([0] * len(rows), pa.int32()),
    })  # fmt: skip


def released(tables: Sequence[pa.Table]) -> list[Row]:
    """Give the rows that came out, in order."""
    names = ("_order", "_partition", "_offset")
    return [row for t in tables for row in zip(*(t[name].to_pylist() for name in names), strict=True)]


@st.composite
def partitions(draw: st.DrawFn) -> list[list[Row]]:
    """Draw each partition's rows; orders never go back."""
    found = []
    for partition in range(3):
        steps = draw(st.lists(st.integers(0, 5), max_size=12))
        found.append([(int(order), partition, at) for at, order in enumerate(np.cumsum(steps))])
    return found


@given(partitions(), st.randoms(use_true_random=False))
def test_any_interleaving_gives_one_order(logs: list[list[Row]], chance: object) -> None:
    """Partitions that take turns anyhow, batches sent twice, a restart in between: the same released sequence."""
    shuffle = chance.shuffle  # type: ignore[attr-defined]
    merge, marks = Merge(), Watermarks()
    batches = [(p, start) for p, log in enumerate(logs) for start in range(0, len(log), 3)]
    order = sorted(batches, key=lambda item: (item[1], item[0]))
    turns = [[item for item in order if item[0] == p] for p in range(3)]
    lanes = [p for p, lane in enumerate(turns) for _ in lane]
    shuffle(lanes)
    found: list[Row] = []
    for p in lanes:
        _, start = turns[p].pop(0)
        part = logs[p][start : start + 3]
        merge.offer(table(part))
        merge.offer(table(part))
        marks.take(p, 3, part[-1][0])
        found += released(merge.release(marks.least()))
        restored = Merge()
        restored.restore(merge.state())
        merge = restored
    for p in range(3):
        marks.take(p, 3, 10**9)
    found += released(merge.release(marks.least()))

    assert found == sorted(row for log in logs for row in log)
    assert merge.duplicates == len(found)
    assert merge.waiting() == 0


def test_nothing_is_released_before_every_partition_spoke() -> None:
    """One partition alone cannot know what the others will bring."""
    marks = Watermarks()
    marks.take(0, 2, 1_000)

    assert marks.least() == 0


def test_a_silent_partition_does_not_fill_the_memory() -> None:
    """Above its bound the merge lets the older half go, and counts it."""
    merge = Merge(max_rows=10)
    merge.offer(table([(at, 0, at) for at in range(20)]))

    assert released(merge.release(0)) == [(at, 0, at) for at in range(10)]
    assert merge.forced == 10
