"""A runtime for tests, named on the command line as code from outside: the sum of each row, after a while.

How long it takes for each row is in milliseconds in the file `slow` of the model directory, if there is one. A file
`<directory>.stop` beside that holds a number: what comes after so many rows waits until the file is gone.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from inference.errors import InvalidInput
from inference.runtime import Arrays, Runtime, Source

SUMMING = "tests.inference.kafka.summing:Summing"


class Summing(Runtime):
    """Sums rows of numbers; refuses a row that holds a negative one."""

    platform: ClassVar[str] = "test_summing"
    max_batch = 64

    def __init__(self, directory: Path) -> None:
        slow = directory / "slow"
        self._pause_s = float(slow.read_text()) / 1000 if slow.exists() else 0.0
        self._stop, self._rows = stop(directory), 0

    @classmethod
    def load(cls, source: Source) -> Self:
        """Take the directory as it is."""
        return cls(source.path)

    def predict(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Sum."""
        table = np.column_stack([np.asarray(array, np.float64) for array in inputs.values()])
        time.sleep(self._pause_s * len(table))
        self._rows += len(table)
        while self._stop.exists() and self._rows > int(self._stop.read_text()):
            time.sleep(0.005)
        if (table < 0).any():
            raise InvalidInput("expected no negative number")
        return {"sum": table.sum(axis=1)}

    @classmethod
    def example(cls, directory: Path) -> dict[str, NDArray[Any]]:
        """Give rows; any directory will do."""
        del directory
        return {"input-0": np.ones((2, 3))}


def stop(directory: Path) -> Path:
    """Name the file that says after how many rows a model waits."""
    return directory.parent / f"{directory.name}.stop"
