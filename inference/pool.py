"""Runs predictions on a bounded number of threads, with a bounded number waiting. Called from one event loop.

What does not fit is refused at once; what is late is given up, but its thread counts as taken until it is free again.
So the work in the process never exceeds the bound, however many clients lose patience.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from inference.errors import DeadlineExceeded, Overloaded

T = TypeVar("T")


class ComputePool:
    """`threads` calls run, `queue` more wait."""

    def __init__(self, *, threads: int, queue: int, timeout_s: float, enter: Callable[[], None] | None = None) -> None:
        self._executor = ThreadPoolExecutor(threads, "predict", initializer=enter)
        self._limit = threads + queue
        self._timeout_s = timeout_s
        self.in_progress = 0
        """Calls that run or wait. Changed on the event loop only."""

    async def run(self, work: Callable[[], T]) -> T:
        """Run a call on a thread and wait for it.

        Raises:
            Overloaded: as many calls as may wait are waiting.
            DeadlineExceeded: not done in time. A call that has not started never will; one that has runs on for nobody.
        """
        if self.in_progress >= self._limit:
            raise Overloaded(self.in_progress)
        loop = asyncio.get_running_loop()
        self.in_progress += 1
        task = self._executor.submit(work)
        task.add_done_callback(lambda _: loop.call_soon_threadsafe(self._free))
        done = asyncio.wrap_future(task)
        try:
            await asyncio.wait((done,), timeout=self._timeout_s)
        finally:
            task.cancel()  # does nothing to a call that has started
        if not done.done() or done.cancelled():
            raise DeadlineExceeded(self._timeout_s)
        return done.result()

    def close(self) -> None:
        """Wait for what runs; drop what waits."""
        self._executor.shutdown(wait=True, cancel_futures=True)

    def _free(self) -> None:
        self.in_progress -= 1
