"""The callers of calls: how long they wait on an event loop, and how they are told what came of it.

Used by `inference/batching/batcher.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from inference.batching.call import Call
from inference.errors import ClientGone, DeadlineExceeded

_WATCH_S: Final = 0.1
"""A call that takes longer has its client watched: most calls end before that costs anything."""


class Patience:
    """One timer per call: first to have the client watched, then for the deadline."""

    __slots__ = ("_call", "_gone", "_timer", "_watch", "_withdraw")

    def __init__(
        self,
        withdraw: Callable[[Call], None],
        call: Call,
        loop: asyncio.AbstractEventLoop,
        gone: Callable[[], Awaitable[None]] | None,
    ) -> None:
        """Begin; `withdraw` takes a call that nobody waits for any more out of its queue."""
        self._withdraw, self._call, self._gone = withdraw, call, gone
        self._watch: asyncio.Task[None] | None = None
        left = call.deadline - call.arrived
        watched = gone is not None and left > _WATCH_S
        self._timer: asyncio.TimerHandle | None = None
        if watched:
            self._timer = loop.call_later(_WATCH_S, self._begin_watch)
        elif left < math.inf:
            self._timer = loop.call_later(max(0.0, left), self._expire)

    def end(self) -> None:
        """Forget both: the call is over."""
        if self._timer is not None:
            self._timer.cancel()
        if self._watch is not None:
            self._watch.cancel()

    def _begin_watch(self) -> None:
        call = self._call
        assert call.loop is not None  # noqa: S101 - only a call on a loop has patience
        self._watch = call.loop.create_task(self._watched())
        left = call.deadline - time.monotonic()
        self._timer = call.loop.call_later(max(0.0, left), self._expire) if left < math.inf else None

    async def _watched(self) -> None:
        assert self._gone is not None  # noqa: S101 - else nobody is watched
        await self._gone()
        answer = self._call.answer
        if answer is not None and not answer.done():
            self._withdraw(self._call)
            answer.set_exception(ClientGone())

    def _expire(self) -> None:
        call = self._call
        if call.answer is not None and not call.answer.done():
            self._withdraw(call)
            call.answer.set_exception(late(call))


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
