"""Callers that do not wait to the end leave nothing behind."""

from __future__ import annotations

import asyncio
import gc
import weakref
from functools import partial

import numpy as np
import pytest

from inference.batching.batcher import Batcher
from inference.batching.call import NOTHING_ASKED, Call, Given
from inference.eager import begun
from inference.errors import DeadlineExceeded
from inference.metrics import PredictorMetrics
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
