"""Begins a coroutine at once, and makes a task only of what has to wait.

A task costs more than a short prediction, and another turn of the event loop. Python has it from 3.12 on, as
`asyncio.eager_task_factory`. Used by `inference/grpc/call.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator
from types import coroutine
from typing import Any


def begun(work: Coroutine[Any, Any, None], loop: asyncio.AbstractEventLoop) -> asyncio.Task[None] | None:
    """Run a coroutine up to where it waits; give the task that runs the rest, or None when it is over.

    Up to there it has no task of its own: it must not ask for `asyncio.current_task()`. What it raises is raised here.
    """
    try:
        waited = work.send(None)
    except StopIteration:
        return None
    return loop.create_task(_rest(work, waited))


@coroutine
def _rest(work: Coroutine[Any, Any, None], waited: Any) -> Generator[Any, Any, None]:  # noqa: ANN401 - a future, or None
    try:
        while True:
            try:
                sent = yield waited
            except BaseException as exc:  # noqa: BLE001 - the coroutine's own affair, a cancellation above all
                waited = work.throw(exc)
            else:
                waited = work.send(sent)
    except StopIteration:
        return
