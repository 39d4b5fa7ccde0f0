"""Predictions that need no thread: those that proved short are run by the event loop that brought the calls.

It first reads its sockets to the end, and then joins what has come in: step by step for many calls, the interpreter
finds the code of each step in the processor's caches, and a call costs half of what it does by itself. Used by
`inference/batching/batcher.py`; which predictions are short is `lane.py`'s to say.
"""

from __future__ import annotations

import asyncio
import time
import weakref
from collections.abc import Callable
from typing import Final

from inference.batching.call import Call, Urgency
from inference.batching.lane import Lane
from inference.batching.turns import Turn, Turns
from inference.batching.waiting import deliver

_BYTES: Final = 1 << 18
"""Longer bodies, and those that may prove longer, are read on a thread, however short the model's predictions are."""
_STINT_S: Final = 0.002
"""How long an event loop predicts before it looks at its sockets again."""
_OVERRUN_S: Final = 0.1
"""A batch that took an event loop so long did something else than to compute."""


def may(call: Call, lane: Lane) -> bool:
    """Say whether an event loop may run a call."""
    return call.urgency is Urgency.USER and call.size <= _BYTES and not call.terms.packed and lane.quick(call.arrived)


class Place:
    """An event loop that runs batches. All of it on the loop's thread."""

    __slots__ = ("_loop", "_summoned", "_turns")

    def __init__(self, turns: Turns, loop: asyncio.AbstractEventLoop) -> None:
        self._turns, self._loop = turns, loop
        self._summoned = False

    def summon(self) -> None:
        """Have the loop run what waits for quick models, once it has read whatever else has come in by now."""
        if not self._summoned:
            self._summoned = True
            self._loop.call_soon(self._attend)

    def _attend(self) -> None:
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
                    turn = turns.take(lane, Urgency.USER, 0)
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
            self.summon()
        deliver(over, self._loop)


class Places:
    """The event loops that calls come from, each with its place."""

    def __init__(self, turns: Turns, enter: Callable[[], None] | None) -> None:
        self._turns, self._enter = turns, enter
        self._known: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Place] = weakref.WeakKeyDictionary()

    def of(self, loop: asyncio.AbstractEventLoop) -> Place:
        """Give a loop's place; on its thread."""
        place = self._known.get(loop)
        if place is None:
            if self._enter is not None:
                self._enter()
            place = self._known[loop] = Place(self._turns, loop)
        return place
