"""Fits a caller's arrays to the tensors that a model declares: names, shapes and number types. Pure.

For models that say what they take, such as ONNX, PyTorch and TensorFlow ones. Numbers are converted where no value
changes but by rounding: JSON knows one kind of number, models many. Next: the runtime's `predict`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from inference.errors import InvalidInput, ModelLoadFailed
from inference.protocol.datatypes import BYTES, NUMPY
from inference.runtime import ANY, Arrays, TensorSpec
from inference.settings import ModelSettings
from inference.tabular import Table

_MATRIX: Final = 2


@dataclass(frozen=True, slots=True)
class Wanted:
    """One tensor that a model takes, as far as it says."""

    name: str
    datatype: str | None = None
    """None: whatever comes."""
    shape: tuple[int, ...] | None = None


class Signature:
    """All tensors that a model takes."""

    def __init__(self, wanted: Sequence[Wanted], settings: ModelSettings) -> None:
        self._wanted = {each.name: each for each in wanted}
        self._table = _table(wanted, settings)

    def specs(self) -> tuple[TensorSpec, ...]:
        """Describe the inputs; nothing when the model does not say what they are."""
        return tuple(
            TensorSpec(each.name, each.datatype, each.shape)
            for each in self._wanted.values()
            if each.datatype is not None and each.shape is not None
        )

    def fit(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Give one array per declared tensor, in the declared order.

        Raises:
            InvalidInput: names, shapes, lengths or values that the model does not take.
        """
        if not inputs:
            raise InvalidInput("inputs: expected at least one, got none")
        named = self._named(inputs)
        fitted = {name: _fitted(wanted, named[name]) for name, wanted in self._wanted.items()}
        rows = {name: len(array) for name, array in fitted.items() if array.ndim and self._free(name)}
        if len(set(rows.values())) > 1:
            raise InvalidInput(f"inputs: expected as many rows in each, got {rows}")
        if 0 in rows.values():
            raise InvalidInput("inputs: expected at least one row, got none")
        return fitted

    def features(self) -> tuple[str, ...]:
        """Name the columns of the one table that the model takes; nothing where they are not known."""
        return () if self._table is None else self._table.features

    def joins(self) -> bool:
        """Say whether the model lets its callers choose the number of rows."""
        return bool(self._wanted) and all(self._free(name) for name in self._wanted)

    def _free(self, name: str) -> bool:
        shape = self._wanted[name].shape
        return shape is None or shape[:1] == (ANY,)

    def _named(self, inputs: Arrays) -> Arrays:
        if inputs.keys() == self._wanted.keys():
            return inputs
        if len(self._wanted) == 1:
            (name,) = self._wanted
            if self._table is not None and (len(inputs) > 1 or next(iter(inputs)) in self._table.features):
                return {name: self._table.matrix(inputs)}
            if len(inputs) == 1:
                # V1 has one name for its instances, whatever the model calls them.
                return {name: next(iter(inputs.values()))}
        missing = [name for name in self._wanted if name not in inputs]
        unknown = [name for name in inputs if name not in self._wanted]
        raise InvalidInput(f"inputs: missing {missing}, unknown {unknown}; expected {list(self._wanted)}")


def chosen(given: Sequence[str], settings: ModelSettings, path: object) -> dict[str, str]:
    """Say which of a model's outputs are served, and under which name: all, or the one that the settings name.

    Raises:
        ModelLoadFailed: the settings name an output that the model does not have, or one name for several.
    """
    whole = ModelSettings()
    if settings.output != whole.output and settings.output not in given:
        raise ModelLoadFailed(f"{path}: output: expected one of {', '.join(given)}, got {settings.output!r}")
    served = list(given) if settings.output == whole.output else [settings.output]
    if settings.output_name == whole.output_name:
        return {name: name for name in served}
    if len(served) != 1:
        raise ModelLoadFailed(f"{path}: output_name: the model has several: {', '.join(served)}; choose one by output")
    return {served[0]: settings.output_name}


def _table(wanted: Sequence[Wanted], settings: ModelSettings) -> Table | None:
    if len(wanted) != 1 or not settings.features or wanted[0].datatype == BYTES:
        return None
    shape = wanted[0].shape
    if shape is not None and len(shape) != _MATRIX:
        return None
    width = None if shape is None or shape[1] == ANY else shape[1]
    return Table(width=width, features=settings.features, datatype=settings.datatype)


def _fitted(wanted: Wanted, array: NDArray[Any]) -> NDArray[Any]:
    if wanted.shape is not None:
        array = _shaped(wanted.name, wanted.shape, array)
    elif array.ndim == 0:
        raise InvalidInput(f"input {wanted.name!r}: expected shape [rows, ...], got []")
    return array if wanted.datatype is None else _typed(wanted.name, wanted.datatype, array)


def _shaped(name: str, shape: tuple[int, ...], array: NDArray[Any]) -> NDArray[Any]:
    if array.ndim == 1 and len(shape) == _MATRIX and shape[1] == 1:
        # A column by name is one value per row; a model of named inputs takes it as [rows, 1].
        array = array[:, np.newaxis]
    elif array.ndim == _MATRIX and len(shape) == 1 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != len(shape) or any(size not in {ANY, got} for size, got in zip(shape, array.shape, strict=True)):
        shown = ", ".join(_shown(at, size) for at, size in enumerate(shape))
        raise InvalidInput(f"input {name!r}: expected shape [{shown}], got {list(array.shape)}")
    return array


def _shown(at: int, size: int) -> str:
    if size != ANY:
        return str(size)
    return "any" if at else "rows"


def _typed(name: str, datatype: str, array: NDArray[Any]) -> NDArray[Any]:
    dtype = NUMPY[datatype]
    if array.dtype == dtype:
        return array
    if datatype == BYTES or array.dtype.kind not in "biuf":
        expected, got = ("text (BYTES)", str(array.dtype)) if datatype == BYTES else (datatype, "text")
        raise InvalidInput(f"input {name!r}: expected {expected}, got {got}")
    with np.errstate(all="ignore"):
        cast = array.astype(dtype)
        kept = np.isfinite(cast) | ~np.isfinite(array) if dtype.kind == "f" else cast == array
    if not kept.all():
        raise InvalidInput(f"input {name!r}: {array[~kept].flat[0]} does not fit {datatype}")
    return cast
