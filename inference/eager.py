"""Begins a coroutine at once, and makes a task only of what has to wait.

A task costs more than a short prediction, and another turn of the event loop. Python has it from 3.12 on, as
`asyncio.eager_task_factory`. Used by `inference/grpc/call.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator
from typing import Any


def begun(work: Coroutine[Any, Any, None], loop: asyncio.AbstractEventLoop) -> asyncio.Task[None] | None:
    """Run a coroutine up to where it waits; give the task that runs the rest, or None when it is over.

    Up to there it has no task of its own: it must not ask for `asyncio.current_task()`. What it raises is raised here.
    """
    try:
        waited = work.send(None)
    except StopIteration:
        return None
    return loop.create_task(_Rest(work, waited))


class _Rest(Coroutine[Any, Any, None]):
    """What is left of a coroutine that waits.

    No generator: one that is cancelled before its first step never runs, and `work` would not hear of it.
    """

    __slots__ = ("_begun", "_waited", "_work")

    def __init__(self, work: Coroutine[Any, Any, None], waited: Any) -> None:  # noqa: ANN401 - a future, or None
        self._work, self._waited = work, waited
        self._begun = False

    def send(self, value: Any) -> Any:  # noqa: ANN401 - as above
        """Say first what is waited for, then go on."""
        if self._begun:
            return self._work.send(value)
        self._begun, waited, self._waited = True, self._waited, None
        return waited

    def throw(self, *raised: Any) -> Any:  # noqa: ANN401 - as a coroutine's own
        """Raise an error where it waits, a cancellation above all."""
        self._begun = True
        return self._work.throw(*raised)

    def close(self) -> None:
        """End it."""
        self._work.close()

    def __await__(self) -> Generator[Any, Any, None]:
        return self._work.__await__()
