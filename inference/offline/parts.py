"""Keeps what is done beside the output, one file for each unit, and puts it together at the end.

A part is written under another name and renamed when it is whole and on disk, so what a crash leaves behind is whole
parts. The output appears under its name when nothing is missing.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final, Self

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from inference.offline.columns import flat
from inference.offline.errors import OfflineError

GROUP: Final = 65_536
"""Rows of a row group that is written."""
_PLAN: Final = "plan.json"
_FORMATS: Final = (".parquet", ".csv")


class Parts:
    """The parts of one output. Hold it with `with`: one process at a time."""

    def __init__(self, output: Path, plan: Mapping[str, Any], *, restart: bool = False) -> None:
        """Begin.

        Args:
            output: where the result is to be.
            plan: what the parts depend on: input, model, columns.
            restart: forget what another run has done.

        Raises:
            OfflineError: a format that cannot be written, no such folder, or parts of something else.
        """
        if output.suffix not in _FORMATS:
            raise OfflineError(f"{output}: expected a name that ends in {' or '.join(_FORMATS)}")
        if not output.parent.is_dir():
            raise OfflineError(f"{output.parent}: no such folder")
        self._output, self._plan = output, json.loads(json.dumps(plan))
        self.folder = output.with_name(f"{output.name}.parts")
        if restart:
            shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(exist_ok=True)
        self._lock: IO[str] | None = None

    def __enter__(self) -> Self:
        self._lock = (self.folder / "lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            self._lock.close()
            raise OfflineError(f"{self.folder}: another process is at work there") from exc
        try:
            self._check()
        except BaseException:
            self._lock.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock is not None:
            self._lock.close()

    def done(self) -> dict[int, int]:
        """Give the units that are done, and the rows of each."""
        found = {}
        for path in self._paths():
            found[int(path.stem.partition("-")[2])] = pq.read_metadata(path).num_rows
        return found

    @contextmanager
    def part(self, number: int) -> Iterator[Part]:
        """Write a unit's part; it counts when the block ends without an error."""
        path = self.folder / f"part-{number:08d}.parquet"
        temporary = path.with_suffix(".tmp")
        part = Part(temporary)
        try:
            yield part
        finally:
            part.close()
        _sync(temporary)
        temporary.rename(path)
        _sync(self.folder)

    def finish(self) -> int:
        """Put the parts together under the output's name; give the number of rows."""
        temporary = self._output.with_name(f".{self._output.name}.tmp")
        rows = self._written(temporary)
        _sync(temporary)
        temporary.rename(self._output)
        _sync(self._output.parent)
        shutil.rmtree(self.folder)
        return rows

    def _written(self, path: Path) -> int:
        rows, writer = 0, None
        try:
            for part in self._paths():
                with pq.ParquetFile(part) as file:
                    for group in range(file.num_row_groups):
                        table = file.read_row_group(group)
                        writer = writer or _writer(path, table)
                        writer.write_table(flat(table) if path.name.endswith(".csv.tmp") else table)
                        rows += table.num_rows
        except (pa.ArrowException, ValueError) as exc:
            raise OfflineError(f"{self._output}: the parts do not fit together: {exc}") from exc
        finally:
            if writer is not None:
                writer.close()
        if writer is None:
            raise OfflineError(f"{self._output}: the input has no rows")
        return rows

    def _paths(self) -> list[Path]:
        return sorted(self.folder.glob("part-*.parquet"))

    def _check(self) -> None:
        """Make sure that what is there belongs to this run."""
        path = self.folder / _PLAN
        if not path.exists():
            temporary = path.with_suffix(".tmp")
            temporary.write_text(json.dumps(self._plan, indent=1))
            _sync(temporary)
            temporary.rename(path)
            return
        found = json.loads(path.read_text())
        changed = [name for name in self._plan if found.get(name) != self._plan[name]]
        if changed:
            raise OfflineError(
                f"{self.folder}: holds parts of a run with another {', '.join(changed)}; remove it, or say --restart"
            )


class Part:
    """One part while it is written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer: Any = None
        self._held: list[pa.Table] = []
        self._rows = 0

    def add(self, table: pa.Table) -> None:
        """Write rows, gathered into row groups of a decent size."""
        self._held.append(table)
        self._rows += table.num_rows
        if self._rows >= GROUP:
            self._flush()

    def close(self) -> None:
        """Write what is left."""
        self._flush()
        if self._writer is not None:
            self._writer.close()

    def _flush(self) -> None:
        if not self._held:
            return
        first = self._held[0].schema
        odd = next((table.schema for table in self._held if table.schema != first), None)
        if odd is not None:
            raise OfflineError(f"the model's outputs changed their types from {first} to {odd}")
        table = pa.concat_tables(self._held)
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._path, table.schema)
        self._writer.write_table(table, row_group_size=GROUP)
        self._held, self._rows = [], 0


def _writer(path: Path, table: pa.Table) -> Any:  # noqa: ANN401 - pyarrow has no types
    if path.name.endswith(".csv.tmp"):
        return pa.csv.CSVWriter(path, flat(table).schema)
    return pq.ParquetWriter(path, table.schema)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
