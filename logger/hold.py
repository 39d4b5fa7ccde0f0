"""Audit mode: the end of an answer waits until its events are safe, but not for ever.

Safe is what the shipper has released: on disk with a spool, else acknowledged by every sink. The wait is bounded: after
it the answer ends all the same, and the event is dealt with as without audit. Nothing else makes a proxy wait for
logging, so it is off unless somebody asks for it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from logger.lane import HELD, LATE, Lane
from logger.outbox import Outbox
from logger.tap import Seen

_LOOK_S: Final = 0.001


@dataclass(slots=True)
class _Waiting:
    """An exchange whose answer is held: where its record ends, None while there was no room for it."""

    seen: Seen
    position: int | None
    deadline: float
    go_on: Callable[[], None]


class Hold:
    """Holds answers of one proxy. The event loop's thread alone calls it."""

    def __init__(self, lane: Lane, outbox: Outbox, wait_s: float) -> None:
        self._lane, self._outbox, self._wait_s = lane, outbox, wait_s
        self._waiting: deque[_Waiting] = deque()
        self._loop = asyncio.get_running_loop()
        self._looking = False

    def until_safe(self, seen: Seen, go_on: Callable[[], None]) -> None:
        """Hand an exchange over and call `go_on` when it is safe, or when the wait is over."""
        self._lane.tally.add(HELD)
        position = self._outbox.try_offer(seen)
        self._waiting.append(_Waiting(seen, position, self._loop.time() + self._wait_s, go_on))
        if not self._looking:
            self._looking = True
            self._loop.call_later(_LOOK_S, self._look)

    def _look(self) -> None:
        """Let go who may. In order: nobody is safe before those that came earlier."""
        safe, now = self._lane.ring.settled_position(), self._loop.time()
        while self._waiting and self._may_go(self._waiting[0], safe, now):
            self._waiting.popleft().go_on()
        self._looking = bool(self._waiting)
        if self._looking:
            self._loop.call_later(_LOOK_S, self._look)

    def _may_go(self, waiting: _Waiting, safe: int, now: float) -> bool:
        if waiting.position is None:
            waiting.position = self._outbox.try_offer(waiting.seen)
        if waiting.position is not None and waiting.position <= safe:
            return True
        if now < waiting.deadline:
            return False
        self._lane.tally.add(LATE)
        if waiting.position is None:
            self._outbox.offer(waiting.seen)
        return True
