"""Turns named arrays into the one table that tabular models take, and gives such runtimes their common part.

Three ways to send rows: one [rows, features] tensor; one tensor per feature, by its name; for models of one column, a
flat tensor. Columns sent by name are put in the model's order, never in the caller's.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from inference.categories import Categories
from inference.errors import InvalidInput, ModelLoadFailed, PredictionFailed
from inference.runtime import ANY, Arrays, Runtime, TensorSpec
from inference.settings import ModelSettings

_DTYPES: Final[dict[str, type[np.floating[Any]]]] = {"FP32": np.float32, "FP64": np.float64}
_DATATYPES: Final = {
    "b1": "BOOL", "i1": "INT8", "i2": "INT16", "i4": "INT32", "i8": "INT64",
    "u1": "UINT8", "u2": "UINT16", "u4": "UINT32", "u8": "UINT64", "f2": "FP16", "f4": "FP32", "f8": "FP64",
}  # fmt: skip
_MATRIX: Final = 2
_WORTH_AGAIN_S: Final = 0.002
"""A first prediction that takes longer is taken for what the next ones take."""


class Table:
    """What kind of table a model takes: its width, its columns' names and its number type."""

    __slots__ = ("dtype", "features", "width")

    def __init__(self, *, width: int | None, features: tuple[str, ...], datatype: str) -> None:
        if features and width is not None and len(features) != width:
            raise ModelLoadFailed(f"features: the model takes {width} columns, {len(features)} are named")
        self.width = len(features) or width
        self.features = features
        self.dtype = _DTYPES[datatype]

    def matrix(self, inputs: Arrays) -> NDArray[Any]:
        """Give the rows as [rows, features], dtype object where there is text; a text model's flat input stays flat.

        Raises:
            InvalidInput: names, shapes or lengths that do not make up the model's table.
        """
        table = self._joined(inputs)
        if not len(table):
            raise InvalidInput("inputs: expected at least one row, got none")
        return table

    def _whole(self, name: str, array: NDArray[Any]) -> NDArray[Any]:
        if array.ndim == 1 and self.width is None:
            return self._cast(array)
        if array.ndim == 1 and self.width == 1:
            array = array[:, np.newaxis]
        if array.ndim != _MATRIX or self.width not in {None, array.shape[1]}:
            expected = f"[rows, {self.width if self.width is not None else 'features'}]"
            raise InvalidInput(f"input {name!r}: expected shape {expected}, got {list(array.shape)}")
        return self._cast(array)

    def _joined(self, inputs: Arrays) -> NDArray[Any]:
        if not inputs:
            raise InvalidInput("inputs: expected at least one, got none")
        if len(inputs) == 1:
            ((name, array),) = inputs.items()
            if name not in self.features or (array.ndim == _MATRIX and self.width != 1):
                return self._whole(name, array)
        if not self.features:
            raise InvalidInput(
                "inputs by name: the model file names no features; send one [rows, features] input, "
                'or list "features" in sidelight.json'
            )
        missing = [name for name in self.features if name not in inputs]
        unknown = [name for name in inputs if name not in self.features]
        if missing or unknown:
            raise InvalidInput(f"inputs by name: missing {missing}, unknown {unknown}; expected {list(self.features)}")
        columns = [self._cast(_column(name, inputs[name])) for name in self.features]
        lengths = {name: len(column) for name, column in zip(self.features, columns, strict=True)}
        if len(set(lengths.values())) != 1:
            raise InvalidInput(f"inputs by name: expected as many rows in each, got {lengths}")
        if any(column.dtype == object for column in columns):
            columns = [column.astype(object) for column in columns]
        return np.column_stack(columns)

    def _cast(self, array: NDArray[Any]) -> NDArray[Any]:
        return array.astype(self.dtype, copy=False) if array.dtype.kind in "biuf" else array.astype(object, copy=False)


def _column(name: str, array: NDArray[Any]) -> NDArray[Any]:
    if array.ndim == _MATRIX and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise InvalidInput(f"input {name!r}: expected shape [rows] or [rows, 1], got {list(array.shape)}")
    return array


class TabularRuntime(Runtime):
    """A runtime whose models map a table to an array with one entry per row."""

    text: bool = False
    """Whether columns of text are taken as they are."""
    categories: Categories | None = None
    """What names of categories stand for; set before `__init__` of this class, which predicts."""
    max_batch: int = 256

    def __init__(self, settings: ModelSettings, *, width: int | None, features: tuple[str, ...]) -> None:
        self._table = Table(width=width, features=settings.features or features, datatype=settings.datatype)
        self.features = self._table.features
        self._output_name = settings.output_name
        self._describe(settings)

    @abstractmethod
    def predict_table(self, table: NDArray[Any]) -> NDArray[Any]:
        """Predict on [rows, features]."""

    def predict(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Predict on one matrix or on named columns."""
        table = self._table.matrix(inputs)
        if self.categories is not None:
            table = self.categories.coded(table, self._table.dtype)
        elif table.dtype == object and not self.text:
            raise InvalidInput("inputs: expected numbers, got text")
        predicted = np.asarray(self.predict_table(table))
        if len(predicted) != len(table):
            raise PredictionFailed(f"the model gave {len(predicted)} predictions for {len(table)} rows")
        return {self._output_name: predicted}

    def _describe(self, settings: ModelSettings) -> None:
        """Fill in the metadata from one prediction on zeros, also the warm-up; if zeros are refused, leave it empty."""
        if self._table.width is None:
            return
        zeros = np.zeros((1, self._table.width), self._table.dtype)
        start = time.thread_time()
        try:
            predicted = self.predict({"input-0": zeros})[self._output_name]
        except Exception:  # noqa: BLE001 - a pipeline that wants text may refuse zeros in any way
            return
        self.warm_s = time.thread_time() - start
        if self.warm_s < _WORTH_AGAIN_S:
            # The first one also set the library up.
            start = time.thread_time()
            self.predict({"input-0": zeros})
            self.warm_s = time.thread_time() - start
        self.inputs = _one("input-0", settings.datatype, (ANY, self._table.width))
        datatype = _DATATYPES.get(predicted.dtype.str[1:], "BYTES")
        self.outputs = _one(self._output_name, datatype, (ANY, *predicted.shape[1:]))


@lru_cache
def _one(name: str, datatype: str, shape: tuple[int, ...]) -> tuple[TensorSpec, ...]:
    """Describe a tensor; of thousands of models, many have the same."""
    return (TensorSpec(name, datatype, shape),)


def chosen_output(settings: ModelSettings, known: tuple[str, ...], path: object) -> str:
    """Give the output that the settings ask for.

    Raises:
        ModelLoadFailed: the model has no such output.
    """
    if settings.output not in known:
        raise ModelLoadFailed(f"{path}: output: expected one of {', '.join(known)}, got {settings.output!r}")
    return settings.output
