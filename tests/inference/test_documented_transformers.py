"""docs/transformers.md: its class answers, its settings and manifest are accepted, its tables are complete."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

import numpy as np

from deploy.commands import predictor
from deploy.manifests import load_services
from inference.directory import open_model
from inference.runtime import RUNTIMES
from inference.settings import SETTINGS_FILE, Trust
from tests.documented import ROOT

_TEXT = (ROOT / "docs" / "transformers.md").read_text()


def _blocks(language: str) -> list[str]:
    return re.findall(rf"(?s)```{language}\n(.*?)```", _TEXT)


def test_the_class_and_the_settings_belong_together(tmp_path: Path) -> None:
    """The class that is shown, with the settings that are shown, answers around scikit-learn's example."""
    RUNTIMES.find("sklearn").example(tmp_path)
    (tmp_path / "transformer.py").write_text(_blocks("python")[0])
    (tmp_path / SETTINGS_FILE).write_text(_blocks("json")[0])
    runtime = open_model(tmp_path, Trust(code=True))

    assert runtime.predict({"x": np.array([[66.0, 30.0, 56.0, 20.0]])})["kind"].tolist() == ["virginica"]


def test_the_lookup_is_the_examples(tmp_path: Path) -> None:
    """What is shown of the feature store stands in the example, and can be loaded."""
    shown, example = _blocks("json")[1], (ROOT / "examples" / "features" / SETTINGS_FILE).read_text()
    (tmp_path / SETTINGS_FILE).write_text(shown)
    RUNTIMES.find("sklearn").example(tmp_path)

    assert json.loads(shown) == json.loads(example)
    assert open_model(tmp_path, Trust(code=True)).max_batch == 1


def test_the_manifest_has_a_transformer(tmp_path: Path) -> None:
    """The manifest is read whole: nothing in it is without effect."""
    path = tmp_path / "service.yaml"
    path.write_text(_blocks("yaml")[0])
    (service,) = load_services([path])

    assert service.ignored == ()
    assert service.transformer is not None
    assert service.transformer.logger is not None


def test_every_flag_is_named() -> None:
    """Each of KServe's flags for the predictor behind has its line."""
    parser = argparse.ArgumentParser()
    predictor.add_arguments(parser)
    words = re.findall(r"--(?:enable_)?predictor_\w+", parser.format_help())

    assert words
    assert [word for word in words if f"| `{word}` |" not in _TEXT] == []
