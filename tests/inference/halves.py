"""A runtime for tests, named on the command line as code from outside: gives its input back in half precision."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from inference.runtime import Arrays, Runtime, Source


class Halves(Runtime):
    """Rounds."""

    platform: ClassVar[str] = "test_halves"

    @classmethod
    def load(cls, source: Source) -> Self:
        """Need nothing."""
        del source
        return cls()

    def predict(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Round the only input; give it unrounded, too."""
        (array,) = inputs.values()
        return {"half": array.astype(np.float16), "whole": array}

    @classmethod
    def example(cls, directory: Path) -> dict[str, NDArray[Any]]:
        """Give a row; there is nothing to save."""
        del directory
        return {"input-0": np.ones((1, 2))}
