"""The methods of a user's class: which it has, whether they can be called, and what their results are as arrays.

Used by `inference/userobject.py`, which calls them, and by the runtimes of such classes.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference.errors import InvalidInput, ModelLoadFailed, PredictionFailed
from inference.runtime import Arrays


@dataclass(frozen=True, slots=True)
class Step:
    """One method."""

    name: str
    method: Callable[..., Any]
    asynchronous: bool
    parameters: bool
    """Whether it takes the request's parameters."""


def step(model: object, name: str, where: str) -> Step | None:
    """Give a method that takes inputs and gives outputs; None when the class has none of this name.

    Raises:
        ModelLoadFailed: one that cannot be called so.
    """
    method = getattr(model, name, None)
    if method is None:
        return None
    if inspect.isgeneratorfunction(method) or inspect.isasyncgenfunction(method):
        raise ModelLoadFailed(f"{where}.{name}: expected a method that returns, got one that yields")
    return Step(name, method, inspect.iscoroutinefunction(method), takes(method, 1, "parameters", f"{where}.{name}"))


def takes(method: Any, count: int, extra: str, where: str) -> bool:  # noqa: ANN401 - the user's
    """Say whether a method takes the argument `extra` after its first `count`.

    Raises:
        ModelLoadFailed: it cannot be called with those.
    """
    if not callable(method):
        raise ModelLoadFailed(f"{where}: expected a method, got {method!r}")
    signature = inspect.signature(method)
    # By name: another second argument, with a default of its own, is the class's affair.
    found = extra in signature.parameters
    try:
        signature.bind(*[None] * count, **({extra: None} if found else {}))
    except TypeError:
        first = ["self", *["inputs"] * count]
        name = where.rpartition(".")[2]
        expected = f"{name}({', '.join(first)}) or {name}({', '.join([*first, extra])})"
        raise ModelLoadFailed(f"{where}: expected {expected}, got {name}{signature}") from None
    return found


def checked(inputs: Arrays) -> dict[str, NDArray[Any]]:
    """Give a call's inputs to a class that does not say what it takes.

    Raises:
        InvalidInput: none at all, or no rows.
    """
    if not inputs:
        raise InvalidInput("inputs: expected at least one, got none")
    if any(array.ndim and not len(array) for array in inputs.values()):
        raise InvalidInput("inputs: expected at least one row, got none")
    return dict(inputs)


def arrays(value: Any, name: str) -> dict[str, NDArray[Any]]:  # noqa: ANN401 - whatever the class gives
    """Give a method's result as arrays by name; `name` is for a result that has none.

    Raises:
        PredictionFailed: nothing, rows of several shapes, or values that are neither numbers nor text.
    """
    if isinstance(value, list) and value and all(isinstance(row, dict) for row in value):
        # One object per row, as V1 shows predictions.
        if any(row.keys() != value[0].keys() for row in value):
            raise PredictionFailed(f"the model gave objects with different keys: expected {sorted(value[0])} in each")
        value = {key: [row[key] for row in value] for key in value[0]}
    if not isinstance(value, Mapping):
        value = {name: value}
    if not value:
        raise PredictionFailed("the model gave no outputs")
    return {str(key): _array(str(key), item) for key, item in value.items()}


def _array(name: str, value: Any) -> NDArray[Any]:  # noqa: ANN401 - whatever the class gives
    try:
        array = np.asarray(value)
    except ValueError as exc:
        raise PredictionFailed(f"output {name!r}: expected one shape for all rows: {exc}") from exc
    if array.ndim == 0:
        raise PredictionFailed(f"output {name!r}: expected one value per row, got {value!r}")
    if array.dtype.kind in "US":
        # From the values, where they are no array yet: NumPy's own texts lose zeros at their ends.
        array = array.astype(object) if isinstance(value, np.ndarray) else np.array(value, object)
    if array.dtype == object and not all(isinstance(item, (str, bytes)) for item in array.flat):
        wrong = next(item for item in array.flat if not isinstance(item, (str, bytes)))
        raise PredictionFailed(f"output {name!r}: expected numbers or text, got {type(wrong).__name__}")
    return array
