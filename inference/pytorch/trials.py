"""How a PyTorch model is tried when it is loaded: on zeros, from which its outputs' names and sizes are seen.

Imports no torch. Used by `inference/runtimes/torch.py`.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from inference.errors import ModelLoadFailed
from inference.protocol.datatypes import NUMPY, datatype_of
from inference.runtime import ANY, TensorSpec

TRIALS: Final = ((2, 16), (3, 24))
"""Rows, and the size of every other free dimension, of the calls that a model is tried with."""


def named(result: Any, names: tuple[str, ...]) -> dict[str, Any]:  # noqa: ANN401 - the model's
    """Name what a model gives, as it does, or by its place."""
    if isinstance(result, Mapping):
        return dict(result)
    if isinstance(result, tuple) and hasattr(result, "_fields"):
        return dict(zip(result._fields, result, strict=True))
    several = list(result) if isinstance(result, (list, tuple)) else [result]
    if not names:
        names = tuple(f"output-{at}" for at in range(len(several)))
    if len(names) != len(several):
        raise ModelLoadFailed(f"options: outputs: {len(names)} are named, the model gives {len(several)}")
    return dict(zip(names, several, strict=True))


def zeros(spec: TensorSpec, rows: int, size: int) -> NDArray[Any]:
    """Give zeros for an input; free sizes as said."""
    shape = [size if each == ANY else each for each in spec.shape]
    if spec.shape[:1] == (ANY,):
        shape[0] = rows
    return np.zeros(shape, NUMPY[spec.datatype])


def cut(shape: tuple[int, ...], longest: int | None) -> tuple[int, ...]:
    """Give a shape with no size but the first above the longest."""
    return shape if longest is None else (*shape[:1], *(min(size, longest) for size in shape[1:]))


def described(name: str, one: NDArray[Any], other: NDArray[Any]) -> TensorSpec:
    """Describe an output of which two were seen: what differs follows the inputs."""
    shape = tuple(size if size == also else ANY for size, also in itertools.zip_longest(one.shape, other.shape))
    return TensorSpec(name, datatype_of(one), shape)
