"""A runtime's own options: read into its dataclass, and refused with the file, the option, expected and got."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from inference import options
from inference.directory import open_model
from inference.errors import ModelLoadFailed
from inference.runtime import RUNTIMES, Source, TensorSpec
from inference.settings import SETTINGS_FILE, ModelSettings, Trust


@dataclass(frozen=True, slots=True, kw_only=True)
class _Options:
    device: str = "auto"
    threads: int = 1
    compile: bool = False
    outputs: tuple[str, ...] = ()
    arguments: dict[str, Any] = field(default_factory=dict)


def _source(given: dict[str, Any]) -> Source:
    return Source(path=Path("model.x"), settings=ModelSettings(options=given))


def test_what_is_given_is_read() -> None:
    """Every kind of option arrives, and what is absent keeps its default."""
    given = {"device": "cpu", "compile": True, "outputs": ["a"], "arguments": {"depth": 3}}

    assert options.read(_Options, _source(given)) == _Options(
        device="cpu", compile=True, outputs=("a",), arguments={"depth": 3}
    )


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"devise": "cpu"}, "options: devise: unknown; known: device, threads, compile, outputs, arguments"),
        ({"device": 0}, "options: device: expected a text, got 0"),
        ({"threads": True}, "options: threads: expected a whole number, got True"),
        ({"compile": "yes"}, "options: compile: expected true or false, got 'yes'"),
        ({"outputs": "a"}, "options: outputs: expected a list, got 'a'"),
        ({"arguments": []}, "options: arguments: expected an object"),
    ],
)
def test_what_does_not_fit_is_refused(given: dict[str, Any], says: str) -> None:
    """A typing error in an option ends the load instead of being overlooked."""
    with pytest.raises(ModelLoadFailed) as caught:
        options.read(_Options, _source(given))
    assert says in str(caught.value)
    assert "model.x" in str(caught.value)


@pytest.mark.parametrize(("name", "known"), [("sklearn", "none"), ("xgboost", "categories")])
def test_options_of_other_runtimes_are_refused(tmp_path: Path, name: str, known: str) -> None:
    """An option in the settings of a model whose runtime has none is an error, not a comment."""
    RUNTIMES.find(name).example(tmp_path)
    (tmp_path / SETTINGS_FILE).write_text('{"options": {"device": "cuda:0"}}')

    with pytest.raises(ModelLoadFailed, match=f"options: device: unknown; known: {known}"):
        open_model(tmp_path, Trust())


def test_declared_tensors() -> None:
    """Tensors are declared as V2 describes them."""
    given = ({"name": "x", "datatype": "FP32", "shape": [-1, 4]},)

    assert options.specs(given, "inputs") == (TensorSpec("x", "FP32", (-1, 4)),)


@pytest.mark.parametrize(
    "given",
    [
        "x",
        {"name": "x", "datatype": "FP32"},
        {"name": "x", "datatype": "float", "shape": [-1]},
        {"name": "x", "datatype": "FP32", "shape": [0]},
        {"name": "x", "datatype": "FP32", "shape": ["rows"]},
        {"name": "x", "datatype": "FP32", "shape": [-1], "data": []},
    ],
)
def test_wrong_tensors_are_refused(given: object) -> None:
    """A declared tensor that V2 could not describe is refused with an example of one that it can."""
    with pytest.raises(ModelLoadFailed, match=r'expected a tensor such as \{"name": "x"'):
        options.specs((given,), "inputs")
