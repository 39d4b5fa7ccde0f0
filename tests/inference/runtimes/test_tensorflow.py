"""What only the TensorFlow runtime promises: a SavedModel's signatures, numbers and text, and only when trusted."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from inference.directory import open_model
from inference.errors import InvalidInput, ModelLoadFailed, UnsafeFormat
from inference.runtime import ANY, RUNTIMES, Runtime, TensorSpec
from inference.settings import SETTINGS_FILE, Trust

if importlib.util.find_spec("tensorflow") is None:
    pytest.skip(
        "TensorFlow is not here: `make test` runs these in an environment of their own",
        allow_module_level=True,
    )

import tensorflow as tf

_TRUST = Trust(code=True)


def _save(directory: Path, **functions: tuple[Callable[..., Any], dict[str, Any]]) -> None:
    model = tf.Module()
    model.one = tf.Variable(1.0)
    signatures = {
        name: tf.function(
            function,
            input_signature=[tf.TensorSpec(shape, dtype, name=key) for key, (shape, dtype) in taken.items()],
            autograph=False,
        )
        for name, (function, taken) in functions.items()
    }
    tf.saved_model.save(model, str(directory), signatures=signatures)


def _open(directory: Path, **settings: Any) -> Runtime:  # noqa: ANN401 - JSON
    (directory / SETTINGS_FILE).write_bytes(orjson.dumps(settings))
    return open_model(directory, _TRUST)


def test_programs_can_write_files_so_they_need_trust(tmp_path: Path) -> None:
    """A SavedModel writes a file when it predicts, which is why it is refused until it is trusted."""
    planted = tmp_path / "planted"

    def plant(x: Any) -> Any:  # noqa: ANN401 - a tensor
        with tf.control_dependencies([tf.io.write_file(str(planted), "planted")]):
            return {"y": x + 1}

    _save(tmp_path, serving_default=(plant, {"x": ([None], tf.float32)}))

    with pytest.raises(UnsafeFormat, match=r"saved_model\.pb: .* can read and write files; .*--trusted"):
        open_model(tmp_path, Trust())
    assert not planted.exists()
    open_model(tmp_path, _TRUST).predict({"x": np.ones(1)})
    assert planted.exists()


def test_signatures_say_what_they_take(tmp_path: Path) -> None:
    """Numbers and text by the signature's names, types and sizes; what the graph refuses is the caller's mistake."""

    def serve(x: Any, text: Any) -> Any:  # noqa: ANN401 - tensors
        return {
            "sum": tf.reduce_sum(x, axis=1),
            "half": tf.cast(x, tf.bfloat16),
            "text": tf.strings.join([text, "!"]),
            "looked": tf.gather(tf.constant([1, 2, 3]), tf.cast(x[:, 0], tf.int32)),
        }

    _save(tmp_path, serving_default=(serve, {"x": ([None, 2], tf.float32), "text": ([None], tf.string)}))
    runtime = _open(tmp_path)
    inputs = {"text": np.array(["a", "é"], object), "x": np.array([[1, 2], [0, 4]])}
    got = runtime.predict(inputs)

    assert got["sum"].tolist() == [3.0, 4.0]
    assert got["text"].tolist() == ["a!", "é!"]
    assert got["half"].dtype == np.float32
    assert got["looked"].tolist() == [2, 1]
    assert set(runtime.inputs) == {TensorSpec("x", "FP32", (ANY, 2)), TensorSpec("text", "BYTES", (ANY,))}
    assert set(runtime.outputs) == {
        TensorSpec("sum", "FP32", (ANY,)), TensorSpec("half", "FP32", (ANY, 2)),
        TensorSpec("text", "BYTES", (ANY,)), TensorSpec("looked", "INT32", (ANY,)),
    }  # fmt: skip
    assert runtime.max_batch > 1
    with pytest.raises(InvalidInput, match=r"^inputs: indices\[0\] = 7 is not in \[0, 3\)"):
        runtime.predict({**inputs, "x": np.array([[7, 0], [0, 0]])})
    with pytest.raises(InvalidInput, match=r"input 'x': expected shape \[rows, 2\], got \[2, 3\]"):
        runtime.predict({**inputs, "x": np.ones((2, 3))})


def test_options_choose_the_signature(tmp_path: Path) -> None:
    """Another signature is served when the settings name it; an unknown one is refused with those that there are."""

    def add(x: Any) -> Any:  # noqa: ANN401 - a tensor
        return {"y": x + 1}

    def any_shape(x: Any) -> Any:  # noqa: ANN401 - a tensor
        return {"y": x * 2}

    _save(tmp_path, serving_default=(add, {"x": ([None], tf.float32)}), double=(any_shape, {"x": (None, tf.float32)}))
    double = _open(tmp_path, options={"signature": "double"}, output_name="z")

    assert _open(tmp_path).predict({"instances": np.array([1, 2])})["y"].tolist() == [2.0, 3.0]
    assert double.predict({"x": np.ones((1, 2, 3))})["z"].tolist() == [[[2.0] * 3] * 2]
    assert (double.inputs, double.max_batch) == ((), 1)
    with pytest.raises(ModelLoadFailed, match="signature: expected one of serving_default, double, got 'half'"):
        _open(tmp_path, options={"signature": "half"})


def test_files_that_are_missing_are_refused(tmp_path: Path) -> None:
    """A model without its weights is refused at load."""
    RUNTIMES.find("tensorflow").example(tmp_path)
    for path in (tmp_path / "variables").iterdir():
        path.unlink()

    with pytest.raises(ModelLoadFailed, match=r"saved_model\.pb"):
        open_model(tmp_path, _TRUST)


def test_strings_are_bytes(tmp_path: Path) -> None:
    """A graph gets and gives whatever bytes a string holds, as images need it."""

    def joined(image: Any) -> Any:  # noqa: ANN401 - a tensor
        return {"image": tf.strings.join([image, image]), "size": tf.strings.length(image)}

    _save(tmp_path, serving_default=(joined, {"image": ([None], tf.string)}))
    runtime = _open(tmp_path)
    got = runtime.predict({"image": np.array([b"\xff\xd8", b"text"], object)})

    assert runtime.takes_bytes
    assert got["size"].tolist() == [2, 4]
    assert got["image"].tolist() == [b"\xff\xd8\xff\xd8", "texttext"]
