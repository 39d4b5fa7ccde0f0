"""The batcher: idle it adds nothing, busy it joins, and nobody pays for another."""

from __future__ import annotations

import asyncio
import math
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.batching.batcher import Batcher
from inference.batching.call import Call
from inference.batching.terms import Terms
from inference.dataplane import DataPlane
from inference.errors import (
    ClientGone,
    DeadlineExceeded,
    InvalidInput,
    ModelNotFound,
    ModelNotReady,
    Overloaded,
    Postponed,
    PredictionFailed,
)
from inference.protocol.errors import MalformedBody
from inference.protocol.v2 import InferRequest
from inference.repository import Repository, Wanted
from inference.runtime import Asked
from inference.settings import ModelSettings, QueueLimit
from tests.inference.batching.models import (
    BAD,
    PATIENCE_S,
    Loading,
    Scales,
    Slow,
    Sums,
    Totals,
    hold,
    rows,
    serving,
    sums,
    until,
    until_true,
)

_ASKED = Asked()
YIELDING = Terms(yielding=True)


def _run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(main())


def test_idle_calls_run_at_once_and_alone() -> None:
    """With a thread free, no call waits for another, and none is joined."""

    async def main() -> None:
        model = Sums()
        async with serving(model) as plane:
            answers = [sums(await plane.infer_async("m", rows(float(index)))) for index in range(5)]

            assert answers == [[0.0], [2.0], [4.0], [6.0], [8.0]]
            assert model.batches == [1] * 5

    _run(main)


def test_what_waits_is_joined_up_to_the_limit() -> None:
    """While all threads are busy calls gather; they run as few batches of at most max_batch rows, each gets its own."""

    async def main() -> None:
        model = Sums()
        async with serving(model, threads=1) as plane:
            held = await hold(plane, model)
            waiting = [asyncio.ensure_future(plane.infer_async("m", rows(float(index)))) for index in range(10)]
            await until(lambda: plane.batcher.waiting == 10)
            model.gate.set()
            answers = [sums(answer) for answer in await asyncio.gather(*waiting)]
            await asyncio.gather(*held)

            assert answers == [[2.0 * index] for index in range(10)]
            assert model.batches == [1, 8, 2]
            assert plane.batcher.in_progress == 0

    _run(main)


def test_only_what_fits_together_is_joined() -> None:
    """Other names, widths or dtypes go by themselves, in their turn, and rows are counted, not calls."""

    async def main() -> None:
        model = Sums()
        async with serving(model, threads=1) as plane:
            held = await hold(plane, model)
            asked = [rows(1, 2), rows(3, width=4), rows(4), rows(5, name="y"), rows(*range(20)), rows(6)]
            waiting = [asyncio.ensure_future(plane.infer_async("m", request)) for request in asked]
            await until(lambda: plane.batcher.waiting == 6)
            model.gate.set()
            answers = [sums(answer) for answer in await asyncio.gather(*waiting)]
            await asyncio.gather(*held)

            assert answers == [[2, 4], [12], [8], [10], [2.0 * index for index in range(20)], [12]]
            assert sorted(model.batches) == [1, 1, 1, 4, 20]

    _run(main)


@pytest.mark.parametrize(
    ("value", "error", "says"), [(BAD, InvalidInput, "a bad row"), (math.nan, PredictionFailed, "a row that kills")]
)
def test_nobody_pays_for_anothers_rows(value: float, error: type[Exception], says: str) -> None:
    """A batch that fails is done again call by call: one gets its error, the others their answers."""

    async def main() -> None:
        model = Sums()
        async with serving(model, threads=1) as plane:
            held = await hold(plane, model)
            values = [1.0, value, 3.0]
            waiting = [asyncio.ensure_future(plane.infer_async("m", rows(each))) for each in values]
            await until(lambda: plane.batcher.waiting == 3)
            model.gate.set()
            good = [sums(answer) for answer in await asyncio.gather(waiting[0], waiting[2])]
            with pytest.raises(error, match=says):
                await waiting[1]
            await asyncio.gather(*held)

            assert good == [[2.0], [6.0]]
            assert model.batches == [1, 3, 1, 1, 1]

    _run(main)


