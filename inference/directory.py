"""Finds the one model file of a directory, and the runtime that reads it, by KServe's conventions for file names.

`model.<ending>` wins over other names; two candidates are an error, never a guess. Next: the runtime's `load`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Final

from inference import options
from inference.errors import ModelLoadFailed
from inference.modelsettings import read_model_settings
from inference.runtime import RUNTIMES, Runtime, Source
from inference.settings import SETTINGS_FILE, ModelSettings, Trust
from inference.transformer import Transformer
from inference.upstream.link import Link
from streams.errors import UnknownPlugin

_NOT_MODELS: Final = frozenset({SETTINGS_FILE, "model-settings.json", "rollout.json"})

FORMATS: Final = {
    "lgb": "lightgbm",
    "pytorch": "torch",
    "torchscript": "torch",
    "pt": "torch",
    "safetensors": "torch",
    "tf": "tensorflow",
    "savedmodel": "tensorflow",
    "onnxruntime": "onnx",
    "xgb": "xgboost",
    "skops": "sklearn",
    "onnxruntime_onnx": "onnx",
    "pytorch_libtorch": "torch",
    "tensorflow_savedmodel": "tensorflow",
    "python": "custom",
}
"""Names of KServe's ModelFormats, Triton's platforms and backends, and file formats → our runtimes of other names."""

_ANY_FORMAT: Final = frozenset({"triton", "predictive", "mlserver"})
"""Servers of several formats that KServe's manifests name like one: the file tells."""


def runtime_name(name: str) -> str | None:
    """Give our runtime's name for a format's, as KServe's manifests and Triton's configurations say it; None: any."""
    if ":" in name:
        return name
    return None if name.lower() in _ANY_FORMAT else FORMATS.get(name.lower(), name.lower())


@cache
def _kinds(runtime: str | None) -> tuple[type[Runtime], ...]:
    named = runtime_name(runtime) if runtime else None
    names = (named,) if named else RUNTIMES.names()
    return tuple(RUNTIMES.find(name) for name in names)


def open_model(
    directory: Path,
    trust: Trust,
    runtime: str | None = None,
    settings: ModelSettings | None = None,
    link: Link | None = None,
    gpu: int = 0,
) -> Runtime:
    """Load the model of a directory, and the transformer around it, if the settings name one.

    Args:
        directory: holds exactly one model file, and `sidelight.json` where the defaults do not do.
        trust: what the file is allowed to do.
        runtime: a runtime's or a format's name, or `package.module:Class`; None takes what the settings name, or else
            finds it from the file.
        settings: the model's; None reads them from the directory.
        link: to a predictor: the directory then holds a transformer that stands before it, and no model.
        gpu: number of the one that a model takes which names none.

    Raises:
        ModelLoadFailed: no candidate, several, or a file that cannot be loaded.
        UnsafeFormat: a file that could run code and is not trusted.
        UnknownPlugin: no runtime of this name.
        MissingExtra: the runtime's library is not installed.
    """
    if not directory.is_dir():
        raise ModelLoadFailed(f"{directory}: no such directory")
    settings = read_model_settings(directory) if settings is None else settings
    around = Source(path=directory, settings=settings, trust=trust, behind=link)
    if link is not None:
        return _loaded(Transformer, around)
    kind, path = _only(directory, _kinds(runtime or settings.runtime or None))
    model = _loaded(kind, Source(path=path, settings=settings, trust=trust, gpu=gpu))
    return model if settings.transformer is None else _transformed(model, around)


def holds_model(directory: Path, runtime: str | None = None) -> bool:
    """Tell whether a directory has a file that looks like a model, or settings that name its runtime."""
    try:
        kinds = _kinds(runtime or read_model_settings(directory).runtime or None)
    except (ModelLoadFailed, UnknownPlugin):
        # What is wrong with it is said when it is loaded.
        return True
    alone = len(kinds) == 1 and not kinds[0].suffixes
    return alone or next(_claims(directory, kinds), None) is not None


def _transformed(model: Runtime, around: Source) -> Runtime:
    try:
        return Transformer.load(replace(around, behind=model))
    except BaseException:
        model.unload()
        raise


def _loaded(kind: type[Runtime], source: Source) -> Runtime:
    options.read(kind.options, source)
    try:
        return kind.load(source)
    except OSError as exc:
        raise ModelLoadFailed(f"{source.path}: {exc.strerror or exc}") from exc


def _only(directory: Path, kinds: Sequence[type[Runtime]]) -> tuple[type[Runtime], Path]:
    if len(kinds) == 1 and not kinds[0].suffixes:
        return kinds[0], directory
    claims = list(_claims(directory, kinds))
    named = [claim for claim in claims if claim[1].stem == "model"]
    candidates = named or claims
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        shown = ", ".join(f"{path.name} ({kind.platform})" for kind, path in candidates)
        raise ModelLoadFailed(f"{directory}: expected one model file, got {shown}; keep one, or name --runtime")
    endings = ", ".join(sorted({ending for kind in kinds for ending in kind.suffixes}))
    found = ", ".join(path.name for path in _files(directory)) or "nothing"
    raise ModelLoadFailed(f"{directory}: expected a model file ({endings}), got {found}")


def _claims(directory: Path, kinds: Iterable[type[Runtime]]) -> Iterator[tuple[type[Runtime], Path]]:
    kinds = list(kinds)
    for path in _files(directory):
        yield from ((kind, path) for kind in kinds if path.name not in _NOT_MODELS and kind.claims(path))


def _files(directory: Path) -> list[Path]:
    # The listing knows which are files: to ask for each costs a look at the disk, and thousands of models are loaded.
    with os.scandir(directory) as entries:
        return sorted(Path(entry.path) for entry in entries if not entry.name.startswith(".") and entry.is_file())
