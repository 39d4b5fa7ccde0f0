"""What `options` may say for a PyTorch model. Imports no torch. Used by `inference/runtimes/torch.py`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from inference.errors import ModelLoadFailed

HALVES: Final = {"FP16": "float16", "BF16": "bfloat16"}
TYPES: Final = {"": "", "FP32": "float32", **HALVES}
"""What `dtype` may be, and torch's names for it."""
# Those without CUDA graphs of the compiler's own, which are bound to one thread.
_MODES: Final = ("default", "max-autotune-no-cudagraphs")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a model is run."""

    device: str = "auto"
    """`cpu`, `cuda:N`, or `auto`: a GPU that PyTorch can use, else the CPU. Processes share the GPUs out."""
    dtype: str = ""
    """FP16 or BF16 compute in that type; inputs and outputs keep theirs, so that clients need not know.

    FP32 does so where a class's own type is another. Empty: as the model is.
    """
    compile: str = ""
    """A mode of torch.compile: `default` or `max-autotune-no-cudagraphs`. Takes seconds to minutes, at load."""
    cuda_graphs: bool = False
    """Record a prediction of each size in `pad_to` as one launch. For models whose Python does no more than launch."""
    model: str = ""
    """`module:Class` of the module that .safetensors or .pth weights belong to."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of that class."""
    inputs: tuple[Any, ...] = ()
    """What the model takes, where its file does not say: all but .pt2."""
    outputs: tuple[str, ...] = ()
    """Names of its outputs, in order, where it gives them without names."""


def check(given: Options, path: Path) -> None:
    """Refuse values that are none.

    Raises:
        ModelLoadFailed: one of them is not.
    """
    if given.dtype not in TYPES:
        raise ModelLoadFailed(f"{path}: options: dtype: expected FP32, FP16 or BF16, got {given.dtype!r}")
    if given.compile and given.compile not in _MODES:
        raise ModelLoadFailed(f"{path}: options: compile: expected one of {', '.join(_MODES)}, got {given.compile!r}")
