"""Reads what a model directory says of its model in `sidelight.json`, and says what is wrong with it.

What the keys mean stands in `inference/settings.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import orjson

from inference.errors import ModelLoadFailed
from inference.settings import SETTINGS_FILE, ModelSettings, QueueLimit, TransformerSettings

_LONGEST_WAIT_MS: Final = 10_000


def read_model_settings(directory: Path) -> ModelSettings:
    """Read a model directory's settings; defaults when it brings none.

    Raises:
        ModelLoadFailed: no JSON object, an unknown key, or a value of the wrong type.
    """
    path = directory / SETTINGS_FILE
    if not path.exists():
        return ModelSettings()
    try:
        given = orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError as exc:
        raise ModelLoadFailed(f"{path}: no valid JSON: {exc}") from exc
    if not isinstance(given, dict):
        raise ModelLoadFailed(f"{path}: expected a JSON object, got {type(given).__name__}")
    values = {key: _checked(path, key, value) for key, value in given.items()}
    settings = ModelSettings(**values)
    if settings.pad_to and (settings.max_batch or 0) > settings.pad_to[-1]:
        raise ModelLoadFailed(
            f"{path}: max_batch: expected at most {settings.pad_to[-1]}, the last of pad_to, got {settings.max_batch}"
        )
    return settings


def _checked(path: Path, key: str, value: object) -> Any:  # noqa: ANN401 - JSON
    known = [each.name for each in fields(ModelSettings)]
    if key not in known:
        raise ModelLoadFailed(f"{path}: unknown key {key!r}; known: {', '.join(known)}")
    try:
        return _READERS.get(key, _text)(value)
    except ValueError as exc:
        raise ModelLoadFailed(f"{path}: {key}: {exc}, got {value!r}") from None


def _text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("expected a text")
    return value


def _runtime(value: object) -> str:
    name = _text(value)
    if ":" in name:
        raise ValueError("expected a runtime's name; a class from outside is named by --runtime")
    return name


def _datatype(value: object) -> str:
    if value not in {"FP32", "FP64"}:
        raise ValueError("expected FP32 or FP64")
    return str(value)


def _names(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise ValueError("expected a list of names")
    return tuple(value)


def _object(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("expected an object")  # noqa: TRY004 - as for every other value that does not fit
    return value


def _whole(value: object, least: int = 1) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"expected a whole number from {least} up")
    return value


def milliseconds(value: object) -> float:
    """Check how long a call may wait for company."""
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value <= _LONGEST_WAIT_MS:
        raise ValueError(f"expected milliseconds from 0 to {_LONGEST_WAIT_MS}")
    return float(value)


def _sizes(value: object) -> tuple[int, ...]:
    try:
        sizes = tuple(_whole(size) for size in value) if isinstance(value, list) else ()
    except ValueError:
        sizes = ()
    if not sizes or any(later <= earlier for earlier, later in pairwise(sizes)):
        raise ValueError("expected an ascending list of whole numbers from 1 up")
    return sizes


def _queue(value: object) -> QueueLimit:
    limits = _object(value)
    known = [each.name for each in fields(QueueLimit)]
    if unknown := [key for key in limits if key not in known]:
        raise ValueError(f"unknown key {unknown[0]!r}; known: {', '.join(known)}")
    try:
        return QueueLimit(**{key: _whole(limit, 0) for key, limit in limits.items()})
    except ValueError as exc:
        raise ValueError(f"calls and bytes: {exc}") from None


def _transformer(value: object) -> TransformerSettings:
    match value:
        case str(name) if name:
            return TransformerSettings(name=name)
        case {"class": str(name), **rest} if name and rest.keys() <= {"arguments"}:
            return TransformerSettings(name=name, arguments=_object(rest.get("arguments", {})))
    raise ValueError('expected "module:Class", or an object of class and arguments')


_READERS: Final[dict[str, Callable[[object], Any]]] = {
    "datatype": _datatype,
    "features": _names,
    "labels": _names,
    "max_batch": _whole,
    "max_latency_ms": milliseconds,
    "options": _object,
    "pad_to": _sizes,
    "parallel": _whole,
    "queue": _queue,
    "runtime": _runtime,
    "transformer": _transformer,
}
"""How each key is read; those that do not stand here are texts."""
