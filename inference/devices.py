"""Which loaded models stay in GPUs' memory: a bound and an order of their own, beside those of the process.

The weights are what the models' runtimes say, and exact. Used by `inference/stock.py`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable
from typing import TypeVar

from inference.residency import Residents, Shortage, Unload

K = TypeVar("K")


def in_the_way(held: Iterable[tuple[K, Collection[str]]], full: str) -> list[K]:
    """Give the models that may make room on a full device when they go, in the order in which they are held.

    Args:
        held: each with the devices whose memory it holds; none: it does not say which.
        full: the device; empty: it is not known which one is full.
    """
    return [key for key, devices in held if not full or not devices or full in devices]


class OnDevice(Residents[K]):
    """The models that hold memory of a GPU, by when they were last used."""

    def __init__(
        self, limit: int, evict: Callable[[K], Unload | None], devices: Callable[[K], Collection[str]],
        shortage: Shortage,
    ) -> None:  # fmt: skip
        """Keep the models within `limit` bytes of all devices together; 0 keeps everything. See `Residents`.

        `devices` names those whose memory a model holds.
        """
        super().__init__(limit, evict, measure=lambda: self.total, trim=lambda: None, shortage=shortage)
        self._devices = devices

    def used(self, key: K) -> None:
        """Note a use, also without a bound: a device may be full. Called for every prediction: no lock."""
        if key in self._order:
            with contextlib.suppress(KeyError):
                self._order.move_to_end(key)

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
        while (unload := self._evict_excess()) is not None:
            unload()

    def evict_idle(self, full: str) -> bool:
        """Unload the model on a full device that was not used for longest; False when all of them are in use."""
        with self._changed:
            found = in_the_way([(key, self._devices(key)) for key in self.held()], full)
            gone = (self._take_away(key, self._order.pop(key)) for key in found)
            unload = next((unload for unload in gone if unload is not None), None)
        if unload is None:
            return False
        unload()
        return True

    def steer(self) -> None:
        """Do nothing: there are no estimates to correct."""

    def _evict_excess(self) -> Unload | None:
        with self._changed:
            return self._evict_one() if self._limit and self._staying > self._limit else None

    def _fits(self, weight: int) -> bool:
        return self._total + self._coming + weight <= self._limit