def test_bad_rows_do_not_end_the_joining() -> None:
    """A batch that fails for one call's rows says nothing about the next."""

    async def main() -> None:
        model = Sums()
        async with serving(model, threads=1) as plane:
            for turn in range(3):
                model.gate.clear()
                model.batches.clear()
                held = asyncio.ensure_future(plane.infer_async("m", rows(float(turn))))
                await until(lambda: model.batches == [1])
                values = [1.0, BAD, 3.0]
                waiting = [asyncio.ensure_future(plane.infer_async("m", rows(each))) for each in values]
                await until(lambda: plane.batcher.waiting == 3)
                model.gate.set()
                await asyncio.gather(held, *waiting, return_exceptions=True)

                assert model.batches == [1, 3, 1, 1, 1]

    _run(main)


def test_calls_that_cannot_be_read_harm_nobody() -> None:
    """An error while decoding is its caller's alone."""

    def unreadable() -> InferRequest:
        raise MalformedBody("body", "no JSON")

    async def main() -> None:
        model = Sums()
        async with serving(model, threads=1) as plane:
            held = await hold(plane, model)
            bad = asyncio.ensure_future(plane.answer_async("m", unreadable, lambda response, _: response))
            good = [asyncio.ensure_future(plane.infer_async("m", rows(1.0))) for _ in range(2)]
            await until(lambda: plane.batcher.waiting == 3)
            model.gate.set()

            with pytest.raises(MalformedBody):
                await bad
            assert [sums(answer) for answer in await asyncio.gather(*good)] == [[2.0], [2.0]]
            await asyncio.gather(*held)

    _run(main)


def test_outputs_that_are_not_by_rows_end_the_joining() -> None:
    """A model whose output has another first dimension gets every call by itself from then on."""

    async def main() -> None:
        model = Totals()
        async with serving(model, threads=1) as plane:
            for expected in ([1, 3, 1, 1, 1], [1, 3, 1, 1, 1, 1, 1, 1, 1]):
                held = await hold_one(plane, model)
                waiting = [asyncio.ensure_future(plane.infer_async("m", rows(float(index)))) for index in range(3)]
                await until(lambda: plane.batcher.waiting == 3)
                model.gate.set()
                answers = [sums(answer) for answer in await asyncio.gather(*waiting)]
                await held

                assert answers == [[0, 0], [2, 0], [4, 0]]
                assert model.batches == expected

    async def hold_one(plane: DataPlane, model: Sums) -> asyncio.Future[Any]:
        model.gate.clear()
        before = len(model.batches)
        held = asyncio.ensure_future(plane.infer_async("m", rows(0.0)))
        await until(lambda: len(model.batches) == before + 1)
        return held

    _run(main)


def test_models_say_whether_rows_are_joined() -> None:
    """A runtime that does not promise independent rows is never given joined calls, unless the operator says so."""

    class Unpromising(Sums):
        max_batch = 1

    async def batches(settings: ModelSettings) -> list[int]:
        model = Unpromising()
        async with serving(model, settings, threads=1) as plane:
            held = await hold(plane, model)
            waiting = [asyncio.ensure_future(plane.infer_async("m", rows(1.0))) for _ in range(4)]
            await until(lambda: plane.batcher.waiting == 4)
            model.gate.set()
            await asyncio.gather(*waiting, *held)
        return model.batches

    async def main() -> None:
        assert await batches(ModelSettings()) == [1, 1, 1, 1, 1]
        assert await batches(ModelSettings(max_batch=3)) == [1, 3, 1]

    _run(main)


