"""Weights in several safetensors files, which an index beside them lists: Hugging Face's form for large models.

`model.safetensors.index.json` says under `weight_map` which tensor lies in which file. One file after the other is
read, so that no more than one is in memory beside the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import orjson
import torch
from safetensors.torch import load_file

from inference.errors import ModelLoadFailed

_SHOWN: Final = 5


def fill(module: torch.nn.Module, index: Path) -> None:
    """Fill a module with the weights that an index lists.

    Raises:
        ModelLoadFailed: an index that is none, or files or tensors that it, or the module, lacks.
    """
    files = _files(index)
    own = module.state_dict()
    # Tensors that are one in memory, such as tied embeddings, are stored under one of their names.
    held = {tensor.data_ptr() for name, tensor in own.items() if name in files}
    missing = [name for name, tensor in own.items() if name not in files and tensor.data_ptr() not in held]
    _agree(index, "the model", missing, [name for name in files if name not in own])
    for file in dict.fromkeys(files.values()):
        path = index.parent / file
        if not path.is_file():
            raise ModelLoadFailed(f"{index}: {file} is missing")
        state = load_file(path)
        expected = {name for name, there in files.items() if there == file}
        _agree(path, "the index", sorted(expected - state.keys()), sorted(state.keys() - expected))
        module.load_state_dict(state, strict=False)


def _files(index: Path) -> Mapping[str, str]:
    try:
        fields = orjson.loads(index.read_bytes())
    except orjson.JSONDecodeError as exc:
        raise ModelLoadFailed(f"{index}: no JSON: {exc}") from exc
    files = fields.get("weight_map") if isinstance(fields, dict) else None
    if not isinstance(files, dict) or not files or not all(isinstance(file, str) for file in files.values()):
        raise ModelLoadFailed(f"{index}: weight_map: expected the file of each tensor")
    for file in files.values():
        if not file.endswith(".safetensors") or Path(file).name != file:
            raise ModelLoadFailed(f"{index}: weight_map: expected .safetensors files beside it, got {file!r}")
    return files


def _agree(where: Path, whose: str, missing: list[str], unknown: list[str]) -> None:
    if missing or unknown:
        raise ModelLoadFailed(f"{where}: beside {whose}: missing {_some(missing)}, unknown {_some(unknown)}")


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{names[:_SHOWN]}{more}"
