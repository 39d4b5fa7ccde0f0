"""Coroutines on a loop of their own thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor

import pytest

from inference.coroutines import LoopThread


@pytest.fixture(name="loop")
def _loop() -> Iterator[LoopThread]:
    loop = LoopThread("test")
    yield loop
    loop.close()


def test_calls_of_several_threads_run_at_the_same_time(loop: LoopThread) -> None:
    """Each of eight coroutines waits for the other seven: one after the other, none would ever end."""
    waiting: set[str] = set()
    together = asyncio.Event()

    async def meet() -> str:
        task = asyncio.current_task()
        assert task is not None
        waiting.add(task.get_name())
        if len(waiting) == 8:
            together.set()
        await together.wait()
        return threading.current_thread().name

    with ThreadPoolExecutor(8) as threads:
        names = list(threads.map(lambda _: loop.run(meet()), range(8)))

    assert names == ["test"] * 8


def test_errors_come_through(loop: LoopThread) -> None:
    """The caller gets the coroutine's own error, and the loop lives on."""

    async def fail() -> None:
        raise LookupError("of its own")

    with pytest.raises(LookupError, match="of its own"):
        loop.run(fail())
    assert loop.run(asyncio.sleep(0, "on")) == "on"


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_an_exit_ends_its_own_call_alone(loop: LoopThread, error: type[BaseException]) -> None:
    """What ends an event loop comes through to its caller, and another's coroutine on that loop goes on."""

    async def leave() -> None:
        raise error("of its own")

    async def meet(together: asyncio.Event) -> str:
        running.set()
        await together.wait()
        return "on"

    async def come(together: asyncio.Event) -> None:
        together.set()

    running, together = threading.Event(), asyncio.Event()
    with ThreadPoolExecutor(2) as threads:
        other = threads.submit(loop.run, meet(together))
        assert running.wait(60)
        left = threads.submit(loop.run, leave())

        assert isinstance(left.exception(60), error)
        loop.run(come(together))
        assert other.result(60) == "on"


def test_pieces_come_as_they_are_made(loop: LoopThread) -> None:
    """A caller that stops early closes the generator, whose `finally` has run by then."""
    closed = threading.Event()

    async def count() -> AsyncIterator[int]:
        try:
            number = 0
            while True:
                yield number
                number += 1
        finally:
            closed.set()

    pieces = loop.each(count())
    first = [next(pieces), next(pieces)]
    pieces.close()  # type: ignore[attr-defined]  # a generator

    assert first == [0, 1]
    assert closed.is_set()


def test_pieces_end(loop: LoopThread) -> None:
    """An asynchronous generator's end is the iterator's end."""

    async def two() -> AsyncIterator[str]:
        yield "a"
        yield "b"

    assert list(loop.each(two())) == ["a", "b"]


def test_closing_cancels_what_runs() -> None:
    """A call in progress is cancelled when the loop closes, and its thread is gone."""
    loop = LoopThread("closing")
    begun = threading.Event()

    async def forever() -> None:
        begun.set()
        await asyncio.Event().wait()

    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(loop.run, forever())
        assert begun.wait(60)
        loop.close()

        with pytest.raises(CancelledError):
            running.result(60)
    assert "closing" not in {thread.name for thread in threading.enumerate()}


def test_nothing_starts_unused() -> None:
    """A model without coroutines costs no thread."""
    loop = LoopThread("unused")

    assert "unused" not in {thread.name for thread in threading.enumerate()}
    loop.close()
