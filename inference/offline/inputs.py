"""Reads the rows of Parquet files, CSV files or a folder of either, in units that can be done one by one.

A unit of Parquet is a row group; of CSV, a fixed number of rows. However large a unit is, it is read in batches.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from inference.offline.errors import OfflineError

CSV_UNIT: Final = 65_536
"""Rows of a unit of CSV."""
_PARQUET: Final = frozenset({".parquet", ".pq"})
_CSV: Final = frozenset({".csv", ".tsv"})


@dataclass(frozen=True, slots=True)
class Unit:
    """Rows that are done together and kept together."""

    number: int
    """Its place in the whole input."""
    file: Path
    index: int
    """Its place in the file."""
    rows: int | None
    """None: known when it is read."""

    def __str__(self) -> str:
        word = "row group" if self.file.suffix in _PARQUET else f"rows from {self.index * CSV_UNIT} on: block"
        return f"{self.file}, {word} {self.index}"


class Input(ABC):
    """One kind of file, all of the same columns."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = tuple(files)

    @property
    @abstractmethod
    def schema(self) -> pa.Schema:
        """The columns, as the first file has them."""

    @property
    @abstractmethod
    def rows(self) -> int | None:
        """How many there are, if that is known before they are read."""

    def prefer_numbers(self, columns: Collection[str]) -> None:  # noqa: B027 - files with types have nothing to do
        """Be told which columns a model reads; kinds of files without types may read them more leniently."""

    @abstractmethod
    def units(self, done: frozenset[int], columns: Sequence[str], batch_rows: int) -> Iterator[tuple[Unit, Any]]:
        """Give the units that are not done, each with an iterator of its batches, to be read before the next unit."""


def open_input(path: Path) -> Input:
    """Find out what lies at a path.

    Raises:
        OfflineError: nothing, nothing that can be read, or both kinds together.
    """
    if path.is_dir():
        files = sorted(each for each in path.rglob("*") if each.is_file() and not _hidden(each.relative_to(path)))
    elif path.is_file():
        files = [path]
    else:
        raise OfflineError(f"{path}: no such file or folder")
    kinds = {kind for each in files if (kind := _kind(each)) is not None}
    if len(kinds) != 1:
        found = "both Parquet and CSV" if kinds else ", ".join(each.name for each in files[:8]) or "nothing"
        raise OfflineError(f"{path}: expected *.parquet, or *.csv or *.tsv, got {found}")
    chosen = [each for each in files if _kind(each) is not None]
    try:
        return kinds.pop()(chosen)
    except (pa.ArrowException, OSError) as exc:
        raise OfflineError(f"{path}: {exc}") from exc


def keep_apart(path: Path, output: Path) -> None:
    """Make sure that an output is no part of the input: it would replace it, or be read by the next run.

    Raises:
        OfflineError: it is.
    """
    source, result = path.resolve(), output.resolve()
    if result == source:
        raise OfflineError(f"{output}: is the input, which would be lost; expected another name")
    if source in result.parents:
        raise OfflineError(
            f"{output}: lies within the input {path}, and would be read with it; expected another folder"
        )


class Parquet(Input):
    """Parquet files; a unit is a row group."""

    def __init__(self, files: Sequence[Path]) -> None:
        super().__init__(files)
        self._groups: list[Unit] = []
        self._schema: pa.Schema | None = None
        for file in files:
            with _opened(file) as found:
                schema = found.schema_arrow.remove_metadata()
                if self._schema is None:
                    self._schema = schema
                elif set(schema.names) != set(self._schema.names):
                    odd = sorted(set(schema.names) ^ set(self._schema.names))[:8]
                    raise OfflineError(f"{file}: expected the columns of {files[0]}; only one of them has {odd}")
                for index in range(found.metadata.num_row_groups):
                    rows = found.metadata.row_group(index).num_rows
                    if rows:
                        self._groups.append(Unit(len(self._groups), file, index, rows))

    @property
    def schema(self) -> pa.Schema:
        """See `Input`."""
        return self._schema

    @property
    def rows(self) -> int:
        """See `Input`."""
        return sum(unit.rows or 0 for unit in self._groups)

    def units(self, done: frozenset[int], columns: Sequence[str], batch_rows: int) -> Iterator[tuple[Unit, Any]]:
        """See `Input`."""
        for unit in self._groups:
            if unit.number not in done:
                with _opened(unit.file) as file:
                    yield unit, file.iter_batches(batch_rows, row_groups=[unit.index], columns=list(columns))


