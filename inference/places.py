"""How many connections a protocol serves at once: for one more, the one that has been idle longest gives way.

Gateways keep many that nobody uses; were these to fill a server, a probe's own connection would be refused, and a
healthy process restarted. Used by `inference/visitors.py` and `inference/grpc/connection.py`. Time comes in.
"""

from __future__ import annotations

import heapq
import math
from typing import Final, Generic, Protocol, TypeVar

_IDLE_S: Final = 5.0
"""A client that asked a moment ago may be about to ask again, and its request would cross the end."""
_LOOK_S: Final = 1.0
_AT_ONCE: Final = 64
"""Found at a look, which goes through all of them: a crowd at the door must not have it done for each that comes."""


class Occupant(Protocol):
    """A connection that is served."""

    def idle_s(self, now: float) -> float:
        """Say for how long nothing was asked on it, as far as is known; 0 while something is."""
        ...

    def give_way(self) -> None:
        """Close it, for another. It has left its place already."""
        ...


T = TypeVar("T", bound=Occupant)


class Places(Generic[T]):
    """So many places."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.taken: set[T] = set()
        self.refused = 0
        self._idlest: list[T] = []
        """Of the last look, the idlest last."""
        self._looked = -math.inf

    def take(self, one: T, now: float) -> bool:
        """Take a place, if there is one or can be one."""
        if len(self.taken) >= self._most and not self._vacate(now):
            self.refused += 1
            return False
        self.taken.add(one)
        return True

    def leave(self, one: T) -> None:
        """Leave a place, if it has one."""
        self.taken.discard(one)

    def _vacate(self, now: float) -> bool:
        if not self._idlest and now - self._looked >= _LOOK_S:
            self._looked = now
            self._idlest = heapq.nlargest(_AT_ONCE, self.taken, key=lambda each: each.idle_s(now))[::-1]
        while self._idlest:
            one = self._idlest.pop()
            if one in self.taken and one.idle_s(now) >= _IDLE_S:
                self.taken.discard(one)
                one.give_way()
                return True
        return False