def test_users_go_first_and_others_do_not_starve() -> None:
    """Users' calls overtake those that yield, and every so many-th turn goes to one of these all the same."""

    async def main() -> None:
        model = Sums()
        order: list[str] = []
        limits = ModelSettings(max_batch=1)
        async with serving(model, limits, threads=1, yielding_every=3) as plane:
            held = await hold(plane, model)

            async def call(who: str, terms: Terms) -> None:
                await plane.infer_async("m", rows(1.0), terms=terms)
                order.append(who)

            waiting = [asyncio.ensure_future(call("yielding", YIELDING)) for _ in range(3)]
            waiting += [asyncio.ensure_future(call("user", Terms())) for _ in range(5)]
            await until(lambda: plane.batcher.waiting == 8)
            model.gate.set()
            await asyncio.gather(*waiting, *held)

        assert order == ["user", "user", "yielding", "user", "user", "yielding", "user", "yielding"]

    _run(main)


def test_one_thread_stays_free_of_what_yields() -> None:
    """However many calls yield, a user's finds a thread."""

    async def main() -> None:
        model = Sums()
        async with serving(model, ModelSettings(max_batch=1), threads=3) as plane:
            model.gate.clear()
            others = [asyncio.ensure_future(plane.infer_async("m", rows(0.0), terms=YIELDING)) for _ in range(6)]
            await until(lambda: model.at_once == 2)
            user = asyncio.ensure_future(plane.infer_async("m", rows(9.0)))
            await until(lambda: model.at_once == 3)
            waiting = plane.batcher.waiting
            model.gate.set()

            assert sums(await user) == [18.0]
            assert waiting == 4
            await asyncio.gather(*others)

    _run(main)


def test_calls_may_say_in_their_parameters_that_they_yield() -> None:
    """What has no header for it is found out when it is read, and then goes behind users' calls."""

    async def main() -> None:
        model = Sums()
        order: list[str] = []
        async with serving(model, ModelSettings(max_batch=1), threads=1) as plane:
            held = await hold(plane, model)

            async def call(who: str, parameters: dict[str, Any]) -> None:
                await plane.infer_async("m", rows(1.0, parameters=parameters))
                order.append(who)

            waiting = [asyncio.ensure_future(call("synthetic", {"sidelight_synthetic": True}))]
            waiting += [asyncio.ensure_future(call("user", {})) for _ in range(2)]
            await until(lambda: plane.batcher.waiting == 3)
            model.gate.set()
            await asyncio.gather(*waiting, *held)

        assert order == ["user", "user", "synthetic"]

    _run(main)


def test_full_queues_refuse_and_say_when_to_come_again() -> None:
    """Beyond the limit a user's call is refused with Overloaded, one that yields, earlier, with Postponed."""

    async def main() -> None:
        model = Sums()
        async with serving(model, threads=1, queue=4) as plane:
            held = await hold(plane, model)
            others = [asyncio.ensure_future(plane.infer_async("m", rows(0.0), terms=YIELDING)) for _ in range(2)]
            users = [asyncio.ensure_future(plane.infer_async("m", rows(0.0))) for _ in range(4)]
            await until(lambda: plane.batcher.waiting == 6)
            with pytest.raises(Postponed) as postponed:
                await plane.infer_async("m", rows(0.0), terms=YIELDING)
            with pytest.raises(Overloaded) as refused:
                await plane.infer_async("m", rows(0.0))
            model.gate.set()
            await asyncio.gather(*held, *users, *others)

            assert type(refused.value) is Overloaded
            assert 1 <= refused.value.retry_after_s <= 60
            assert postponed.value.waiting == 7
            assert sums(await plane.infer_async("m", rows(1.0))) == [2.0]

    _run(main)


