"""docs/runtimes.md: its tables are complete, its settings are accepted, its programs run and answer what it says."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from inference import options
from inference.directory import open_model
from inference.modelcode import ModelCode
from inference.modelsettings import read_model_settings
from inference.runtime import RUNTIMES, Source
from inference.settings import SETTINGS_FILE, Trust
from tests.documented import ROOT
from tests.inference.serving import predictor

_TEXT = (ROOT / "docs" / "runtimes.md").read_text()
_SECTIONS = dict(re.findall(r"(?ms)^## ([^\n]+)\n(.*?)(?=^## |\Z)", _TEXT))
_TITLES = {
    "custom": "A Python class of your own",
    "lightgbm": "XGBoost and LightGBM",
    "onnx": "ONNX",
    "sklearn": "scikit-learn",
    "tensorflow": "TensorFlow",
    "torch": "PyTorch",
    "xgboost": "XGBoost and LightGBM",
}


def _blocks(section: str, language: str) -> list[str]:
    return re.findall(rf"(?s)```{language}\n(.*?)```", _SECTIONS[section])


def _settings(name: str) -> list[dict[str, Any]]:
    found = [json.loads(block) for block in _blocks(_TITLES[name], "json")]
    return [each for each in found if "predictions" not in each]


def test_every_runtime_has_its_section() -> None:
    """The table and the sections speak of every runtime that there is."""
    assert set(_TITLES) == set(RUNTIMES.names())
    for name in RUNTIMES.names():
        assert f"| `{name}` |" in _TEXT
        assert _TITLES[name] in _SECTIONS


@pytest.mark.parametrize("name", RUNTIMES.names())
def test_every_file_and_option_is_named(name: str) -> None:
    """A runtime's line names each ending that it reads, and its section each option that it has."""
    kind = RUNTIMES.find(name)
    (line,) = (line for line in _TEXT.splitlines() if line.startswith(f"| `{name}` |"))

    assert [suffix for suffix in kind.suffixes if f"{suffix}`" not in line] == []
    assert ("always" in line) == kind.runs_code
    for option in fields(kind.options):
        assert re.search(rf"`(options\.)?{option.name}`", _SECTIONS[_TITLES[name]]), option.name


@pytest.mark.parametrize("name", ["custom", "lightgbm", "onnx", "torch", "xgboost"])
def test_settings_are_accepted(tmp_path: Path, name: str) -> None:
    """Every `sidelight.json` that is shown is one."""
    shown = _settings(name)

    assert shown
    for each in shown:
        (tmp_path / SETTINGS_FILE).write_text(json.dumps(each))
        source = Source(path=tmp_path, settings=read_model_settings(tmp_path))
        assert options.read(RUNTIMES.find(name).options, source)


def test_the_exported_program_is_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The program that exports a model does so, and what it saves is served."""
    monkeypatch.chdir(tmp_path)
    exec(_blocks("PyTorch", "python")[0], {})  # noqa: S102 - our own documentation
    runtime = open_model(tmp_path, Trust(code=True))

    assert runtime.predict({"instances": np.ones((5, 4))})["output-0"].shape == (5, 3)


def test_the_weights_are_served_by_their_class(tmp_path: Path) -> None:
    """The class and the settings that are shown serve weights that fit the class."""
    (tmp_path / "net.py").write_text(_blocks("PyTorch", "python")[1])
    (shown,) = _settings("torch")
    (tmp_path / SETTINGS_FILE).write_text(json.dumps(shown))
    code = ModelCode(shown["options"]["model"], Source(path=tmp_path, trust=Trust(code=True)))
    module: torch.nn.Module = code.build(shown["options"]["arguments"])
    save_file(module.state_dict(), tmp_path / "model.safetensors")
    rows = np.ones((2, 4), np.float32)

    with torch.inference_mode():
        expected = module(torch.from_numpy(rows))["scores"].numpy()
    np.testing.assert_allclose(
        open_model(tmp_path, Trust(code=True)).predict({"x": rows})["scores"], expected, atol=0.05
    )


def test_the_class_answers_what_is_shown(tmp_path: Path) -> None:
    """The class, the settings, the call and the answer belong together; a negative age is the caller's mistake."""
    title = _TITLES["custom"]
    (tmp_path / "model.py").write_text(_blocks(title, "python")[0])
    (tmp_path / SETTINGS_FILE).write_text(json.dumps(_settings("custom")[0]))
    called = re.search(r"curl -d '([^']+)' localhost:8080(\S+)", _SECTIONS[title])
    assert called is not None
    (answer,) = (json.loads(block) for block in _blocks(title, "json") if "predictions" in block)
    with predictor(tmp_path, tmp_path, "--trusted") as server, server.client() as client:
        given = client.post(called[2], json=json.loads(called[1]))
        refused = client.post(called[2], json={"instances": [{"age": -1, "name": "Ada"}]})

    assert given.json() == answer
    assert (refused.status_code, refused.json()) == (400, {"error": "inputs: age: expected numbers from 0 up"})
