"""What the first calls for a model leave to its event loop: to run what is short, and nothing that reads files."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from inference.batching.batcher import Batcher
from inference.batching.call import Call
from inference.batching.lane import Lane
from inference.dataplane import DataPlane
from inference.errors import ModelNotFound, Overloaded
from inference.folders import Fingerprint
from inference.metrics import PredictorMetrics
from inference.repository import Loaded, Repository
from inference.rollout import UNNUMBERED
from inference.runtime import Answer, Arrays, Asked
from inference.settings import ModelSettings, RepositorySettings, ServerSettings
from tests.inference.batching.models import PATIENCE_S, Sums, rows, sums, undisturbed, until


class Warm(Sums):
    """Only computes, was short when it was loaded, and tells on which thread it predicts."""

    computes = True
    warm_s = 0.000_05

    def __init__(self) -> None:
        super().__init__()
        self.threads: list[int] = []

    def predict(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Sum."""
        self.threads.append(threading.get_ident())
        return super().predict(inputs)


class Slow:
    """A folder that takes its time to say what it holds."""

    def __init__(self, model: Warm) -> None:
        self.open = threading.Event()
        self.open.set()
        self.threads: list[int] = []
        self._model = model

    def versions(self) -> tuple[str, ...]:
        """Wait, and list one."""
        self.threads.append(threading.get_ident())
        assert self.open.wait(PATIENCE_S)
        return (UNNUMBERED,)

    def rollout(self) -> None:
        """Give none."""

    def load(self, version: str, seen: Fingerprint) -> Loaded:
        """Give the model."""
        del version, seen
        return Loaded(self._model, "1", ModelSettings())

    def fingerprint(self, version: str) -> Fingerprint:
        """Give nothing."""
        del version
        return ()


@contextmanager
def _serving(queue: int = 256, **folders: Slow) -> Iterator[DataPlane]:
    repository = Repository(folders, RepositorySettings(on_demand=True, loads=1))
    settings = ServerSettings(threads=1, queue=queue, timeout_s=PATIENCE_S)
    plane = DataPlane(repository, PredictorMetrics(lambda: 0), settings)
    try:
        yield plane
    finally:
        plane.close()
        repository.close()


def test_a_folder_that_answers_late_holds_no_other_model_up() -> None:
    """A model's files are looked into elsewhere, for they may lie on a slow network; calls for others are answered."""

    async def main() -> None:
        near, far = Slow(Warm()), Slow(Warm())
        far.open.clear()
        with _serving(near=near, far=far) as plane:
            await plane.infer_async("near", rows(1.0))
            first = asyncio.ensure_future(plane.infer_async("far", rows(2.0)))
            await asyncio.sleep(0)
            answer = await plane.infer_async("near", rows(3.0))
            waiting = not first.done()
            far.open.set()

            assert sums(answer) == [6.0]
            assert waiting
            assert sums(await first) == [4.0]
            assert threading.get_ident() not in near.threads + far.threads

    asyncio.run(main())


def test_those_who_wait_for_a_slow_load_fill_no_other_models_queue() -> None:
    """As many as may wait do wait for one model to be loaded, and one more is refused; a loaded model is as before."""

    async def main() -> None:
        near, far = Slow(Warm()), Slow(Warm())
        far.open.clear()
        with _serving(queue=2, near=near, far=far) as plane:
            await plane.infer_async("near", rows(1.0))
            waiting = [asyncio.ensure_future(plane.infer_async("far", rows(2.0))) for _ in range(10)]
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            answer = await plane.infer_async("near", rows(3.0))
            far.open.set()
            outcomes = await asyncio.gather(*waiting, return_exceptions=True)
            served = [each for each in outcomes if not isinstance(each, BaseException)]

            assert all(isinstance(each.exception(), Overloaded) for each in done)
            assert sums(answer) == [6.0]
            assert 2 <= len(served) < len(waiting)

    asyncio.run(main())


def test_what_a_folder_lacks_is_told_all_the_same() -> None:
    """A version that turns out not to be there when the folder is read is the caller's error, as later on."""

    async def main() -> None:
        with _serving(m=Slow(Warm())) as plane:
            for _ in range(2):
                with pytest.raises(ModelNotFound):
                    await plane.infer_async("m", rows(1.0), "7")

    asyncio.run(main())


def test_short_models_need_no_thread_from_their_first_call_on() -> None:
    """What was short when it was loaded runs on the loop that asks, also the call that it was loaded for."""

    @asynccontextmanager
    async def idle() -> AsyncIterator[tuple[DataPlane, Warm]]:
        model = Warm()
        with _serving(first=Slow(Warm()), m=Slow(model)) as plane:
            await plane.infer_async("first", rows(1.0))
            # A thread that is awake would take whatever comes in.
            await until(lambda: len(plane.batcher._turns.sleepers.idle) == 1)
            yield plane, model

    async def main(given: tuple[DataPlane, Warm]) -> None:
        plane, model = given
        for _ in range(3):
            await plane.infer_async("m", rows(1.0))

        assert model.threads == [threading.get_ident()] * 3

    asyncio.run(undisturbed(idle, main))


def test_a_short_first_row_says_little_of_long_bodies() -> None:
    """Before calls have proved it, an event loop reads small bodies only; larger ones as more prove short."""
    lane = Lane(Loaded(Warm(), "1", ModelSettings()), 4, np.inf, np.inf)
    first = lane.inline_bytes
    for _ in range(50):
        lane.timed(0.000_05)

    assert lane.quick(0.0)
    assert first < lane.inline_bytes == 1 << 18


def test_calls_that_took_long_leave_no_cycles() -> None:
    """Of a call whose client was watched nothing waits for a search for cycles, which stops every other call."""

    async def main() -> None:
        def finish(answer: Answer, loaded: Loaded) -> float:
            del loaded
            return float(answer.outputs["sum"][0])

        async def run(batcher: Batcher) -> weakref.ref[Any]:
            held, watched = threading.Event(), asyncio.Event()

            async def gone() -> None:
                watched.set()
                await asyncio.Event().wait()

            def read() -> tuple[Arrays, Asked]:
                assert held.wait(PATIENCE_S)
                return {"x": np.ones((1, 2))}, Asked()

            call = Call("m", read, finish, timeout_s=PATIENCE_S)
            call.size = 1 << 20
            answer = asyncio.ensure_future(batcher.run(call, None, gone))
            await asyncio.wait_for(watched.wait(), PATIENCE_S)
            held.set()
            assert await answer == 2.0
            return weakref.ref(gone)

        with _serving(m=Slow(Warm())) as plane:
            kept = await run(plane.batcher)
            # Nobody searches for cycles here; only the thread that answered may hold the call for a moment.
            await until(lambda: kept() is None)

    gc.collect()
    gc.disable()
    try:
        asyncio.run(main())
    finally:
        gc.enable()