@pytest.mark.parametrize(
    ("limits", "server"),
    [
        (ModelSettings(queue=QueueLimit(calls=1)), {}),
        (ModelSettings(queue=QueueLimit(bytes=100)), {}),
        (ModelSettings(), {"queue_bytes": 100}),
    ],
)
def test_every_limit_acts(limits: ModelSettings, server: dict[str, Any]) -> None:
    """A model's own limit in calls or bytes, or the process's in bytes, refuses the second call that waits."""

    async def main() -> None:
        model = Sums()
        async with serving(model, limits, threads=1, **server) as plane:
            held = await hold(plane, model)
            first = asyncio.ensure_future(plane.infer_async("m", rows(1.0), terms=Terms(size=1_000)))
            await until(lambda: plane.batcher.waiting == 1)
            with pytest.raises(Overloaded):
                await plane.infer_async("m", rows(2.0), terms=Terms(size=10))
            model.gate.set()

            assert sums(await first) == [2.0]
            await asyncio.gather(*held)

    _run(main)


def test_late_calls_never_start() -> None:
    """A caller's own deadline ends its wait, frees its place, and the model never sees the call."""

    async def main() -> None:
        model = Sums()
        async with serving(model, threads=1, queue=1) as plane:
            held = await hold(plane, model)
            with pytest.raises(DeadlineExceeded, match=r"no answer within 0(\.0\d+)? s"):
                await plane.infer_async("m", rows(5.0), terms=Terms(deadline=time.monotonic() + 0.03))
            waiting = plane.batcher.waiting
            next_one = asyncio.ensure_future(plane.infer_async("m", rows(1.0)))
            await until(lambda: plane.batcher.waiting == 1)
            model.gate.set()

            assert waiting == 0
            assert sums(await next_one) == [2.0]
            await asyncio.gather(*held)
            assert model.batches == [1, 1]

    _run(main)


def test_callers_that_leave_are_taken_out() -> None:
    """A cancelled caller leaves the queue at once; one whose client is gone is found out while it waits."""

    async def gone() -> None:
        await asyncio.sleep(0)

    async def main() -> None:
        model = Sums()
        async with serving(model, threads=1) as plane:
            held = await hold(plane, model)
            cancelled = asyncio.ensure_future(plane.infer_async("m", rows(1.0)))
            left = asyncio.ensure_future(
                plane.answer_async("m", lambda: rows(2.0), lambda response, _: response, gone=gone)
            )
            await until(lambda: plane.batcher.waiting == 2)
            cancelled.cancel()
            with pytest.raises(ClientGone):
                await left
            waiting = plane.batcher.waiting
            model.gate.set()
            await asyncio.gather(*held)

            assert waiting == 0
            assert cancelled.cancelled()
            assert model.batches == [1]

    _run(main)


def test_unsafe_models_run_one_batch_at_a_time() -> None:
    """A model that is not thread-safe never holds more than one thread; what waits for it is joined."""

    async def main() -> None:
        slow = Slow()
        async with serving(slow, threads=4) as plane:
            held = await hold(plane, slow)
            waiting = [asyncio.ensure_future(plane.infer_async("m", rows(float(index)))) for index in range(6)]
            await until(lambda: plane.batcher.waiting == 6)
            slow.gate.set()
            answers = [sums(answer) for answer in await asyncio.gather(*waiting)]
            await asyncio.gather(*held)

            assert answers == [[2.0 * index] for index in range(6)]
            assert slow.most_at_once == 1
            assert slow.batches == [1, 6]

    _run(main)


def test_parallel_acts() -> None:
    """No more batches of a model run at once than its settings allow."""

    async def main() -> None:
        model = Sums()
        async with serving(model, ModelSettings(parallel=2, max_batch=1), threads=4) as plane:
            model.gate.clear()
            waiting = [asyncio.ensure_future(plane.infer_async("m", rows(float(index)))) for index in range(8)]
            await until(lambda: plane.batcher.waiting == 6)
            model.gate.set()
            await asyncio.gather(*waiting)

            assert model.most_at_once == 2

    _run(main)


