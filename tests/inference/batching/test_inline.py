"""Short predictions run on the event loop that asks: no hop to a thread and back; everything else stays on threads."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference.batching.call import Call, Urgency
from inference.batching.lane import Lane
from inference.batching.terms import Terms
from inference.dataplane import DataPlane
from inference.errors import InvalidInput, ModelNotReady
from inference.metrics import PredictorMetrics
from inference.protocol.v2 import InferRequest
from inference.repository import Loaded, Repository
from inference.runtime import Arrays
from inference.settings import ModelSettings, ServerSettings
from tests.inference.batching.models import BAD, PATIENCE_S, STALL_S, Sums, rows, serving, sums, undisturbed, until

_PROOF = 1_000
"""More calls than are wanted for a proof, a few slow ones among them."""


class Short(Sums):
    """Only computes, and tells on which thread."""

    computes = True

    def __init__(self) -> None:
        super().__init__()
        self.threads: list[int] = []
        self.takes_s = 0.0

    def predict(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Sum."""
        self.threads.append(threading.get_ident())
        time.sleep(self.takes_s)
        return super().predict(inputs)


async def _proven(plane: DataPlane, model: Short, name: str = "m") -> None:
    until_s = time.monotonic() + PATIENCE_S
    while (begun := time.monotonic()) < until_s:
        await plane.infer_async(name, rows(1.0))
        if model.threads[-1] == threading.get_ident() and time.monotonic() - begun < STALL_S:
            return
    raise AssertionError("nothing ran on the loop")


@asynccontextmanager
async def _proved() -> AsyncIterator[tuple[DataPlane, Short]]:
    """Serve a model whose predictions the loop runs."""
    model = Short()
    async with serving(model) as plane:
        await _proven(plane, model)
        yield plane, model


def test_short_predictions_move_to_the_loop() -> None:
    """The first ones run on threads, until they have proved to be short."""

    async def main() -> None:
        model = Short()
        async with serving(model) as plane:
            await _proven(plane, model)

            assert model.threads[0] != threading.get_ident()
            assert sums(await plane.infer_async("m", rows(1.0, 2.0))) == [2.0, 4.0]

    asyncio.run(main())


def test_what_has_come_in_is_joined_on_the_loop() -> None:
    """All calls that are there when the loop comes round go into one batch, up to the limit."""

    async def joined(given: tuple[DataPlane, Short]) -> None:
        plane, model = given
        model.batches.clear()
        answers = await asyncio.gather(*(plane.infer_async("m", rows(float(value))) for value in range(11)))

        assert [sums(answer) for answer in answers] == [[2.0 * value] for value in range(11)]
        assert model.batches == [8, 3]
        assert set(model.threads[-2:]) == {threading.get_ident()}

    asyncio.run(undisturbed(_proved, joined))


def test_what_runs_on_the_loop_is_not_shared() -> None:
    """Threads that sleep take no part in it, however long the rows take by the clock: in parts it would take longer."""

    async def whole(given: tuple[DataPlane, Short]) -> None:
        plane, model = given
        model.takes_s = 0.005
        await plane.infer_async("m", rows(1.0))
        model.batches.clear()
        await asyncio.gather(*(plane.infer_async("m", rows(float(value))) for value in range(8)))

        assert model.batches == [8]
        assert model.threads[-1] == threading.get_ident()

    asyncio.run(undisturbed(_proved, whole))


def test_models_that_may_wait_stay_on_threads() -> None:
    """However short: only a runtime that says that it does nothing but compute may have the loop."""

    async def main() -> None:
        model = Short()
        model.computes = False
        async with serving(model) as plane:
            for _ in range(_PROOF):
                await plane.infer_async("m", rows(1.0))

            assert threading.get_ident() not in model.threads

    asyncio.run(main())


def test_calls_that_yield_and_long_bodies_stay_on_threads() -> None:
    """None may hold up the loop that users' calls go through; a few compressed bytes may be a long body."""

    async def main() -> None:
        model = Short()
        async with serving(model) as plane:
            for terms in (Terms(yielding=True), Terms(size=1 << 20), Terms(size=100, packed=True)):
                await _proven(plane, model)
                await plane.infer_async("m", rows(1.0), terms=terms)

                assert model.threads[-1] != threading.get_ident()

    asyncio.run(main())


def test_what_has_come_in_before_small_calls_is_not_read_on_the_loop() -> None:
    """The loop comes for the small ones only: a long body among them is left to a thread, and so is a packed one."""

    async def main() -> None:
        model = Short()
        async with serving(model) as plane:
            for terms in (Terms(size=1 << 20), Terms(size=100, packed=True)):
                await _proven(plane, model)
                readers: list[int] = []
                long = plane.answer_async(
                    "m", partial(_read, rows(2.0), readers), lambda response, _: response, terms=terms
                )
                small = (plane.infer_async("m", rows(value)) for value in (1.0, 3.0))
                answers = await asyncio.gather(next(small), long, next(small))

                assert [sums(answer) for answer in answers] == [[2.0], [4.0], [6.0]]
                assert threading.get_ident() not in readers

    asyncio.run(main())


def _read(request: InferRequest, readers: list[int]) -> InferRequest:
    readers.append(threading.get_ident())
    return request


