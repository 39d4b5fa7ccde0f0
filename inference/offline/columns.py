"""Which columns of a table a model gets, and what its answer is as columns. Pure.

A model that names its features gets them by name, whatever their order in the file; one that does not gets the columns
that were asked for, or all numeric ones, as one table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from inference import arrow
from inference.offline.errors import OfflineError
from inference.protocol.errors import BadTensor
from inference.protocol.tensors import Tensor
from inference.protocol.v2 import InferRequest, InferResponse
from inference.runtime import ANY, TensorSpec

_OBSERVED = "in."
"""What the columns of inputs begin with in observations, and so in the lake."""
_MATRIX = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is asked for."""

    columns: tuple[tuple[str, str], ...] = ()
    """The model's name and the file's, of each column, in the model's order; empty: found out."""
    keep: tuple[str, ...] = ()
    """Columns that go through to the output as they are."""
    output: str = ""
    """What the model's only output is called; empty: as the model calls it."""


class Columns:
    """The way from a table's rows to a request, and from the answer to the output's columns.

    Raises:
        OfflineError: a column that is missing or has no place, or columns that do not make up the model's input.
    """

    def __init__(
        self, schema: pa.Schema, wanted: Wanted, features: Sequence[str], inputs: Sequence[TensorSpec]
    ) -> None:
        self._wanted = wanted
        _require(schema, wanted.keep, "--keep")
        self._matrix = ""
        """The tensor that all columns go into; empty: one tensor for each."""
        self._pairs = self._chosen(schema, features, inputs)
        _require(schema, [column for _, column in self._pairs], "the model's input")
        if not self._pairs:
            raise OfflineError(f"no columns are left for the model; the file has {', '.join(schema.names)}")

    @property
    def read(self) -> tuple[str, ...]:
        """The columns that the model reads."""
        return tuple(dict.fromkeys(column for _, column in self._pairs))

    @property
    def needed(self) -> tuple[str, ...]:
        """All columns of the file that are needed."""
        return tuple(dict.fromkeys((*self.read, *self._wanted.keep)))

    def request(self, batch: pa.RecordBatch) -> InferRequest:
        """Give rows as a request.

        Raises:
            BadTensor: a column that holds what no tensor can; the text names it.
        """
        tensors = [(name, _tensor(batch, column)) for name, column in self._pairs]
        if not self._matrix:
            named = (Tensor(name=n, datatype=t.datatype, shape=t.shape, data=t.data) for n, t in tensors)
            return InferRequest(inputs=tuple(named))
        for (_, column), (_, tensor) in zip(self._pairs, tensors, strict=True):
            if tensor.data.dtype == object:
                raise BadTensor(
                    f"column {column!r}",
                    "text, but the model names no features, so that its columns go into one tensor of numbers; leave"
                    ' it out with --columns, or list "features" in sidelight.json',
                )
        joined = np.concatenate([t.data.reshape(len(t.data), -1).astype(np.float64) for _, t in tensors], axis=1)
        return InferRequest(inputs=(Tensor.of(self._matrix, joined),))

    def answer(self, batch: pa.RecordBatch, response: InferResponse) -> pa.Table:
        """Give the kept columns and the model's outputs of the same rows.

        Raises:
            ProtocolError: outputs that are not by rows.
            OfflineError: an output has the name of a kept column.
        """
        outputs = arrow.table_of(response.outputs)
        if outputs.num_rows != batch.num_rows:
            raise OfflineError(f"the model gave {outputs.num_rows} predictions for {batch.num_rows} rows")
        if self._wanted.output:
            if outputs.num_columns != 1:
                raise OfflineError(f"--output_column: the model has several outputs: {', '.join(outputs.column_names)}")
            outputs = outputs.rename_columns([self._wanted.output])
        fields, arrays = list(outputs.schema), list(outputs.columns)
        kept = [name for name in self._wanted.keep if name in outputs.column_names]
        if kept:
            raise OfflineError(f"the model's output {kept[0]!r} is a kept column, too; choose another --output_column")
        schema = pa.schema([*(batch.schema.field(name) for name in self._wanted.keep), *fields])
        return pa.Table.from_arrays([*(batch.column(name) for name in self._wanted.keep), *arrays], schema=schema)

    def _chosen(
        self, schema: pa.Schema, features: Sequence[str], inputs: Sequence[TensorSpec]
    ) -> tuple[tuple[str, str], ...]:
        names = tuple(features) or (tuple(spec.name for spec in inputs) if len(inputs) > 1 else ())
        if self._wanted.columns:
            given = dict(self._wanted.columns)
            if names and set(given) <= set(names):
                return tuple((name, given.get(name) or _found(schema, name)) for name in names)
            if names:
                odd = sorted(set(given) - set(names))
                raise OfflineError(f"--columns: the model has no {odd}; it takes {', '.join(names)}")
            self._matrix = inputs[0].name if inputs else "input-0"
            return self._wanted.columns
        if names:
            return tuple((name, _found(schema, name)) for name in names)
        self._matrix = inputs[0].name if inputs else "input-0"
        return tuple((name, name) for name in self._rest(schema, inputs))

    def _rest(self, schema: pa.Schema, inputs: Sequence[TensorSpec]) -> list[str]:
        """Give the columns that a model without names gets: the one of its input's name, or all that hold numbers."""
        for name in (self._matrix, _OBSERVED + self._matrix, f"{_OBSERVED}instances"):
            if name in schema.names and name not in self._wanted.keep:
                return [name]
        rest = [
            field.name for field in schema
            if field.name not in self._wanted.keep and not field.name.startswith("_") and _is_number(field.type)
        ]  # fmt: skip
        width = inputs[0].shape[1] if inputs and len(inputs[0].shape) == _MATRIX else ANY
        if width not in {ANY, len(rest)}:
            raise OfflineError(
                f"the model takes {width} columns and names none; {len(rest)} hold numbers: {', '.join(rest)}; choose "
                "with --columns, or keep those that are no features with --keep"
            )
        return rest


