"""Which file of a directory is the model, and which runtime reads it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from inference.directory import open_model
from inference.errors import ModelLoadFailed
from inference.runtime import RUNTIMES
from inference.settings import Trust
from streams.errors import UnknownPlugin


def _example(name: str, directory: Path) -> Path:
    RUNTIMES.find(name).example(directory)
    (path,) = directory.iterdir()
    return path


@pytest.mark.parametrize(
    ("runtime", "name"),
    [
        ("xgboost", "model.bst"), ("xgboost", "booster.ubj"), ("lightgbm", "model.bst"), ("lightgbm", "model.lgb"),
        ("lightgbm", "trees.txt"), ("sklearn", "pipeline.skops"),
    ],
)  # fmt: skip
def test_file_names_of_kserve(tmp_path: Path, runtime: str, name: str) -> None:
    """Endings that two libraries share are told apart by content; the stem is free when nothing is called model."""
    _example(runtime, tmp_path).rename(tmp_path / name)
    loaded = open_model(tmp_path, Trust())

    assert loaded.platform.startswith(runtime)
    assert len(loaded.predict({"x": np.ones((2, 4))})["output-0"]) == 2


def test_other_files_are_no_models(tmp_path: Path) -> None:
    """Notes, requirements and foreign settings beside the model do not count as candidates."""
    _example("lightgbm", tmp_path)
    for name, text in (("requirements.txt", "numpy"), ("meta.json", "{}"), (".hidden.skops", ""), ("notes.md", "")):
        (tmp_path / name).write_text(text)

    assert open_model(tmp_path, Trust()).platform == "lightgbm_booster"


def test_two_models_are_refused(tmp_path: Path) -> None:
    """Two candidates are an error that names both, unless the runtime is named."""
    _example("lightgbm", tmp_path)
    RUNTIMES.find("sklearn").example(tmp_path)

    with pytest.raises(
        ModelLoadFailed, match=r"got model\.skops \(sklearn_estimator\), model\.txt \(lightgbm_booster\)"
    ):
        open_model(tmp_path, Trust())
    assert open_model(tmp_path, Trust(), "lightgbm").platform == "lightgbm_booster"


def test_no_model_is_refused(tmp_path: Path) -> None:
    """A directory without a candidate is an error that says what was expected and what is there."""
    (tmp_path / "weights.bin").touch()

    with pytest.raises(ModelLoadFailed, match=r"expected a model file \(.*\.skops.*\), got weights\.bin"):
        open_model(tmp_path, Trust())
    with pytest.raises(ModelLoadFailed, match="no such directory"):
        open_model(tmp_path / "absent", Trust())


def test_unknown_runtime_is_refused(tmp_path: Path) -> None:
    """A runtime that no file carries is refused with the known ones."""
    with pytest.raises(UnknownPlugin, match=r"known: .*lightgbm, .*sklearn, .*xgboost"):
        open_model(tmp_path, Trust(), "prophet")
