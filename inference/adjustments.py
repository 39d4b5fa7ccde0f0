"""What Triton's clients may say of a model when they have it loaded: a configuration in place of the folder's. Pure.

Only what has a counterpart among a model's settings is taken. It holds until the model is loaded by the next call, as
on Triton. Used by the two edges; `inference/repository.py` keeps it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from reprlib import Repr
from types import MappingProxyType
from typing import Any, Final, TypeAlias

import orjson

from inference.errors import InvalidInput, ModelLoadFailed, Unsupported
from inference.folders import Loaded
from inference.modelsettings import milliseconds

Adjustments: TypeAlias = Mapping[str, Any]
"""Fields of `ModelSettings` and their values."""

NONE: Final[Adjustments] = MappingProxyType({})
_CONFIG: Final = "config"
_DELAY: Final = "max_queue_delay_microseconds"
_SHORT: Final = Repr()
_SHORT.maxstring = 80
"""What is wrong may be as long as a body, and the answer is written on the event loop."""


def read(model: str, parameters: Mapping[str, Any]) -> Adjustments:
    """Read a load call's parameters.

    Raises:
        Unsupported: files in the request, or a setting that has no counterpart.
        InvalidInput: no configuration, or values that it cannot have.
    """
    unknown = [name for name in parameters if name != _CONFIG]
    if unknown:
        raise Unsupported(
            f"{_failed(model)}: failed to poll from model repository: {_SHORT.repr(unknown[0])} is not offered"
        )
    if _CONFIG not in parameters:
        return NONE
    given = parameters[_CONFIG]
    if not isinstance(given, str):
        raise InvalidInput(f"{_failed(model)}: config: expected JSON in a text, got {type(given).__name__}")
    try:
        config = orjson.loads(given)
    except orjson.JSONDecodeError as exc:
        raise InvalidInput(f"{_failed(model)}: config: no JSON: {exc}") from None
    if not isinstance(config, dict):
        raise InvalidInput(f"{_failed(model)}: config: expected an object, got {type(config).__name__}")
    found: dict[str, Any] = {}
    for name, value in config.items():
        if name not in _READERS:
            raise Unsupported(
                f"{_failed(model)}: config: {_SHORT.repr(name)} is not offered; offered: {', '.join(_READERS)}"
            )
        try:
            found |= _READERS[name](model, value)
        except (TypeError, ValueError) as exc:
            raise InvalidInput(f"{_failed(model)}: config: {name}: {exc}") from None
    return found


def adjusted(loaded: Loaded, adjustments: Adjustments) -> Loaded:
    """Give a loaded model with its settings adjusted.

    Raises:
        ModelLoadFailed: what is left of its own settings does not go with them.
    """
    if not adjustments:
        return loaded
    settings = replace(loaded.settings, **adjustments)
    if settings.pad_to and (settings.max_batch or 0) > settings.pad_to[-1]:
        raise ModelLoadFailed(f"max_batch_size: expected at most {settings.pad_to[-1]}, the last of the model's pad_to")
    if (settings.max_batch or 0) > 1 >= (loaded.settings.max_batch or loaded.runtime.max_batch):
        # Where rows depend on each other, one caller's would change another's answer: that is the operator's to say.
        raise ModelLoadFailed("max_batch_size: calls of this model are never joined, and only its folder may say else")
    return replace(loaded, settings=settings)


def _failed(model: str) -> str:
    return f"failed to load {model!r}"


def _name(model: str, value: Any) -> Adjustments:  # noqa: ANN401 - JSON
    if value != model:
        raise ValueError(f"expected {model!r}, got {_SHORT.repr(value)}")
    return NONE


def _rows(_model: str, value: Any) -> Adjustments:  # noqa: ANN401 - JSON
    # 0 says on Triton that calls are never joined.
    return {"max_batch": max(1, _whole(value))}


def _batching(_model: str, value: Any) -> Adjustments:  # noqa: ANN401 - JSON
    if not isinstance(value, dict) or value.keys() - {_DELAY}:
        raise ValueError(f"expected an object of {_DELAY}, got {_SHORT.repr(value)}")
    if not value:
        return NONE
    return {"max_latency_ms": milliseconds(_whole(value[_DELAY]) / 1_000)}


def _whole(value: Any) -> int:  # noqa: ANN401 - JSON
    # Protocol Buffers' JSON has long numbers as texts, and takes any so.
    if isinstance(value, (bool, float)) or not str(value).isascii() or not str(value).isdecimal():
        raise ValueError(f"expected a whole number from 0 up, got {_SHORT.repr(value)}")
    number = int(value)
    if number > _MOST:
        raise ValueError(f"expected at most {_MOST}, got {_SHORT.repr(value)}")
    return number


_MOST: Final = 2**31 - 1
_READERS: Final[dict[str, Callable[[str, Any], Adjustments]]] = {
    "name": _name,
    "max_batch_size": _rows,
    "dynamic_batching": _batching,
}
