"""The callers of calls: how long they wait on an event loop, and how they are told what came of it.

Used by `inference/batching/batcher.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeAlias

from inference.batching.call import Call
from inference.errors import ClientGone, DeadlineExceeded

_WATCH_S: Final = 0.1
"""A call that takes longer has its client watched: most calls end before that costs anything."""

Gone: TypeAlias = Callable[[], Awaitable[None]]
"""Returns when a client has gone away."""


class Patience:
    """How long the callers on one event loop wait: first until their clients are watched, then until their deadlines.

    One timer for all of them: nearly every call ends before it matters, and a timer of its own costs more than that.
    """

    __slots__ = ("_calls", "_due", "_timer", "_withdraw")

    def __init__(self, withdraw: Callable[[Call], None]) -> None:
        """Begin; `withdraw` takes a call that nobody waits for any more out of its queue."""
        self._withdraw = withdraw
        self._calls: dict[Call, Gone | asyncio.Task[None] | None] = {}
        """With who tells that the client has gone, or with the task that asks."""
        self._timer: asyncio.TimerHandle | None = None
        self._due = math.inf

    def begin(self, call: Call, gone: Gone | None) -> None:
        """Take a call that waits."""
        self._calls[call] = gone
        due = call.deadline if gone is None else min(call.deadline, call.arrived + _WATCH_S)
        if due < self._due:
            self._wake_at(due, call)

    def end(self, call: Call) -> None:
        """Forget a call: it is over."""
        watch = self._calls.pop(call)
        if isinstance(watch, asyncio.Task):
            watch.cancel()

    def _wake_at(self, due: float, call: Call) -> None:
        if self._timer is not None:
            self._timer.cancel()
        assert call.loop is not None  # noqa: S101 - only a call on a loop has patience
        self._due = due
        self._timer = call.loop.call_later(max(0.0, due - time.monotonic()), self._look)

    def _look(self) -> None:
        self._timer, self._due = None, math.inf
        now = time.monotonic()
        first: Call | None = None
        due = math.inf
        for call, watch in list(self._calls.items()):
            if call.deadline <= now:
                self._end(call, late(call))
                continue
            next_due = call.deadline
            if watch is not None and not isinstance(watch, asyncio.Task):
                if call.arrived + _WATCH_S <= now:
                    self._watch(call, watch)
                else:
                    next_due = min(next_due, call.arrived + _WATCH_S)
            if next_due < due:
                first, due = call, next_due
        if first is not None:
            self._wake_at(due, first)

    def _watch(self, call: Call, gone: Gone) -> None:
        async def watched() -> None:
            await gone()
            self._end(call, ClientGone())

        assert call.loop is not None  # noqa: S101 - as above
        self._calls[call] = call.loop.create_task(watched())

    def _end(self, call: Call, error: Exception) -> None:
        if call.answer is not None and not call.answer.done():
            self._withdraw(call)
            call.answer.set_exception(error)


def release(calls: Sequence[Call]) -> None:
    """Let go of the models that calls hold."""
    for call in calls:
        lease, call.lease = call.lease, None
        if lease is not None:
            lease.release()


def late(call: Call) -> DeadlineExceeded:
    """Give the error of a call that was not done in time."""
    return DeadlineExceeded(round(max(0.0, call.deadline - call.arrived), 3))


def deliver(calls: Sequence[Call], here: asyncio.AbstractEventLoop | None = None) -> None:
    """Tell who waits; an event loop is woken once for all of its calls, and not at all from `here`, its own thread."""
    loops: dict[asyncio.AbstractEventLoop, list[Call]] = {}
    for call in calls:
        if call.loop is not None:
            loops.setdefault(call.loop, []).append(call)
        elif call.gate is not None:
            call.gate.release()
        elif call.failed is not None and call.error is not None:
            call.failed(call.error)
    if here is not None:
        _settle(loops.pop(here, ()))
    for loop, theirs in loops.items():
        # A loop that has been closed has nobody left who waits.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(_settle, theirs)


def _settle(calls: Sequence[Call]) -> None:
    for call in calls:
        call.settle()
