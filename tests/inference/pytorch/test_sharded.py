"""Weights in several files, listed by an index."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import torch
from safetensors.torch import save_file

from inference.directory import open_model
from inference.errors import ModelLoadFailed
from inference.runtime import Runtime
from inference.settings import SETTINGS_FILE, Trust

_INDEX = "model.safetensors.index.json"
_FILES = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
_NETWORK = """
import torch


class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first = torch.nn.Linear(4, 3, bias=False)
        self.second = torch.nn.Linear(3, 4)
        self.tied = torch.nn.Linear(4, 3, bias=False)
        self.tied.weight = self.first.weight

    def forward(self, x):
        return self.tied(self.second(self.first(x)))
"""


def _saved(directory: Path) -> dict[str, torch.Tensor]:
    """Save a model's weights in two files; those that are tied once, as such files have them."""
    generator = torch.Generator().manual_seed(2)
    shapes = {"first.weight": (3, 4), "second.weight": (4, 3), "second.bias": (4,)}
    state = {name: torch.randn(*shape, generator=generator) for name, shape in shapes.items()}
    files = {"first.weight": _FILES[0], "second.weight": _FILES[1], "second.bias": _FILES[1]}
    for file in _FILES:
        save_file({name: state[name] for name, there in files.items() if there == file}, directory / file)
    (directory / "net.py").write_text(_NETWORK)
    (directory / SETTINGS_FILE).write_text('{"options": {"model": "net:Network", "device": "cpu"}}')
    _index(directory, files)
    return state


def _index(directory: Path, files: Any) -> None:  # noqa: ANN401 - JSON
    (directory / _INDEX).write_bytes(orjson.dumps({"metadata": {"total_size": 1}, "weight_map": files}))


def _open(directory: Path) -> Runtime:
    return open_model(directory, Trust(code=True))


def test_files_are_read_as_one_model(tmp_path: Path) -> None:
    """The index is the model's file; its parts are none by themselves, and tied weights need one of their names."""
    state = {name: tensor.numpy() for name, tensor in _saved(tmp_path).items()}
    rows = np.arange(8, dtype=np.float32).reshape(2, 4)
    got = _open(tmp_path).predict({"x": rows})["output-0"]

    hidden = (rows @ state["first.weight"].T) @ state["second.weight"].T + state["second.bias"]
    np.testing.assert_allclose(got, hidden @ state["first.weight"].T, rtol=1e-4)


def test_what_is_missing_or_unknown_is_named(tmp_path: Path) -> None:
    """Files and tensors that index, files and model do not agree on end the load, by name."""
    state = _saved(tmp_path)
    whole = dict.fromkeys(state, _FILES[1]) | {"first.weight": _FILES[0]}
    _index(tmp_path, {name: file for name, file in whole.items() if name != "second.bias"} | {"more": _FILES[0]})
    with pytest.raises(ModelLoadFailed, match=r"beside the model: missing \['second.bias'\], unknown \['more'\]"):
        _open(tmp_path)
    _index(tmp_path, whole | {"second.bias": _FILES[0]})
    with pytest.raises(ModelLoadFailed, match=r"00001-of-00002\.safetensors: beside the index: missing \['s"):
        _open(tmp_path)
    _index(tmp_path, whole)
    (tmp_path / _FILES[1]).unlink()
    with pytest.raises(ModelLoadFailed, match=f"{_FILES[1]} is missing"):
        _open(tmp_path)
    (tmp_path / _FILES[1]).write_bytes(b"nothing")

    with pytest.raises(ModelLoadFailed, match="no PyTorch model"):
        _open(tmp_path)


@pytest.mark.parametrize("files", [None, {}, {"first.weight": 1}, ["a"], {"first.weight": "../other.safetensors"}])
def test_an_index_that_is_none(tmp_path: Path, files: object) -> None:
    """No map, or one that leads out of the folder, is no index."""
    _saved(tmp_path)
    _index(tmp_path, files)

    with pytest.raises(ModelLoadFailed, match=r"index\.json: weight_map: expected"):
        _open(tmp_path)


def test_a_part_without_an_index_is_a_file_like_any_other(tmp_path: Path) -> None:
    """Names that look like parts are only left out where an index lists them."""
    _saved(tmp_path)
    (tmp_path / _INDEX).unlink()

    with pytest.raises(ModelLoadFailed, match="expected one model file, got model-00001"):
        _open(tmp_path)
