"""The models that Triton's published client examples expect, as custom classes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[Any]]


def _tensors(names: tuple[str, ...], datatype: str, shape: list[int]) -> list[dict[str, Any]]:
    return [{"name": name, "datatype": datatype, "shape": shape} for name in names]


class AddSub:
    """Sum and difference of two rows of 16 numbers."""

    max_batch = 8
    thread_safe = True

    def __init__(self, datatype: str) -> None:
        self.inputs = _tensors(("INPUT0", "INPUT1"), datatype, [-1, 16])
        self.outputs = _tensors(("OUTPUT0", "OUTPUT1"), datatype, [-1, 16])
        self._texts = datatype == "BYTES"

    def predict(self, inputs: Arrays) -> Arrays:
        """Compute; texts are numbers written out."""
        one, two = inputs["INPUT0"], inputs["INPUT1"]
        if not self._texts:
            return {"OUTPUT0": one + two, "OUTPUT1": one - two}
        one, two = one.astype(np.int64), two.astype(np.int64)
        return {"OUTPUT0": (one + two).astype(str), "OUTPUT1": (one - two).astype(str)}


class Identity:
    """Gives back what it gets, texts to the byte."""

    takes_bytes = True
    thread_safe = True

    def __init__(self, datatype: str) -> None:
        self.inputs = _tensors(("INPUT0",), datatype, [-1, -1])
        self.outputs = _tensors(("OUTPUT0",), datatype, [-1, -1])

    def predict(self, inputs: Arrays) -> Arrays:
        """Give it back."""
        return {"OUTPUT0": inputs["INPUT0"]}


class Files:
    """Scores image files, as far as their bytes say something."""

    takes_bytes = True
    max_batch = 4

    def __init__(self) -> None:
        self.inputs = _tensors(("INPUT",), "BYTES", [-1, 1])
        self.outputs = _tensors(("OUTPUT",), "FP32", [-1, 4])

    def predict(self, inputs: Arrays) -> Arrays:
        """Give how often each value modulo four is there."""
        files = [np.frombuffer(file, np.uint8) for file in inputs["INPUT"][:, 0]]
        return {"OUTPUT": np.array([np.bincount(file % 4, minlength=4) / file.size for file in files], np.float32)}


class Repeat:
    """Answers once for each number that it gets."""

    def __init__(self) -> None:
        self.inputs = _tensors(("IN",), "INT32", [-1])
        self.inputs += _tensors(("DELAY",), "UINT32", [-1]) + _tensors(("WAIT",), "UINT32", [1])
        self.outputs = _tensors(("OUT",), "INT32", [1])

    def stream(self, inputs: Arrays) -> Iterator[Arrays]:
        """Give them one by one, and fail at what is below zero."""
        for number in inputs["IN"]:
            if number < 0:
                raise ValueError("below zero")
            yield {"OUT": np.array([number], np.int32)}


class Sequence:
    """A number of a sequence, one more for the first; how it goes on is the kind's."""

    def __init__(self, kind: str) -> None:
        self.inputs = _tensors(("INPUT",), "INT32", [-1, 1])
        self.outputs = _tensors(("OUTPUT",), "INT32", [-1, 1])
        self._kind = kind
        self._sums: dict[str, int] = {}

    def predict(self, inputs: Arrays, parameters: Mapping[str, Any]) -> Arrays:
        """Answer one; `named` sums a sequence up, and `dynamic` adds its number to the last."""
        sequence, value = str(parameters["sequence_id"]), int(inputs["INPUT"].item())
        first, last = parameters["sequence_start"], parameters["sequence_end"]
        if self._kind == "named":
            self._sums[sequence] = value = value + (0 if first else self._sums[sequence])
        elif first:
            value += 1
        if last and self._kind != "plain":
            value += int(sequence)
        if last:
            self._sums.pop(sequence, None)
        return {"OUTPUT": np.array([[value]], np.int32)}
