"""A model directory's settings: what they accept, and that each one acts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from inference.directory import holds_model, open_model
from inference.errors import ModelLoadFailed
from inference.modelsettings import read_model_settings
from inference.runtime import RUNTIMES, Runtime
from inference.settings import SETTINGS_FILE, ModelSettings, QueueLimit, Trust


def _with(directory: Path, text: str, runtime: str = "sklearn") -> Runtime:
    RUNTIMES.find(runtime).example(directory)
    (directory / SETTINGS_FILE).write_text(text)
    return open_model(directory, Trust())


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "no valid JSON"),
        ("[]", "expected a JSON object, got list"),
        ('{"outputs": "predict"}', "unknown key 'outputs'; known: runtime, features, output, output_name"),
        ('{"trusted": "yes"}', "unknown key 'trusted'"),
        ('{"features": "a,b"}', "features: expected a list of names"),
        ('{"features": [1]}', "features: expected a list of names"),
        ('{"output": 3}', "output: expected a text, got 3"),
        ('{"datatype": "INT8"}', "datatype: expected FP32 or FP64, got 'INT8'"),
        ('{"version": ""}', "version: expected a text"),
        ('{"max_batch": 0}', "max_batch: expected a whole number from 1 up, got 0"),
        ('{"max_batch": true}', "max_batch: expected a whole number from 1 up, got True"),
        ('{"max_latency_ms": -1}', "max_latency_ms: expected milliseconds from 0 to 10000, got -1"),
        ('{"pad_to": []}', "pad_to: expected an ascending list of whole numbers from 1 up, got []"),
        ('{"pad_to": [4, 2]}', "pad_to: expected an ascending list"),
        ('{"pad_to": ["4"]}', "pad_to: expected an ascending list"),
        ('{"pad_to": [1, 4], "max_batch": 8}', "max_batch: expected at most 4, the last of pad_to, got 8"),
        ('{"parallel": 1.5}', "parallel: expected a whole number from 1 up, got 1.5"),
        ('{"queue": 5}', "queue: expected an object, got 5"),
        ('{"queue": {"rows": 5}}', "queue: unknown key 'rows'; known: calls, bytes"),
        ('{"queue": {"calls": -1}}', "queue: calls and bytes: expected a whole number from 0 up"),
        ('{"runtime": "os:system"}', "runtime: expected a runtime's name; a class from outside is named by --runtime"),
        ('{"options": []}', "options: expected an object, got []"),
    ],
)
def test_wrong_settings_are_refused(tmp_path: Path, text: str, says: str) -> None:
    """Unknown keys and wrong types are refused with the file, the key, expected and got."""
    (tmp_path / SETTINGS_FILE).write_text(text)

    with pytest.raises(ModelLoadFailed) as caught:
        read_model_settings(tmp_path)
    assert says in str(caught.value)
    assert SETTINGS_FILE in str(caught.value)


def test_defaults_without_a_file(tmp_path: Path) -> None:
    """A directory without settings gets the defaults."""
    assert read_model_settings(tmp_path) == ModelSettings()


def test_runtime_acts(tmp_path: Path) -> None:
    """The settings name a runtime that is never guessed; what the operator names wins over it."""
    directory = tmp_path / "model"
    directory.mkdir()
    inputs = RUNTIMES.find("custom").example(directory)

    with pytest.raises(ModelLoadFailed, match="expected a model file"):
        open_model(directory, Trust(code=True))
    assert not holds_model(directory)
    (directory / SETTINGS_FILE).write_text('{"runtime": "python"}')
    assert holds_model(directory)
    assert len(open_model(directory, Trust(code=True)).predict(inputs)["kind"]) == 150
    with pytest.raises(ModelLoadFailed, match="expected a model file"):
        open_model(directory, Trust(code=True), "sklearn")


def test_output_name_acts(tmp_path: Path) -> None:
    """The output tensor carries the configured name, in the metadata too."""
    runtime = _with(tmp_path, '{"output_name": "score"}')

    assert list(runtime.predict({"x": np.ones((1, 4))})) == ["score"]
    assert runtime.outputs[0].name == "score"


@pytest.mark.parametrize(
    ("runtime", "output", "shape"), [("sklearn", "predict_proba", (5, 3)), ("sklearn", "raw", (5, 3))]
)
def test_output_acts(tmp_path: Path, runtime: str, output: str, shape: tuple[int, ...]) -> None:
    """Another output of the model is served when asked for."""
    loaded = _with(tmp_path, f'{{"output": "{output}"}}', runtime)

    assert loaded.predict({"x": np.ones((5, 4))})["output-0"].shape == shape
    assert loaded.outputs[0].datatype == "FP64"


@pytest.mark.parametrize("runtime", ["lightgbm", "xgboost"])
def test_raw_output_acts(tmp_path: Path, runtime: str) -> None:
    """Boosters give margins instead of probabilities when asked for."""
    rows = {"x": np.ones((2, 4))}
    folders = tmp_path / "plain", tmp_path / "raw"
    for folder in folders:
        folder.mkdir()
    plain = _with(folders[0], "{}", runtime).predict(rows)["output-0"]
    raw = _with(folders[1], '{"output": "raw"}', runtime).predict(rows)["output-0"]
    expected = np.exp(raw) / np.exp(raw).sum(axis=1, keepdims=True)

    np.testing.assert_allclose(plain, expected, rtol=1e-5)
    assert not np.allclose(plain, raw)


@pytest.mark.parametrize("runtime", ["lightgbm", "sklearn", "xgboost"])
def test_unknown_output_is_refused(tmp_path: Path, runtime: str) -> None:
    """An output that the model does not have is refused at load, naming those that it has."""
    with pytest.raises(ModelLoadFailed, match=r"output: expected one of predict, .*, got 'shap'"):
        _with(tmp_path, '{"output": "shap"}', runtime)


def test_features_act(tmp_path: Path) -> None:
    """Named columns are put into the configured order, not taken in the caller's."""
    runtime = _with(tmp_path, '{"features": ["a", "b", "c", "d"], "output": "predict_proba"}', "sklearn")
    row = np.array([[5.0, 3.4, 1.5, 0.2]])
    columns = {name: row[:, index] for index, name in enumerate("abcd")}
    shuffled = {name: columns[name] for name in "cadb"}

    np.testing.assert_array_equal(runtime.predict(shuffled)["output-0"], runtime.predict({"x": row})["output-0"])


