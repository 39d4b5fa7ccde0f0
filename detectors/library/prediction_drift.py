"""Drift of what the model answers: the same two-sample tests on the outputs, which need neither features nor labels."""

from __future__ import annotations

from typing import ClassVar, Self

from detectors import examples
from detectors.base import Finding, Rows, Setup
from detectors.two_sample import column_test, judge
from detectors.windows import Windowed


class PredictionDrift(Windowed):
    """Alarm when an output's distribution in a window differs from the reference's."""

    family: ClassVar[str] = "drift"
    watches: ClassVar[str] = "outputs"

    def __init__(self, setup: Setup, *, window: int = 1_000) -> None:
        super().__init__(setup, window=window)
        self._tests = {
            column.name: column_test(column, setup.reference[column.name], window) for column in setup.columns
        }

    @classmethod
    def example(cls) -> Self:
        """Build one over `score`."""
        return cls(examples.setup("score"), window=500)

    def test(self, rows: Rows, elapsed_us: int) -> list[Finding]:
        """Test every output."""
        return judge(self.setup, dict(self._tests), rows, elapsed_us, "output")
