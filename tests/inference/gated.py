"""A runtime for tests, named on the command line as code from outside: predicts only once its gate is open.

The gate is a file `open` in the model directory; `fail` makes predictions raise, `crash` makes them end like sys.exit.
With a file `gpu` the model says that it holds memory of one, and with `lost` that the device does nothing any more. The
prediction is the sum of each row.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from inference.errors import DeviceLost
from inference.runtime import Arrays, Runtime, Source

DEADLINE_S = 120.0


class Gated(Runtime):
    """Sums rows behind a gate."""

    platform: ClassVar[str] = "test_gated"

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @classmethod
    def load(cls, source: Source) -> Self:
        """Take the directory as it is."""
        model = cls(source.path)
        model.device_bytes = int((source.path / "gpu").exists())
        return model

    def lost(self) -> str:
        """Say what became of the device."""
        return "the gate is lost" if (self.directory / "lost").exists() else ""

    def predict(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Wait for the gate, then sum."""
        until = time.monotonic() + DEADLINE_S
        while not (self.directory / "open").exists():
            if (self.directory / "fail").exists():
                raise RuntimeError("the gate fell")
            if self.lost():
                raise DeviceLost(self.lost())
            if (self.directory / "crash").exists():
                sys.exit("the gate crashed")
            if time.monotonic() > until:
                raise TimeoutError("the gate stayed shut")
            time.sleep(0.005)
        (array,) = inputs.values()
        return {"output-0": array.sum(axis=1), "rows": np.arange(len(array))}

    def explain(self, inputs: Arrays, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        """Explain a sum by its parts."""
        if (self.directory / "fail").exists():
            raise RuntimeError("the gate fell")
        (array,) = inputs.values()
        return {"explanations": array, **parameters}

    @classmethod
    def example(cls, directory: Path) -> dict[str, NDArray[Any]]:
        """Open the gate."""
        (directory / "open").touch()
        return {"input-0": np.ones((3, 2))}