def test_latency_is_traded_for_company_only_if_asked() -> None:
    """With max_latency_ms an idle model waits for company; a whole batch goes at once."""

    async def main() -> None:
        model = Sums()
        async with serving(model, ModelSettings(max_batch=4, max_latency_ms=10_000.0)) as plane:
            waiting = [asyncio.ensure_future(plane.infer_async("m", rows(float(index)))) for index in range(3)]
            await until(lambda: plane.batcher.waiting == 3)
            before = list(model.batches)
            waiting.append(asyncio.ensure_future(plane.infer_async("m", rows(3.0))))
            answers = [sums(answer) for answer in await asyncio.gather(*waiting)]

            assert before == []
            assert answers == [[0.0], [2.0], [4.0], [6.0]]
            assert model.batches == [4]

        model = Sums()
        async with serving(model, ModelSettings(max_latency_ms=300.0)) as plane:
            start = time.monotonic()
            answers = [
                sums(each) for each in await asyncio.gather(*(plane.infer_async("m", rows(1.0)) for _ in range(3)))
            ]

            assert time.monotonic() - start >= 0.3
            assert answers == [[2.0]] * 3
            assert model.batches == [3]

    _run(main)


def test_pad_to_acts() -> None:
    """Batches are filled up to the sizes given, and callers see only their own rows."""

    async def main() -> None:
        model = Sums()
        async with serving(model, ModelSettings(pad_to=(4, 16)), threads=1) as plane:
            alone = sums(await plane.infer_async("m", rows(1.0)))
            held = await hold_after(plane, model)
            waiting = [asyncio.ensure_future(plane.infer_async("m", rows(float(index)))) for index in range(6)]
            await until(lambda: plane.batcher.waiting == 6)
            model.gate.set()
            answers = [sums(answer) for answer in await asyncio.gather(*waiting)]
            await held
            large = sums(await plane.infer_async("m", rows(*range(20))))

            assert alone == [2.0]
            assert answers == [[2.0 * index] for index in range(6)]
            assert large == [2.0 * index for index in range(20)]
            assert model.batches == [4, 4, 16, 20]

    async def hold_after(plane: DataPlane, model: Sums) -> asyncio.Future[Any]:
        model.gate.clear()
        held = asyncio.ensure_future(plane.infer_async("m", rows(0.0)))
        await until(lambda: len(model.batches) == 2)
        return held

    _run(main)


def test_outputs_that_padding_would_change_are_not_padded() -> None:
    """A model whose outputs are not by rows is asked again without padding."""

    async def main() -> None:
        model = Totals()
        async with serving(model, ModelSettings(pad_to=(4,))) as plane:
            assert sums(await plane.infer_async("m", rows(1.0))) == [2.0, 0.0]
            assert sums(await plane.infer_async("m", rows(1.0))) == [2.0, 0.0]
            assert model.batches == [4, 1, 1]

    _run(main)


def test_calls_that_ask_differently_are_not_joined() -> None:
    """A runtime that looks at parameters gets together only what asks the same."""

    async def main() -> None:
        model = Scales()
        async with serving(model, threads=1) as plane:
            held = await hold(plane, model)
            factors = [2, 2, 5, 2]
            waiting = [
                asyncio.ensure_future(plane.infer_async("m", rows(1.0, parameters={"factor": factor})))
                for factor in factors
            ]
            await until(lambda: plane.batcher.waiting == 4)
            model.gate.set()
            answers = await asyncio.gather(*waiting)
            await asyncio.gather(*held)

            assert [sums(answer) for answer in answers] == [[4.0], [4.0], [10.0], [4.0]]
            assert [answer.parameters for answer in answers] == [{"scaled": factor} for factor in factors]
            assert model.batches == [1, 3, 1]

    _run(main)


