"""What Triton's clients may say of a model's settings when they have it loaded."""

from __future__ import annotations

from typing import Any

import pytest

from inference.adjustments import NONE, adjusted, read
from inference.errors import InvalidInput, ModelLoadFailed, Unsupported
from inference.folders import Loaded
from inference.settings import ModelSettings
from tests.inference.halves import Halves

LONG = "x" * 100_000


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ("{}", {}),
        ('{"name": "m"}', {}),
        ('{"max_batch_size": 16}', {"max_batch": 16}),
        ('{"max_batch_size": "16"}', {"max_batch": 16}),
        ('{"max_batch_size": 0}', {"max_batch": 1}),
        ('{"dynamic_batching": {}}', {}),
        ('{"dynamic_batching": {"max_queue_delay_microseconds": "1500"}}', {"max_latency_ms": 1.5}),
    ],
)
def test_what_has_a_counterpart_is_taken(config: str, expected: dict[str, Any]) -> None:
    """Whole numbers may be texts, as Protocol Buffers' JSON has them."""
    assert read("m", {"config": config}) == expected


def test_nothing_said_changes_nothing() -> None:
    """The model's own settings hold."""
    loaded = Loaded(Halves(), "1", ModelSettings(max_batch=4))

    assert adjusted(loaded, read("m", {})) is loaded
    assert adjusted(loaded, NONE) is loaded


def test_settings_are_replaced() -> None:
    """Those that were named, and only those."""
    loaded = Loaded(Halves(), "1", ModelSettings(max_batch=4, labels=("a",)))

    assert adjusted(loaded, {"max_batch": 9}).settings == ModelSettings(max_batch=9, labels=("a",))


def test_what_padding_forbids_is_refused() -> None:
    """As it is in the folder's own settings."""
    with pytest.raises(ModelLoadFailed, match="expected at most 8, the last of the model's pad_to"):
        adjusted(Loaded(Halves(), "1", ModelSettings(pad_to=(2, 8))), {"max_batch": 9})


@pytest.mark.parametrize("own", [ModelSettings(), ModelSettings(max_batch=1)])
def test_calls_that_are_never_joined_stay_so(own: ModelSettings) -> None:
    """Whoever may load a model must not mix rows that depend on each other: other callers' answers would be wrong."""
    with pytest.raises(ModelLoadFailed, match="calls of this model are never joined"):
        adjusted(Loaded(Halves(), "1", own), {"max_batch": 2})

    assert adjusted(Loaded(Halves(), "1", own), {"max_batch": 1}).settings.max_batch == 1


def test_what_is_refused_is_not_given_back_whole() -> None:
    """It may be as long as a body."""
    for config in (f'{{"name": "{LONG}"}}', f'{{"max_batch_size": "{LONG}"}}', f'{{"{LONG}": 1}}'):
        with pytest.raises((InvalidInput, Unsupported)) as caught:
            read("m", {"config": config})

        assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("parameters", "error", "says"),
    [
        ({"config": "{{"}, InvalidInput, "config: no JSON"),
        ({"config": "[]"}, InvalidInput, "config: expected an object, got list"),
        ({"config": b"{}"}, InvalidInput, "config: expected JSON in a text, got bytes"),
        ({"config": '{"name": "n"}'}, InvalidInput, "config: name: expected 'm', got 'n'"),
        ({"config": '{"max_batch_size": -1}'}, InvalidInput, "config: max_batch_size: expected a whole number"),
        ({"config": '{"max_batch_size": 1.5}'}, InvalidInput, "expected a whole number"),
        ({"config": '{"max_batch_size": true}'}, InvalidInput, "expected a whole number"),
        ({"config": '{"max_batch_size": 99999999999}'}, InvalidInput, "expected at most 2147483647"),
        ({"config": '{"dynamic_batching": 1}'}, InvalidInput, "dynamic_batching: expected an object of max_queue"),
        ({"config": '{"dynamic_batching": {"priority_levels": 2}}'}, InvalidInput, "expected an object of max_queue"),
        (
            {"config": '{"dynamic_batching": {"max_queue_delay_microseconds": 99999999}}'}, InvalidInput,
            "expected milliseconds from 0 to 10000",
        ),
        ({"config": '{"instance_group": []}'}, Unsupported, "config: 'instance_group' is not offered; offered: name"),
        ({"file:1/model.onnx": b"x"}, Unsupported, "failed to poll from model repository: 'file:1/model.onnx'"),
    ],
)  # fmt: skip
def test_all_else_is_refused(parameters: dict[str, Any], error: type[Exception], says: str) -> None:
    """With Triton's first words, and with what is wrong."""
    with pytest.raises(error, match="failed to load 'm'") as caught:
        read("m", parameters)

    assert says in str(caught.value)
