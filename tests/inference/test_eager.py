"""Coroutines that are begun at once, and go on as tasks."""

from __future__ import annotations

import asyncio

import pytest

from inference.eager import begun


def test_what_need_not_wait_is_over_at_once() -> None:
    """It has run when the call returns, and there is no task."""
    done: list[int] = []

    async def work() -> None:
        await _nothing()
        done.append(1)

    async def main() -> None:
        assert begun(work(), asyncio.get_running_loop()) is None
        assert done == [1]

    asyncio.run(main())


def test_the_rest_is_a_task() -> None:
    """It waits as often as it likes, and gets what it waits for, values and errors."""
    done: list[object] = []

    async def work(first: asyncio.Future[int], second: asyncio.Future[int]) -> None:
        done.append("begun")
        done.append(await first)
        await asyncio.sleep(0)
        try:
            await second
        except LookupError as exc:
            done.append(exc)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        first, second = loop.create_future(), loop.create_future()
        task = begun(work(first, second), loop)

        assert done == ["begun"]
        assert task is not None
        first.set_result(7)
        second.set_exception(LookupError("away"))
        await task
        assert done[1] == 7
        assert isinstance(done[2], LookupError)

    asyncio.run(main())


def test_cancelling_reaches_it() -> None:
    """The coroutine learns of it where it waits, and may still put things in order."""
    done: list[str] = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            done.append("in order")

    async def main() -> None:
        task = begun(work(), asyncio.get_running_loop())
        assert task is not None
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert done == ["in order"]


def test_cancelling_reaches_what_has_just_begun() -> None:
    """A client may break its call off in the same breath: the coroutine learns of it all the same."""
    done: list[str] = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            done.append("in order")
            raise

    async def main() -> None:
        task = begun(work(), asyncio.get_running_loop())
        assert task is not None
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert done == ["in order"]


def test_errors_come_through() -> None:
    """At once from what has not waited, by the task from what has."""

    async def fails(*, waits: bool) -> None:
        if waits:
            await asyncio.sleep(0)
        raise LookupError("away")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with pytest.raises(LookupError):
            begun(fails(waits=False), loop)
        task = begun(fails(waits=True), loop)
        assert task is not None
        with pytest.raises(LookupError):
            await task

    asyncio.run(main())


async def _nothing() -> None:
    """Wait for nothing."""