def test_the_loop_reads_no_more_at_once_than_one_call_may_have() -> None:
    """Many calls that are each just short enough are not one turn: nothing else would be done meanwhile."""
    lane = _lane()
    each = lane.inline_bytes // 2
    for _ in range(5):
        lane.push(Call("m", terms=Terms(size=each)))

    assert [len(lane.take(Urgency.USER, 0, inline=True)) for _ in range(2)] == [2, 2]
    lane.push(Call("m", terms=Terms(size=each)))
    assert len(lane.take(Urgency.USER, 0)) == 2


def test_calls_that_leave_hold_no_other_model_up() -> None:
    """A model whose only call has left is passed over: the next one's has no thread to wait for, as all are busy."""

    async def main() -> None:
        quick, busy = {name: Short() for name in ("m", "left", "next")}, Sums()
        models = {**quick, "busy": busy}
        repository = Repository({name: partial(Loaded, model, "1", ModelSettings()) for name, model in models.items()})
        for name in models:
            repository.load(name)
        plane = DataPlane(repository, PredictorMetrics(lambda: 0.0), ServerSettings(threads=1))
        for name, model in quick.items():
            await _proven(plane, model, name)
        busy.gate.clear()
        held = asyncio.ensure_future(plane.infer_async("busy", rows(1.0)))
        await until(lambda: busy.at_once == 1)
        quick["m"].takes_s = 0.01
        calls = [asyncio.ensure_future(plane.infer_async(name, rows(1.0))) for name in quick]
        await asyncio.sleep(0)
        # The first one's stint ends the loop's turn, and the second leaves before the next.
        calls[1].cancel()
        done, _ = await asyncio.wait({calls[2]}, timeout=PATIENCE_S / 6)
        busy.gate.set()
        await asyncio.wait({held, *calls})
        plane.close()
        repository.close()

        assert done == {calls[2]}

    asyncio.run(main())


def test_errors_on_the_loop_are_the_callers() -> None:
    """A refused row, and a model that would end its thread: the loop lives on, and so do the others in the batch."""

    async def main() -> None:
        model = Short()
        async with serving(model) as plane:
            await _proven(plane, model)
            calls = [plane.infer_async("m", rows(value)) for value in (1.0, BAD, float("nan"), 2.0)]
            first, refused, killed, last = await asyncio.gather(*calls, return_exceptions=True)

            assert isinstance(refused, InvalidInput)
            assert "SystemExit" in str(killed)
            assert not isinstance(first, BaseException)
            assert not isinstance(last, BaseException)
            assert (sums(first), sums(last)) == ([2.0], [4.0])
            assert plane.batcher.in_progress == 0

    asyncio.run(main())


def test_threads_and_loops_may_call_the_same_model() -> None:
    """Each caller gets its own answer, whoever computes it."""

    async def main() -> None:
        model = Short()
        async with serving(model, threads=2) as plane:
            await _proven(plane, model)

            def blocking(value: float) -> list[float]:
                return sums(plane.infer("m", rows(value)))

            values = [float(value) for value in range(200)]
            async with asyncio.timeout(PATIENCE_S):
                threaded = [asyncio.to_thread(blocking, value) for value in values]
                looped = [plane.infer_async("m", rows(value)) for value in values]
                found = await asyncio.gather(*threaded, *looped)

            wanted = [[2.0 * value] for value in values]
            assert found[: len(values)] == wanted
            assert [sums(answer) for answer in found[len(values) :]] == wanted  # type: ignore[arg-type] # the second half
            assert plane.batcher.in_progress == 0

    asyncio.run(main())


def test_calls_that_wait_for_the_loop_are_dropped_at_the_end() -> None:
    """Closed before the loop comes round: refused like all others that wait."""

    async def main() -> None:
        model = Short()
        async with serving(model) as plane:
            await _proven(plane, model)
            waiting = asyncio.ensure_future(plane.infer_async("m", rows(1.0)))
            await asyncio.sleep(0)
            plane.close()
            (outcome,) = await asyncio.gather(waiting, return_exceptions=True)

            assert isinstance(outcome, ModelNotReady)

    asyncio.run(main())


def _lane(settings: ModelSettings | None = None) -> Lane:
    return Lane(Loaded(Short(), "1", settings or ModelSettings()), 4, np.inf, np.inf)


def test_one_long_prediction_is_forgiven_not_several() -> None:
    """Whoever else uses the machine makes single ones long."""
    lane = _lane()
    for _ in range(50):
        lane.timed(0.000_05)
    lane.timed(1.0)

    assert lane.quick(0.0)
    for _ in range(5):
        lane.timed(1.0)
    assert not lane.quick(0.0)


def test_who_held_the_loop_up_stays_away_longer_each_time() -> None:
    """A model that waits for something, whatever its runtime says."""
    lane = _lane()
    for _ in range(50):
        lane.timed(0.000_05)
    now = time.monotonic()
    lane.overran(now)

    assert not lane.quick(now + 0.9)
    assert lane.quick(now + 1.1)
    lane.overran(now)
    assert not lane.quick(now + 1.1)
    for _ in range(100):
        lane.overran(now)
    # The process itself may have been held up, as one is that has used its share of a processor.
    assert not lane.quick(now + 59.0)
    assert lane.quick(now + 61.0)


def test_models_that_wait_for_company_stay_on_threads() -> None:
    """Their batches have a time of their own."""
    lane = _lane(ModelSettings(max_latency_ms=1.0))
    for _ in range(50):
        lane.timed(0.000_05)

    assert not lane.quick(0.0)
