"""When a host reads on, when it waits for full queues, and which partitions it has the client pause. Pure.

The client throws away what it has fetched of a partition that is paused, and to fetch it anew takes as long as
thousands of records. So queues that are emptied at one pace wait together until half of each is free; a partition is
paused when others would starve meanwhile, or when it takes long.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

_HALF: Final = 1 / 2
_HUNGRY: Final = 1 / 4
"""How full the queue of another partition may be while it waits for a full one."""
_HOLD_S: Final = 1.0
"""How long nothing is read. A queue that is not half empty by then lasts for longer than it takes to fetch anew, and
the group must not wait for its member any longer."""


class Pace:
    """Decides before every read. One thread uses it."""

    def __init__(self) -> None:
        self._since: float | None = None
        """Since when nothing is read."""

    def decide(self, fills: Mapping[int, float], now: float) -> tuple[bool, Sequence[int]]:
        """Say whether to read, and which partitions to pause before that.

        Args:
            fills: how full the queues of the partitions are that are not paused; 1 and more is full.
            now: any clock's seconds.
        """
        most = max(fills.values(), default=0.0)
        if most <= _HALF or (self._since is None and most < 1):
            self._since = None
            return True, ()
        if self._since is None:
            self._since = now
        if min(fills.values()) > _HUNGRY and now - self._since < _HOLD_S:
            return False, ()
        self._since = None
        return True, [partition for partition, fill in fills.items() if fill > _HALF]
