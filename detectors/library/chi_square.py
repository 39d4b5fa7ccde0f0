"""Drift of categorical features: two-sample chi-square against the reference, per feature, on tumbling windows."""

from __future__ import annotations

from typing import ClassVar, Self

from detectors import examples
from detectors.base import Finding, Rows, Setup
from detectors.two_sample import ChiSquare, judge
from detectors.windows import Windowed


class ChiSquareDrift(Windowed):
    """Alarm when a categorical feature's shares in a window differ from the reference's."""

    family: ClassVar[str] = "drift"
    suits: ClassVar[tuple[str, ...]] = ("categorical",)

    def __init__(self, setup: Setup, *, window: int = 1_000) -> None:
        super().__init__(setup, window=window)
        self._tests = {column.name: ChiSquare(setup.reference[column.name], window) for column in setup.columns}

    @classmethod
    def example(cls) -> Self:
        """Build one over `c`."""
        return cls(examples.setup("c", false_alarms=100), window=500)

    def test(self, rows: Rows, elapsed_us: int) -> list[Finding]:
        """Test every feature."""
        return judge(self.setup, dict(self._tests), rows, elapsed_us, "feature")
