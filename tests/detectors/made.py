"""Rows, tables and set-ups for tests of the detectors."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from detectors.base import Array, Finding, Rows, Setup
from detectors.budget import Budget
from detectors.settings import ColumnSettings

START_US = 1_760_000_000_000_000
NUMERIC, CATEGORICAL = "numeric", "categorical"


def rows(columns: Mapping[str, Array], start: int = 0) -> Rows:
    """Lay columns into a log, one row a call, 10 ms apart."""
    numbers = np.arange(start, start + len(next(iter(columns.values()))))
    places = np.column_stack([np.zeros_like(numbers), numbers, np.zeros_like(numbers)])
    ids = np.array([f"id-{number}" for number in numbers])
    return Rows(columns=columns, ids=ids, times_us=START_US + numbers * 10_000, places=places)


def setup(reference: Mapping[str, Array], *names: str, alpha: float = 0.01, window: int = 100) -> Setup:
    """Set up over columns so that one test on a window of so many rows may err with probability `alpha`."""
    chosen = names or tuple(reference)
    columns = tuple(ColumnSettings(name=name, kind=kind(reference[name])) for name in chosen)
    return Setup(columns=columns, reference=reference, budget=Budget(false_alarms=alpha, rows=window))


def kind(values: Array) -> Any:  # noqa: ANN401 - a literal type
    """Tell what kind of column an array makes."""
    return NUMERIC if values.dtype.kind == "f" else CATEGORICAL


def alarms(findings: Sequence[Finding]) -> list[int]:
    """Give the offset of the last row of each alarming window."""
    return [int(finding.last["offset"]) for finding in findings if finding.alarm]


def table(columns: Mapping[str, Any], count: int = 1) -> pa.Table:
    """Make an observation table: what every row has, and these columns of inputs and outputs."""
    numbers = np.arange(count)
    fixed = {
        "_id": pa.array([f"id-{number}" for number in numbers]), "_row": pa.array(numbers, pa.int32()),
        "_time": pa.array(START_US + numbers, pa.int64()),
        "_order": pa.array([START_US // 1000] * count, pa.int64()),
        "_partition": pa.array([0] * count, pa.int32()), "_offset": pa.array([1] * count, pa.int64()),
    }  # fmt: skip
    return pa.table(fixed | dict(columns))


def stream(found: pa.Table) -> bytes:
    """Write a table as one Arrow IPC stream."""
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, found.schema) as writer:
        writer.write_table(found)
    return sink.getvalue()
