"""Drift of numeric features: two-sample Kolmogorov-Smirnov against the reference, per feature, on tumbling windows."""

from __future__ import annotations

from typing import ClassVar, Self

from detectors import examples
from detectors.base import Finding, Rows, Setup
from detectors.two_sample import KolmogorovSmirnov, judge
from detectors.windows import Windowed


class Ks(Windowed):
    """Alarm when a numeric feature's distribution in a window differs from the reference's."""

    family: ClassVar[str] = "drift"
    suits: ClassVar[tuple[str, ...]] = ("numeric",)

    def __init__(self, setup: Setup, *, window: int = 1_000) -> None:
        super().__init__(setup, window=window)
        self._tests = {column.name: KolmogorovSmirnov(setup.reference[column.name]) for column in setup.columns}

    @classmethod
    def example(cls) -> Self:
        """Build one over `x` and `y`."""
        return cls(examples.setup("x", "y"), window=200)

    def test(self, rows: Rows, elapsed_us: int) -> list[Finding]:
        """Test every feature."""
        return judge(self.setup, dict(self._tests), rows, elapsed_us, "feature")