def parse_columns(text: str) -> tuple[tuple[str, str], ...]:
    """Read `a,b=c`: the model's names, with the file's where they differ.

    Raises:
        OfflineError: a name that is empty, or comes twice.
    """
    pairs = []
    for item in filter(None, text.split(",")):
        name, equals, column = item.partition("=")
        if not name or (equals and not column):
            raise OfflineError(f"--columns: expected NAME or NAME=COLUMN, got {item!r}")
        pairs.append((name, column or name))
    names = [name for name, _ in pairs]
    if len(set(names)) != len(names):
        raise OfflineError(f"--columns: a name comes twice in {text!r}")
    return tuple(pairs)


def flat(table: pa.Table) -> pa.Table:
    """Give lists as columns of their own, numbered, for formats that have no lists."""
    arrays: dict[str, pa.ChunkedArray] = {}
    for field, column in zip(table.schema, table.columns, strict=True):
        if not pa.types.is_fixed_size_list(field.type):
            arrays[field.name] = column
            continue
        values = column.combine_chunks().flatten()
        width = field.type.list_size
        for place in range(width):
            arrays[f"{field.name}.{place}"] = values.take(pa.array(range(place, len(values), width)))
    return pa.table(arrays)


def _tensor(batch: pa.RecordBatch, column: str) -> Tensor:
    return arrow.tensor_of(batch.schema.field(column), batch.column(column))


def _found(schema: pa.Schema, name: str) -> str:
    return name if name in schema.names or _OBSERVED + name not in schema.names else _OBSERVED + name


def _require(schema: pa.Schema, names: Sequence[str], what: str) -> None:
    missing = [name for name in names if name not in schema.names]
    if missing:
        raise OfflineError(f"{what}: the file has no column {', '.join(map(repr, missing))}; it has {_listed(schema)}")
    twice = [name for name in names if schema.names.count(name) > 1]
    if twice:
        raise OfflineError(f"{what}: the file has several columns {twice[0]!r}")


def _listed(schema: pa.Schema) -> str:
    names: Mapping[int, str] = dict(enumerate(schema.names))
    return ", ".join(names.values()) if len(names) <= 40 else f"{', '.join(schema.names[:40])}, …"  # noqa: PLR2004 - enough


def _is_number(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_decimal(kind)
    )