def test_threads_may_call_too() -> None:
    """Blocking callers share batches, limits and deadlines with event loops."""

    async def main() -> None:
        model = Sums()
        async with serving(model, threads=1) as plane:
            held = await hold(plane, model)
            loop = asyncio.get_running_loop()
            with ThreadPoolExecutor(4) as threads:
                waiting = [loop.run_in_executor(threads, plane.infer, "m", rows(float(index))) for index in range(3)]
                late = loop.run_in_executor(
                    threads, plane.infer, "m", rows(9.0), None, Terms(deadline=time.monotonic() + 0.03)
                )
                with pytest.raises(DeadlineExceeded):
                    await late
                await until(lambda: plane.batcher.waiting == 3)
                model.gate.set()
                answers = [sums(answer) for answer in await asyncio.gather(*waiting)]
            await asyncio.gather(*held)

            assert answers == [[0.0], [2.0], [4.0]]
            assert model.batches == [1, 3]
            with pytest.raises(InvalidInput):
                plane.infer("m", rows(BAD))
            with pytest.raises(ModelNotFound):
                plane.infer("nobody", rows(1.0))

    _run(main)


def test_one_wake_up_per_batch() -> None:
    """The event loop is woken once for all the calls of a batch."""

    class Counting(asyncio.SelectorEventLoop):
        woken = 0

        def call_soon_threadsafe(
            self, callback: Callable[..., object], *words: object, context: Context | None = None
        ) -> asyncio.Handle:
            self.woken += 1
            return super().call_soon_threadsafe(callback, *words, context=context)

    async def main() -> tuple[int, int]:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, Counting)
        model = Sums()
        async with serving(model, threads=1) as plane:
            held = await hold(plane, model)
            waiting = [asyncio.ensure_future(plane.infer_async("m", rows(1.0))) for _ in range(8)]
            await until(lambda: plane.batcher.waiting == 8)
            before = loop.woken
            model.gate.set()
            await asyncio.gather(*waiting, *held)
            return before, loop.woken

    with asyncio.Runner(loop_factory=Counting) as runner:
        before, after = runner.run(main())

    # One for the call that was held, one for the eight.
    assert after - before == 2


def test_models_are_loaded_for_calls_that_wait() -> None:
    """A call whose model must be loaded first holds no thread; it counts as waiting, may leave, hears of failures."""

    async def main() -> None:
        model = Sums()
        async with serving(model) as plane:
            loading = Loading()
            batcher = Batcher(loading, plane.metrics, threads=1)
            repository: Any = plane._repository

            def call() -> Call:
                return Call("m", lambda: ({"x": np.ones((1, 2))}, _ASKED), lambda answer, _: answer.outputs["sum"][0])

            good, bad, left = (asyncio.ensure_future(batcher.run(call())) for _ in range(3))
            await until(lambda: len(loading.pending) == 3)
            waiting = batcher.waiting
            left.cancel()
            await until(lambda: batcher.waiting == 2)
            loading.pending[0](repository.lease("m"))
            loading.pending[1](ModelNotReady("m"))
            late = repository.lease("m")
            loading.pending[2](late)

            assert waiting == 3
            assert await good == 2.0
            with pytest.raises(ModelNotReady):
                await bad
            assert batcher.in_progress == 0
            batcher.close()

    _run(main)


