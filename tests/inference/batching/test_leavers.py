"""Callers that do not wait to the end leave nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

from inference.batching.batcher import Batcher
from inference.batching.call import NOTHING_ASKED, Call, Given
from inference.eager import begun
from inference.errors import ClientGone, DeadlineExceeded, ModelNotReady, Overloaded
from inference.metrics import PredictorMetrics
from inference.repository import Wanted
from tests.inference.batching.models import Loading


class Body:
    """A request's body, of which it can be told whether anybody holds it."""

    content = b"1234"


def _read(body: Body) -> Given:
    return {"x": np.frombuffer(body.content, np.uint8)}, NOTHING_ASKED


def test_who_gives_up_waiting_for_a_load_takes_the_request_along() -> None:
    """A model may take minutes to load, and callers come again and again meanwhile: their bodies do not add up."""
    loading = Loading()
    batcher = Batcher(loading, PredictorMetrics(lambda: 0.0), threads=1)
    body = Body()
    kept = weakref.ref(body)
    call = Call("m", partial(_read, body), lambda answer, _: answer, timeout_s=0.02)
    del body
    with pytest.raises(DeadlineExceeded):
        asyncio.run(batcher.run(call))
    batcher.close()

    assert len(loading.pending) == 1
    assert kept() is None


class Looking(Loading):
    """Is to find out first which version is wanted, and keeps who finds it out."""

    def __init__(self) -> None:
        super().__init__()
        self.looks: list[Wanted] = []

    def lease_later(self, name: str, version: Wanted, done: Callable[[Any], None]) -> None:
        """Begin."""
        super().lease_later(name, version, done)
        self.looks.append(version)


def test_who_gives_up_waiting_for_a_first_look_takes_the_request_along() -> None:
    """A folder may lie on a network that hangs: what chooses the version holds the request, and goes with its caller.

    The look that nobody waits for any more is not made, and no copy for a shadow is sent.
    """

    async def main() -> None:
        looking = Looking()
        batcher = Batcher(looking, PredictorMetrics(lambda: 0.0), threads=1)

        async def give_up(body: Body) -> None:
            call = Call("m", partial(_read, body), lambda answer, _: answer, timeout_s=0.02)
            await batcher.run(call, partial(_chosen, body))

        body = Body()
        kept = weakref.ref(body)
        waiting = give_up(body)
        del body
        with pytest.raises(DeadlineExceeded):
            await waiting
        del waiting
        # The loop itself holds what woke this task until its next turn.
        await asyncio.sleep(0)
        (look,) = looking.looks

        assert kept() is None
        assert callable(look)
        with pytest.raises(ClientGone):
            look()
        batcher.close()

    gc.disable()
    try:
        asyncio.run(main())
    finally:
        gc.enable()


def test_those_who_gave_up_are_not_without_number() -> None:
    """What the repository keeps of a call until it has an answer is little, and there is an end to it."""

    async def main() -> None:
        loading = Loading()
        batcher = Batcher(loading, PredictorMetrics(lambda: 0.0), threads=1, queue=2)

        async def leave() -> None:
            task = asyncio.ensure_future(batcher.run(Call("m", partial(_read, Body()), lambda answer, _: answer)))
            await asyncio.sleep(0)
            if task.done():
                await task
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

        async def leave_again_and_again() -> None:
            for _ in range(1_000):
                await leave()

        with pytest.raises(Overloaded) as refused:
            await leave_again_and_again()
        pending = len(loading.pending)
        for done in loading.pending:
            done(ModelNotReady("m"))
        await leave()

        assert batcher.waiting == 0
        assert refused.value.retry_after_s >= 1
        assert pending == 12
        assert len(loading.pending) == pending + 1
        batcher.close()

    asyncio.run(main())


def _chosen(body: Body) -> str:
    raise AssertionError(body)


def test_who_leaves_as_its_time_is_over_is_not_missed(caplog: pytest.LogCaptureFixture) -> None:
    """Broken off in the very turn in which it is told, or before its task's first one: nobody asks what came of it."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        for begins in (begun, lambda work, loop: loop.create_task(work)):
            batcher = Batcher(Loading(), PredictorMetrics(lambda: 0.0), threads=1)
            call = Call("m", partial(_read, Body()), lambda answer, _: answer)
            task = begins(batcher.run(call), loop)
            assert task is not None
            if begins is not begun:
                await asyncio.sleep(0)
            assert call.answer is not None
            call.answer.set_exception(DeadlineExceeded(0.0))
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            batcher.close()

    asyncio.run(main())
    gc.collect()

    assert not caplog.records
