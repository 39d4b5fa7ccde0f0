"""Predicts for a whole input: reads, predicts and writes at the same time, batch by batch, unit by unit.

What is done stays done: a run that was killed goes on where its last whole unit ended.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from inference.batching.terms import Terms
from inference.dataplane import DataPlane
from inference.errors import InferenceError
from inference.offline.columns import Columns
from inference.offline.errors import OfflineError
from inference.offline.inputs import CSV_UNIT, Input, Unit
from inference.offline.parts import Parts
from inference.protocol.errors import ProtocolError
from inference.protocol.v2 import InferResponse

_TERMS = Terms(protocol="batch")


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is."""

    rows: int
    """Done by this run."""
    resumed: int
    """Done by runs before."""
    total: int | None
    """None: not known before the end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One batch prediction."""

    plane: DataPlane
    model: str
    source: Input
    columns: Columns
    batch_rows: int
    threads: int

    def run(self, parts: Parts, report: Callable[[Progress], None]) -> int:
        """Do what is not done; give the number of rows of the output.

        Raises:
            OfflineError: rows that the model does not take, or files that cannot be read; what is done stays.
        """
        done = parts.done()
        resumed, rows = sum(done.values()), 0
        with ThreadPoolExecutor(self.threads, thread_name_prefix="batch") as pool:
            units = self.source.units(frozenset(done), self.columns.needed, self.batch_rows)
            for unit, batches in units:
                with parts.part(unit.number) as part:
                    for table in self._predicted(pool, unit, batches):
                        part.add(table)
                        rows += table.num_rows
                        report(Progress(rows, resumed, self.source.rows))
        return parts.finish()

    def _predicted(self, pool: ThreadPoolExecutor, unit: Unit, batches: Any) -> Any:  # noqa: ANN401 - batches of pyarrow's
        """Give the outputs of a unit's batches in order, some being computed while others are read and written."""
        flying: deque[tuple[int, pa.RecordBatch, Future[InferResponse]]] = deque()
        row = 0
        for batch in _guarded(unit, batches):
            if batch.num_rows:
                try:
                    request = self.columns.request(batch)
                except ProtocolError as exc:
                    raise OfflineError(f"{_place(unit, row, batch.num_rows)}: {exc}") from exc
                flying.append((row, batch, pool.submit(self.plane.infer, self.model, request, None, _TERMS)))
                row += batch.num_rows
            while len(flying) > self.threads:
                yield self._landed(unit, *flying.popleft())
        while flying:
            yield self._landed(unit, *flying.popleft())

    def _landed(self, unit: Unit, row: int, batch: pa.RecordBatch, answer: Future[InferResponse]) -> pa.Table:
        try:
            return self.columns.answer(batch, answer.result())
        except (InferenceError, ProtocolError, OfflineError) as exc:
            raise OfflineError(f"{_place(unit, row, batch.num_rows)}: {exc}") from exc


def plan_of(source: Input, model: str, *, words: Mapping[str, Any]) -> dict[str, Any]:
    """Say what the parts of a run depend on; a run with another plan does not go on with them.

    Args:
        source: the input.
        model: where the model lies; of a folder on this machine, its files count.
        words: what else was asked for.
    """
    files = [_stamp(file) for file in sorted(Path(model).rglob("*")) if file.is_file()]
    return {
        "input": [_stamp(file) for file in source.files],
        "model": files or model,
        "arguments": dict(words),
        "format": [1, CSV_UNIT],
    }


def _stamp(file: Path) -> list[Any]:
    found = file.stat()
    return [str(file.absolute()), found.st_size, found.st_mtime_ns]


def _guarded(unit: Unit, batches: Any) -> Any:  # noqa: ANN401 - as above
    try:
        yield from batches
    except (pa.ArrowException, OSError) as exc:
        raise OfflineError(f"{unit}: {exc}") from exc


def _place(unit: Unit, row: int, count: int) -> str:
    return f"{unit}, rows {row} to {row + count - 1} of it"
