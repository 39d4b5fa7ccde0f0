"""Predictions that need no thread: those that proved short are run by the event loop that brought the calls.

It first reads its sockets to the end, and then joins what has come in: step by step for many calls, the interpreter
finds the code of each step in the processor's caches, and a call costs half of what it does by itself. Used by
`inference/batching/batcher.py`; which predictions are short is `lane.py`'s to say.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

from inference.batching.call import Call, Urgency
from inference.batching.lane import Lane
from inference.batching.turns import Turn, Turns
from inference.batching.waiting import Patience, deliver

_STINT_S: Final = 0.002
"""How long an event loop predicts before it looks at its sockets again."""
_OVERRUN_S: Final = 0.1
"""A batch that took an event loop so long did something else than to compute."""


def may(call: Call, lane: Lane) -> bool:
    """Say whether an event loop may run a call."""
    return call.urgency is Urgency.USER and lane.light(call) and lane.quick(call.arrived)


class Place:
    """What an event loop has here that calls come from. All of it on the loop's thread."""

    __slots__ = ("_enter", "_summoned", "_turns", "patience")

    def __init__(self, turns: Turns, patience: Patience, enter: Callable[[], None] | None) -> None:
        """Begin; `enter` is called before the thread's first prediction."""
        self._turns, self.patience, self._enter = turns, patience, enter
        self._summoned = False

    def summon(self, loop: asyncio.AbstractEventLoop) -> None:
        """Have the loop run what waits for quick models, once it has read whatever else has come in by now."""
        if self._enter is not None:
            self._enter()
            self._enter = None
        if not self._summoned:
            self._summoned = True
            loop.call_soon(self._attend, loop)

    def _attend(self, loop: asyncio.AbstractEventLoop) -> None:
        """Run batches one after the other, as long as a loop can bear it."""
        self._summoned = False
        turns = self._turns
        over: list[Call] = []
        begun = now = time.monotonic()
        turn: Turn | None = None
        while True:
            with turns.lock:
                if turn is not None:
                    turns.account(turn, now)
                lane = turns.agenda.quick(now)
                more = lane is not None and now - begun >= _STINT_S
                turn = None
                if lane is not None and not more:
                    turns.agenda.remove(lane)
                    # No thread is to share in what is as short as this.
                    turn = turns.take(lane, Urgency.USER, 0, inline=True)
                # For what is not quick, or turned out not to be.
                sleeper = None if more or turn is not None else turns.sleepers.baton()
            if turn is None:
                break
            turns.run(turn)
            over += turn.over
            before, now = now, time.monotonic()
            if now - before > _OVERRUN_S:
                turn.lane.overran(now)
        if sleeper is not None:
            sleeper.lock.release()
        if more:
            self.summon(loop)
        deliver(over, loop)
