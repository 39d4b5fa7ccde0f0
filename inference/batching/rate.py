"""How fast calls are done, as measured: what a refused caller is told about when to come again. Pure: time comes in."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

_MEMORY_S: Final = 5.0
_LONGEST_S: Final = 60
_GRAIN_S: Final = 0.05


@dataclass(slots=True)
class Rate:
    """Calls per second over the last few seconds, the latest counting most."""

    _weight: float = 0.0
    _since: float = 0.0
    _at: float = 0.0
    _new: int = 0
    """Counted since then."""

    def add(self, calls: int, now: float) -> None:
        """Count calls that were done."""
        if not self._at:
            # Nothing is known of the time before the first.
            self._since = self._at = now
        self._new += calls
        if now - self._at > _GRAIN_S:
            self._weight = self._weight * math.exp((self._at - now) / _MEMORY_S) + self._new
            self._at, self._new = now, 0

    def per_second(self, now: float) -> float:
        """Give the rate; 0 when nothing was done so far."""
        weight = self._weight + self._new
        if not weight:
            return 0.0
        watched = -math.expm1((self._since - now) / _MEMORY_S)
        return weight * math.exp((self._at - now) / _MEMORY_S) / (_MEMORY_S * max(watched, 0.02))

    def retry_after_s(self, waiting: int, now: float) -> int:
        """Give the whole seconds after which what waits now should be done, from 1 to 60; 1 when nothing is known."""
        rate = self.per_second(now)
        if not rate:
            return 1
        return min(_LONGEST_S, max(1, math.ceil(waiting / rate)))
