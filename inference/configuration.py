"""A loaded model in the words of Triton's model configuration, as far as they say something of it. Pure.

Only said, never read: how a model is served stands in its `sidelight.json`. The names are those of the extension's
ModelConfig, whose JSON HTTP gives as it is and gRPC as a message (`inference/protocol/grpc_triton.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from inference.batching.lane import usual_batch
from inference.folders import Loaded
from inference.runtime import ANY, TensorSpec

_TYPES: Final = {"BYTES": "TYPE_STRING"}
_NO_FORMAT: Final = "FORMAT_NONE"
_IMAGE: Final = 3
_CHANNELS: Final = frozenset({1, 3})


def of(
    name: str,
    loaded: Loaded,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    *,
    numbered: bool,
    text: bool = False,
) -> dict[str, Any]:
    """Describe a model.

    Args:
        name: its name.
        loaded: the version that is asked about.
        inputs: what it takes.
        outputs: what it gives.
        numbered: whether it has numbered versions, all of which may be asked for.
        text: whether it makes text.
    """
    rows = usual_batch(loaded)
    if rows > 1 and not (inputs and all(spec.shape[:1] == (ANY,) for spec in (*inputs, *outputs))):
        rows = 1
    platform = loaded.runtime.platform
    found: dict[str, Any] = {
        "name": name,
        "platform": platform,
        "backend": platform.partition("_")[0],
        "version_policy": {"all": {}} if numbered else {"latest": {"num_versions": 1}},
        # As Triton has it: 0 says that there is no dimension of rows that calls are joined by.
        "max_batch_size": rows if rows > 1 else 0,
        "input": [_input(spec, _dims(spec, rows)) for spec in inputs],
        "output": [_output(spec, _dims(spec, rows)) for spec in outputs],
    }
    if rows > 1:
        found["dynamic_batching"] = {
            "preferred_batch_size": list(loaded.settings.pad_to),
            "max_queue_delay_microseconds": round(loaded.settings.max_latency_ms * 1_000),
        }
    if text or loaded.runtime.streams():
        found["model_transaction_policy"] = {"decoupled": True}
    return found


def _dims(spec: TensorSpec, rows: int) -> list[int]:
    return list(spec.shape[1:] if rows > 1 else spec.shape)


def _input(spec: TensorSpec, dims: list[int]) -> dict[str, Any]:
    return {"name": spec.name, "data_type": _type(spec), "format": _format(spec), "dims": dims}


def _output(spec: TensorSpec, dims: list[int]) -> dict[str, Any]:
    return {"name": spec.name, "data_type": _type(spec), "dims": dims}


def _type(spec: TensorSpec) -> str:
    return _TYPES.get(spec.datatype, f"TYPE_{spec.datatype}")


def _format(spec: TensorSpec) -> str:
    """Say how an image lies, where the sizes show it: one or three channels before or after two larger dimensions.

    Model files do not say it, but Triton's image clients ask for it.
    """
    sizes = spec.shape[-_IMAGE:]
    if len(spec.shape) not in {_IMAGE, _IMAGE + 1} or spec.datatype == "BYTES":
        return _NO_FORMAT
    first, last = sizes[0] in _CHANNELS, sizes[-1] in _CHANNELS
    if first == last:
        return _NO_FORMAT
    return "FORMAT_NCHW" if first else "FORMAT_NHWC"
