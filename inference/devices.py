"""Which loaded models stay in a GPU's memory: a bound and an order of their own, beside those of the process.

The weights are what the models' runtimes say, and exact. Used by `inference/stock.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from inference.residency import Residents, Shortage

K = TypeVar("K")


class OnDevice(Residents[K]):
    """The models that hold memory of a GPU, by when they were last used."""

    def __init__(self, limit: int, evict: Callable[[K], bool], shortage: Shortage) -> None:
        """Keep the models within `limit` bytes; 0 keeps everything. See `Residents`."""
        super().__init__(limit, evict, measure=lambda: self.total, trim=lambda: None, shortage=shortage)

    def takes(self, weight: int) -> bool:
        """Tell whether a model of this weight has room at all."""
        return not self._limit or weight <= self._limit

    def settle_found(self, key: K, reserved: int, weight: int) -> None:
        """Turn a reservation into a resident whose weight is known only now: others go for what it has more.

        Those in use stay, and the bound is exceeded until the next load finds them idle.
        """
        with self._changed:
            if weight or key in self._order:
                self.settle(key, reserved, weight)
            else:
                self.cancel(reserved)
            while self._limit and self._total > self._limit and self._evict_one():
                pass

    def steer(self) -> None:
        """Do nothing: there are no estimates to correct."""

    def _fits(self, weight: int) -> bool:
        return self._total + self._coming + weight <= self._limit
