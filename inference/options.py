"""Reads a runtime's own options, the object `options` of `sidelight.json`, into the dataclass that the runtime names.

Which kind of value an option takes follows from its default. Next: the runtime's `load`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, Field, fields
from typing import Any, Final, TypeVar

from inference.errors import ModelLoadFailed
from inference.protocol.datatypes import NUMPY
from inference.runtime import ANY, Source, TensorSpec
from inference.settings import SETTINGS_FILE

T = TypeVar("T")

_KINDS: Final[Mapping[type, tuple[type, str]]] = {
    bool: (bool, "true or false"),
    int: (int, "a whole number"),
    str: (str, "a text"),
    tuple: (list, "a list"),
    dict: (dict, "an object"),
}


def read(kind: type[T], source: Source) -> T:
    """Give the options that a model's settings say.

    Raises:
        ModelLoadFailed: an option that the runtime does not have, or a value of another kind than its default.
    """
    if not source.settings.options:
        return kind()
    known = {each.name: each for each in fields(kind)}  # type: ignore[arg-type]  # every runtime names a dataclass
    values: dict[str, Any] = {}
    for name, value in source.settings.options.items():
        where = f"{source.path}: {SETTINGS_FILE}: options: {name}"
        if name not in known:
            raise ModelLoadFailed(f"{where}: unknown; known: {', '.join(known) or 'none'}")
        values[name] = _checked(known[name], value, where)
    return kind(**values)


def specs(given: tuple[Any, ...], where: object) -> tuple[TensorSpec, ...]:
    """Read tensors that a model's settings declare: `{"name": "x", "datatype": "FP32", "shape": [-1, 4]}`.

    Raises:
        ModelLoadFailed: another form, or a datatype that V2 does not know.
    """
    return tuple(_spec(each, where) for each in given)


def _checked(known: Field[Any], value: object, where: str) -> object:
    default = known.default if known.default_factory is MISSING else known.default_factory()
    kind, name = _KINDS[type(default)]
    # JSON's true is an int to Python.
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ModelLoadFailed(f"{where}: expected {name}, got {value!r}")
    return tuple(value) if isinstance(value, list) else value


def _spec(given: object, where: object) -> TensorSpec:
    match given:
        case {"name": str(name), "datatype": str(datatype), "shape": [*shape], **rest} if not rest:
            if datatype in NUMPY and all(isinstance(size, int) and (size > 0 or size == ANY) for size in shape):
                return TensorSpec(name, datatype, tuple(shape))
    raise ModelLoadFailed(
        f'{where}: expected a tensor such as {{"name": "x", "datatype": "FP32", "shape": [-1, 4]}}, got {given!r}'
    )
