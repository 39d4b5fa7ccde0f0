"""Turns V1 instances into named arrays, and a model's outputs into V1 predictions. Pure.

Lists of numbers, lists of mixed values, objects by feature name and single values are instances. Next:
`inference/dataplane.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from inference.errors import InvalidInput
from inference.protocol.v1 import V1Request
from inference.runtime import Arrays
from inference.texts import decoded

_NUMBERS: Final = frozenset({bool, int, float, type(None)})


def arrays(request: V1Request) -> dict[str, NDArray[Any]]:
    """Give the instances as one array under the request's key, or as one array per feature for objects.

    `null` is a missing value, NaN. Numbers stay numbers beside text: such arrays have dtype object.

    Raises:
        InvalidInput: no instances, ragged ones, objects with different keys, or objects beside lists.
    """
    instances = request.instances
    if not instances:
        raise InvalidInput(f"{request.key}: expected at least one, got none")
    if isinstance(instances[0], dict):
        return _columns(instances, request.key)
    return {request.key: _array(instances, request.key)}


def predictions(outputs: Mapping[str, NDArray[Any]]) -> list[Any]:
    """Give one prediction per row: the value or list of the only output, or an object by output name.

    Raises:
        InvalidInput: an output holds bytes that are no UTF-8, for which V1 has no form.
    """
    columns = [_plain(name, array) for name, array in outputs.items()]
    if len(columns) == 1:
        return columns[0]
    rows = zip(*columns, strict=True)
    return [dict(zip(outputs, row, strict=True)) for row in rows]


def _columns(instances: list[Any], key: str) -> dict[str, NDArray[Any]]:
    names = list(instances[0])
    for index, row in enumerate(instances):
        if not isinstance(row, dict):
            raise InvalidInput(f"{key}[{index}]: expected an object like the first, got {type(row).__name__}")
        if row.keys() != instances[0].keys():
            raise InvalidInput(f"{key}[{index}]: expected the keys {sorted(names)}, got {sorted(row)}")
    if not names:
        raise InvalidInput(f"{key}[0]: expected features by name, got an empty object")
    return {name: _array([row[name] for row in instances], f"{key}: {name}") for name in names}


def _array(values: list[Any], where: str) -> NDArray[Any]:
    try:
        array = np.array(values)
    except ValueError as exc:
        raise InvalidInput(f"{where}: {_ragged(values)}") from exc
    if array.dtype.kind in "biuf":
        return array
    # Anew from the values: NumPy turned numbers beside text into text.
    array = np.array(values, object)
    kinds = {type(item) for item in array.flat}
    if kinds <= _NUMBERS:
        return array.astype(np.float64)
    if not kinds <= _NUMBERS | {str}:
        wrong = next(item for item in array.flat if type(item) not in _NUMBERS | {str})
        raise InvalidInput(f"{where}: expected numbers, texts or null, got {type(wrong).__name__}")
    return array


def _plain(name: str, array: NDArray[Any]) -> list[Any]:
    if array.dtype == object:
        try:
            array = decoded(array, f"output {name!r}")
        except InvalidInput as exc:
            raise InvalidInput(f"{exc}; V1 has no form for other bytes: ask over V2, for binary data") from exc
    values: list[Any] = array.tolist()
    return values


def _ragged(values: list[Any]) -> str:
    first = len(values[0]) if isinstance(values[0], list) else None
    for index, value in enumerate(values):
        got = len(value) if isinstance(value, list) else None
        if got != first:
            expected, found = _described(first), _described(got)
            return f"row {index}: expected {expected} like row 0, got {found}"
    return "expected lists of equal shape"


def _described(length: int | None) -> str:
    return "a single value" if length is None else f"{length} values"


def row_count(inputs: Arrays) -> int:
    """Count the rows of a call: the first dimension of its first input."""
    first = next(iter(inputs.values()), None)
    return 0 if first is None or first.ndim == 0 else len(first)