def test_wrong_number_of_features_is_refused(tmp_path: Path) -> None:
    """As many names as the model has columns, or none."""
    with pytest.raises(ModelLoadFailed, match="the model takes 4 columns, 2 are named"):
        _with(tmp_path, '{"features": ["a", "b"]}', "xgboost")


def test_datatype_acts(tmp_path: Path) -> None:
    """FP32 casts what the model sees, and the metadata says so."""
    runtime = _with(tmp_path, '{"datatype": "FP32", "output": "raw"}')
    rows = np.array([[5.0, 3.4, 1.5, 0.2]])
    rounded = rows.astype(np.float32).astype(np.float64)

    assert runtime.inputs[0].datatype == "FP32"
    assert (rows != rounded).any()
    np.testing.assert_array_equal(runtime.predict({"x": rows})["output-0"], runtime.predict({"x": rounded})["output-0"])


def test_version_acts(tmp_path: Path) -> None:
    """The configured version is read for the repository."""
    (tmp_path / SETTINGS_FILE).write_text('{"version": "2024-05"}')

    assert read_model_settings(tmp_path).version == "2024-05"


def test_batching_settings_are_read(tmp_path: Path) -> None:
    """What they do is shown in tests/inference/batching."""
    (tmp_path / SETTINGS_FILE).write_text(
        '{"max_batch": 8, "max_latency_ms": 1.5, "pad_to": [1, 4, 8], "parallel": 2, "queue": {"calls": 10}}'
    )

    assert read_model_settings(tmp_path) == ModelSettings(
        max_batch=8, max_latency_ms=1.5, pad_to=(1, 4, 8), parallel=2, queue=QueueLimit(calls=10)
    )