def test_leases_are_given_back_once() -> None:
    """However loading threads and worker threads meet, each lease is released, and only once."""

    class Elsewhere:
        """Gives leases from threads of its own."""

        def __init__(self, repository: Repository) -> None:
            self.repository = repository
            self.threads = ThreadPoolExecutor(4)

        def lease(self, name: str, version: Wanted = None) -> None:
            del name, version

        def lease_later(self, name: str, version: Wanted, done: Callable[[Any], None]) -> None:
            self.threads.submit(lambda: done(self.repository.lease(name, version)))

    async def main() -> None:
        async with serving(Sums()) as plane:
            models = Elsewhere(plane._repository)
            batcher = Batcher(models, plane.metrics, threads=3, queue=10_000)
            calls = [
                Call("m", lambda: ({"x": np.ones((1, 2))}, _ASKED), lambda answer, _: answer.outputs["sum"][0])
                for _ in range(2_000)
            ]
            answers = await asyncio.gather(*(batcher.run(call) for call in calls))
            models.threads.shutdown()
            batcher.close()
            lease = plane._repository.lease("m")

            assert answers == [2.0] * 2_000
            assert lease is not None
            assert lease._users == 1

    usual = sys.getswitchinterval()
    # Threads take turns after every few instructions, so that they meet everywhere.
    sys.setswitchinterval(1e-6)
    try:
        _run(main)
    finally:
        sys.setswitchinterval(usual)


def test_closing_answers_what_waits() -> None:
    """What still waits when the process ends is told so."""

    async def main() -> None:
        model = Sums()
        async with serving(model, threads=1) as plane:
            held = await hold(plane, model)
            waiting = asyncio.ensure_future(plane.infer_async("m", rows(1.0)))
            await until(lambda: plane.batcher.waiting == 1)
            plane.batcher.close(grace_s=0.0)
            with pytest.raises(ModelNotReady):
                await waiting
            model.gate.set()

            assert sums(await held[0]) == [0.0]

    _run(main)


@settings(max_examples=25)
@given(
    st.lists(
        st.tuples(st.integers(1, 12), st.integers(2, 4), st.sampled_from([1.0, 2.0, BAD, math.nan]), st.booleans()),
        min_size=1,
        max_size=40,
    ),
    st.integers(1, 4),
    st.sampled_from([(), (4, 8), (8, 32)]),
)
def test_every_caller_gets_its_own(
    calls: list[tuple[int, int, float, bool]], threads: int, sizes: tuple[int, ...]
) -> None:
    """Whatever sizes, shapes, failures and priorities come together, each call gets exactly what it would get alone."""

    async def one(plane: DataPlane, index: int, count: int, width: int, value: float, *, yielding: bool) -> None:
        values = [index + 10.0] * count
        values[count // 2] = values[count // 2] if value > 0 else value
        request = rows(*values, width=width)
        terms = replace(Terms(), yielding=yielding)
        if value > 0:
            assert sums(await plane.infer_async("m", request, terms=terms)) == [width * each for each in values]
        else:
            with pytest.raises(InvalidInput if value == BAD else PredictionFailed):
                await plane.infer_async("m", request, terms=terms)

    async def main() -> None:
        async with serving(Sums(), ModelSettings(pad_to=sizes), threads=threads) as plane:
            await asyncio.gather(
                *(
                    one(plane, index, count, width, value, yielding=yielding)
                    for index, (count, width, value, yielding) in enumerate(calls)
                )
            )
            await until(lambda: plane.batcher.in_progress == 0)

    _run(main)


def test_many_threads_lose_no_call() -> None:
    """Blocking callers by the thousand, from many threads: every call is answered, and with its own answer."""
    model = Sums()

    async def main() -> None:
        async with serving(model, threads=3, queue=64) as plane:
            wrong: list[object] = []

            def work(seed: int) -> None:
                for index in range(200):
                    value = float(seed * 1_000 + index)
                    try:
                        answer = sums(plane.infer("m", rows(value, value + 1)))
                    except Exception as exc:  # noqa: BLE001 - shown below
                        wrong.append(exc)
                        continue
                    if answer != [2 * value, 2 * value + 2]:
                        wrong.append((value, answer))

            threads = [threading.Thread(target=work, args=(seed,)) for seed in range(12)]
            for thread in threads:
                thread.start()
            for thread in threads:
                await asyncio.to_thread(thread.join, PATIENCE_S)

            assert wrong == []
            assert sum(model.batches) == 12 * 200 * 2
            until_true(lambda: plane.batcher.in_progress == 0)

    _run(main)
