"""Runs what is slow and predicts nothing, such as loading a model, on a bounded number of threads.

A bounded number of calls waits. Called from one event loop.

What does not fit is refused at once; what is late is given up, but its thread counts as taken until it is free again.
So the work in the process never exceeds the bound, however many clients lose patience. Predictions have threads of
their own, see `inference/batching/batcher.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from inference.errors import DeadlineExceeded, Overloaded, PredictionFailed

T = TypeVar("T")


@dataclass(slots=True)
class _Job:
    work: Callable[[], Any]
    loop: asyncio.AbstractEventLoop
    answer: asyncio.Future[Any]


class ComputePool:
    """`threads` calls run, `queue` more wait."""

    def __init__(self, *, threads: int, queue: int, timeout_s: float, enter: Callable[[], None] | None = None) -> None:
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._threads = [threading.Thread(target=self._serve, name="predict", daemon=True) for _ in range(threads)]
        self._started = False
        self._enter = enter
        """Called in each thread before its first job, which is after the models were loaded."""
        self._limit = threads + queue
        self._timeout_s = timeout_s
        self.in_progress = 0
        """Calls that run or wait. Changed on the event loop only."""

    async def run(self, work: Callable[[], T]) -> T:
        """Run a call on a thread and wait for it; its own errors come through.

        Raises:
            Overloaded: as many calls as may wait are waiting.
            DeadlineExceeded: not done in time. A call that has not started never will; one that has runs on for nobody.
        """
        if self.in_progress >= self._limit:
            raise Overloaded(self.in_progress)
        self._start()
        loop = asyncio.get_running_loop()
        job = _Job(work, loop, loop.create_future())
        self.in_progress += 1
        self._jobs.put(job)
        alarm = loop.call_later(self._timeout_s, self._expire, job)
        try:
            result: T = await job.answer
        finally:
            alarm.cancel()
        return result

    def close(self, grace_s: float = 1.0) -> None:
        """Drop what waits, and give what runs a moment."""
        while True:
            try:
                self._jobs.get_nowait()
            except Empty:
                break
        for _ in self._threads:
            self._jobs.put(None)
        deadline = time.monotonic() + grace_s
        for thread in self._threads if self._started else ():
            thread.join(max(0.0, deadline - time.monotonic()))

    def _start(self) -> None:
        if not self._started:
            self._started = True
            for thread in self._threads:
                thread.start()

    def _serve(self) -> None:
        if self._enter is not None:
            self._enter()
        while (job := self._jobs.get()) is not None:
            result, error = None, None
            try:
                # Given up while it waited: nobody wants the result.
                result = None if job.answer.done() else job.work()
            except BaseException as exc:  # noqa: BLE001 - whatever a model does, the thread must live on
                error = exc
            # A loop that has been closed has nobody left who waits.
            with contextlib.suppress(RuntimeError):
                job.loop.call_soon_threadsafe(self._finish, job, result, error)

    def _finish(self, job: _Job, result: object, error: BaseException | None) -> None:
        self.in_progress -= 1
        if job.answer.done():
            return
        if error is None:
            job.answer.set_result(result)
        elif isinstance(error, Exception) and not isinstance(error, StopIteration):
            job.answer.set_exception(error)
        else:
            # SystemExit and its like would end the event loop; a future refuses StopIteration.
            job.answer.set_exception(PredictionFailed(f"{type(error).__name__} : {error}"))

    def _expire(self, job: _Job) -> None:
        if not job.answer.done():
            job.answer.set_exception(DeadlineExceeded(self._timeout_s))


class MutualPool:
    """A thread for what asks the other processes, and one for what they ask. In one, two could wait for each other."""

    def __init__(self, *, queue: int, timeout_s: float) -> None:
        self._asking, self._asked = (ComputePool(threads=1, queue=queue, timeout_s=timeout_s) for _ in range(2))

    async def run(self, work: Callable[[], T], *, asks: bool) -> T:
        """Run a call that may ask another process, or one that asks none; otherwise as in `ComputePool`."""
        return await (self._asking if asks else self._asked).run(work)

    def close(self) -> None:
        """Drop what waits, and give what runs a moment."""
        for pool in (self._asking, self._asked):
            pool.close()