class Csv(Input):
    """CSV files with a line of names; a unit is a block of rows."""

    def __init__(self, files: Sequence[Path]) -> None:
        super().__init__(files)
        with self._reader(files[0], None) as reader:
            found = reader.schema
        self._types = {field.name: pa.string() if pa.types.is_null(field.type) else field.type for field in found}

    def prefer_numbers(self, columns: Collection[str]) -> None:
        """Read whole numbers as any numbers: what looks whole in the first block may not be so in the next."""
        for name in columns:
            if pa.types.is_integer(self._types[name]):
                self._types[name] = pa.float64()

    @property
    def schema(self) -> pa.Schema:
        """See `Input`."""
        return pa.schema(list(self._types.items()))

    @property
    def rows(self) -> None:
        """See `Input`."""
        return

    def units(self, done: frozenset[int], columns: Sequence[str], batch_rows: int) -> Iterator[tuple[Unit, Any]]:
        """See `Input`."""
        number = 0
        for file in self.files:
            with self._reader(file, list(columns)) as reader:
                blocks = _Blocks(reader, file, batch_rows)
                index = 0
                while blocks.more():
                    unit = Unit(number, file, index, None)
                    if number in done:
                        blocks.skip()
                    else:
                        yield unit, blocks.batches()
                        blocks.skip()
                    number, index = number + 1, index + 1

    def _reader(self, file: Path, columns: list[str] | None) -> Any:  # noqa: ANN401 - pyarrow has no types
        options = pa.csv.ConvertOptions(
            column_types=None if columns is None else self._types, include_columns=columns, strings_can_be_null=True
        )
        separator = "\t" if file.suffix == ".tsv" else ","
        try:
            return pa.csv.open_csv(
                file, convert_options=options, parse_options=pa.csv.ParseOptions(delimiter=separator)
            )
        except (pa.ArrowException, OSError, KeyError) as exc:
            raise OfflineError(f"{file}: {exc}") from exc


class _Blocks:
    """Cuts what a CSV reader gives into units of a fixed number of rows, and those into batches."""

    def __init__(self, reader: Any, file: Path, batch_rows: int) -> None:  # noqa: ANN401 - as above
        self._reader, self._file, self._batch_rows = reader, file, batch_rows
        self._held: pa.RecordBatch | None = None
        self._left = CSV_UNIT
        self._row = 0

    def more(self) -> bool:
        """Say whether another unit begins here."""
        while self._held is None or not self._held.num_rows:
            try:
                self._held = self._reader.read_next_batch()
            except StopIteration:
                return False
            except pa.ArrowException as exc:
                raise OfflineError(f"{self._file}, after row {self._row}: {exc}") from exc
        self._left = CSV_UNIT
        return True

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Give the unit's batches."""
        while (batch := self._next(self._batch_rows)) is not None:
            yield batch

    def skip(self) -> None:
        """Pass over what is left of the unit."""
        while self._next(CSV_UNIT) is not None:
            pass

    def _next(self, most: int) -> pa.RecordBatch | None:
        if not self._left:
            return None
        left = self._left
        if (self._held is None or not self._held.num_rows) and not self.more():
            return None
        self._left = left
        assert self._held is not None  # noqa: S101 - `more` has seen to it
        taken = self._held.slice(0, min(most, left))
        self._held = self._held.slice(taken.num_rows)
        self._left -= taken.num_rows
        self._row += taken.num_rows
        return taken


def _opened(file: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(file, pre_buffer=False)
    except (pa.ArrowException, OSError) as exc:
        raise OfflineError(f"{file}: {exc}") from exc


def _kind(file: Path) -> type[Parquet | Csv] | None:
    suffix = file.suffix.lower()
    return Parquet if suffix in _PARQUET else Csv if suffix in _CSV else None


def _hidden(path: Path) -> bool:
    return any(part.startswith((".", "_")) for part in path.parts)
