"""The compute pool's bounds."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

from inference.errors import DeadlineExceeded, Overloaded, PredictionFailed
from inference.pool import ComputePool


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - the pool has no event to wait on
            await asyncio.sleep(0.001)


def test_results_and_errors_come_through() -> None:
    """A call's result or its own exception reaches the caller."""

    async def main() -> None:
        pool = ComputePool(threads=2, queue=0, timeout_s=30)

        assert await pool.run(lambda: 7) == 7
        with pytest.raises(ZeroDivisionError):
            await pool.run(lambda: 1 // 0)
        with pytest.raises(PredictionFailed, match="StopIteration"):
            await pool.run(lambda: next(iter(())))
        pool.close()

    asyncio.run(main())


def test_full_pool_refuses_at_once() -> None:
    """Threads and queue full: the next call is refused without waiting, and accepted calls are unharmed."""

    async def main() -> None:
        pool = ComputePool(threads=1, queue=1, timeout_s=30)
        gate = threading.Event()
        calls = [asyncio.ensure_future(pool.run(lambda: gate.wait(60))) for _ in range(2)]
        await _until(lambda: pool.in_progress == 2)
        with pytest.raises(Overloaded, match="2 requests are in progress or waiting"):
            await pool.run(lambda: True)
        gate.set()

        assert await asyncio.gather(*calls) == [True, True]
        assert pool.in_progress == 0
        pool.close()

    asyncio.run(main())


def test_late_calls_that_wait_never_start() -> None:
    """A call given up while it waited for a thread is not run afterwards."""

    async def main() -> None:
        pool = ComputePool(threads=1, queue=1, timeout_s=0.5)
        begun, gate = threading.Event(), threading.Event()
        started = []

        def run() -> None:
            begun.set()
            gate.wait(60)

        running = asyncio.ensure_future(pool.run(run))
        await _until(lambda: begun.is_set() or running.done())
        waiting = asyncio.ensure_future(pool.run(lambda: started.append(1)))
        outcomes = await asyncio.gather(running, waiting, return_exceptions=True)
        in_progress = pool.in_progress
        gate.set()
        await _until(lambda: pool.in_progress == 0)

        assert [type(outcome) for outcome in outcomes] == [DeadlineExceeded, DeadlineExceeded]
        assert in_progress == 2
        assert started == []
        pool.close()

    asyncio.run(main())


def test_cancelled_callers_free_their_place() -> None:
    """A caller that goes away does not keep its place for ever."""

    async def main() -> None:
        pool = ComputePool(threads=1, queue=0, timeout_s=30)
        gate = threading.Event()
        call = asyncio.ensure_future(pool.run(lambda: gate.wait(60)))
        await _until(lambda: pool.in_progress == 1)
        call.cancel()
        gate.set()
        await _until(lambda: pool.in_progress == 0)

        assert await pool.run(lambda: 5) == 5
        pool.close()

    asyncio.run(main())


def test_every_thread_is_entered_once() -> None:
    """The hook runs in each worker thread before its first call."""

    async def main() -> None:
        entered: list[int] = []
        pool = ComputePool(threads=3, queue=9, timeout_s=30, enter=lambda: entered.append(threading.get_ident()))
        await asyncio.gather(*(pool.run(lambda: None) for _ in range(9)))
        await _until(lambda: len(entered) == 3)

        assert len(set(entered)) == 3
        pool.close()

    asyncio.run(main())
