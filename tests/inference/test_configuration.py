"""Models in the words of Triton's model configuration."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from inference import configuration
from inference.folders import Loaded
from inference.runtime import TensorSpec
from inference.settings import ModelSettings
from tests.inference.halves import Halves

ROWS = TensorSpec("x", "FP32", (-1, 4))
LABEL = TensorSpec("label", "BYTES", (-1,))


class _Many(Halves):
    max_batch = 32


def _config(runtime: Halves, inputs: tuple[TensorSpec, ...], settings: ModelSettings | None = None) -> dict[str, Any]:
    return configuration.of("m", Loaded(runtime, "1", settings or ModelSettings()), inputs, (LABEL,), numbered=False)


def test_a_model_that_joins_calls() -> None:
    """The first dimension is the batch, as Triton has it; what batching does is said."""
    assert _config(_Many(), (ROWS,), ModelSettings(max_latency_ms=1.5)) == {
        "name": "m",
        "platform": "test_halves",
        "backend": "test",
        "version_policy": {"latest": {"num_versions": 1}},
        "max_batch_size": 32,
        "input": [{"name": "x", "data_type": "TYPE_FP32", "format": "FORMAT_NONE", "dims": [4]}],
        "output": [{"name": "label", "data_type": "TYPE_STRING", "dims": []}],
        "dynamic_batching": {"preferred_batch_size": [], "max_queue_delay_microseconds": 1_500},
    }


def test_a_model_that_joins_none() -> None:
    """All dimensions are the tensor's own."""
    found = _config(Halves(), (ROWS,))

    assert (found["max_batch_size"], found["input"][0]["dims"], found["output"][0]["dims"]) == (0, [-1, 4], [-1])
    assert "dynamic_batching" not in found


def test_shapes_without_rows_are_no_batches() -> None:
    """However many rows the settings allow."""
    found = _config(_Many(), (replace(ROWS, shape=(3, 4)),))

    assert (found["max_batch_size"], found["input"][0]["dims"]) == (0, [3, 4])


def test_settings_beat_the_runtime() -> None:
    """`max_batch` and `pad_to` are what the batcher goes by."""
    assert _config(_Many(), (ROWS,), ModelSettings(max_batch=7))["max_batch_size"] == 7
    padded = _config(_Many(), (ROWS,), ModelSettings(pad_to=(2, 8)))
    assert padded["max_batch_size"] == 8
    assert padded["dynamic_batching"]["preferred_batch_size"] == [2, 8]


def test_versions_and_texts() -> None:
    """All numbered versions answer; a text comes in pieces."""
    found = configuration.of("m", Loaded(Halves(), "2"), (), (), numbered=True, text=True)

    assert found["version_policy"] == {"all": {}}
    assert found["model_transaction_policy"] == {"decoupled": True}


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((-1, 3, 224, 224), "FORMAT_NCHW"),
        ((3, 224, 224), "FORMAT_NCHW"),
        ((-1, 299, 299, 3), "FORMAT_NHWC"),
        ((-1, 28, 28, 1), "FORMAT_NHWC"),
        ((-1, 3, 5, 3), "FORMAT_NONE"),
        ((-1, 10, 10, 10), "FORMAT_NONE"),
        ((-1, 3), "FORMAT_NONE"),
    ],
)
def test_images_say_how_they_lie(shape: tuple[int, ...], expected: str) -> None:
    """By their channels; where both ends could be those, nothing is said."""
    assert _config(_Many(), (TensorSpec("x", "FP32", shape),))["input"][0]["format"] == expected
