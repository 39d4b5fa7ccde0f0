"""The data plane, called as transports call it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from inference.batching.streaming import _AHEAD
from inference.batching.terms import Terms
from inference.errors import InvalidInput, ModelNotFound, PredictionFailed, Unsupported
from inference.protocol import v1
from inference.protocol.tensors import Tensor
from inference.protocol.v2 import InferRequest, InferResponse, RequestedOutput
from inference.runtime import Answer, Arrays, Asked
from tests.inference.batching.models import BAD, Scales, Sums, Tells, hold, rows, serving, sums, until


def _run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(main())


def test_parameters_reach_a_runtime_that_wants_them() -> None:
    """Those of the request and of the outputs go in; those of the response and its tensors come out."""

    async def main() -> None:
        async with serving(Scales()) as plane:
            answer = await plane.infer_async(
                "m",
                InferRequest(
                    inputs=(Tensor.of("x", np.ones((1, 2))),),
                    parameters={"factor": 4},
                    outputs=(RequestedOutput(name="sum", parameters={"unit": "kg"}),),
                    id="seven",
                ),
            )

            assert sums(answer) == [8.0]
            assert (answer.id, answer.model_version, answer.parameters) == ("seven", "1", {"scaled": 4})
            assert answer.outputs[0].parameters == {"unit": "kg"}

    _run(main)


def test_versions_are_answered() -> None:
    """The version that was asked for, or none, is answered with its own name; another does not exist."""

    async def main() -> None:
        async with serving(Sums()) as plane:
            answer = await plane.infer_async("m", rows(1.0), "1")

            assert answer.model_version == "1"
            assert plane.infer("m", rows(1.0)).model_version == "1"
            with pytest.raises(ModelNotFound):
                await plane.infer_async("m", rows(1.0), "2")

    _run(main)


@pytest.mark.parametrize("outputs", [("sum", "product"), ("product",)])
def test_unknown_outputs_are_refused(outputs: tuple[str, ...]) -> None:
    """Outputs that the model does not have are the caller's mistake, and named."""

    async def main() -> None:
        asked = InferRequest(inputs=rows(1.0).inputs, outputs=tuple(RequestedOutput(name=name) for name in outputs))
        async with serving(Sums()) as plane:
            with pytest.raises(InvalidInput, match=r"unknown \['product'\]; the model gives \['sum'\]"):
                await plane.infer_async("m", asked)

    _run(main)


def test_v1_and_v2_share_a_batch() -> None:
    """What waits is joined whichever protocol it came by."""

    async def main() -> None:
        model = Sums()
        async with serving(model, threads=1) as plane:
            held = await hold(plane, model)
            asked = v1.decode_request(b'{"instances": [[1.0, 2.0], [3.0, 4.0]]}')
            over_v2 = asyncio.ensure_future(plane.infer_async("m", rows(7.0, name="instances")))
            over_v1 = asyncio.ensure_future(plane.answer_v1_async("m", lambda: asked, lambda *answer: answer))
            await until(lambda: plane.batcher.waiting == 2)
            model.gate.set()
            await asyncio.gather(over_v2, over_v1, *held)

            assert sums(over_v2.result()) == [14.0]
            assert over_v1.result() == ([3.0, 7.0], "1")
            assert model.batches == [1, 3]

    _run(main)


async def _collect(pieces: AsyncIterator[str], into: list[str]) -> None:
    async for piece in pieces:
        into.append(piece)  # noqa: PERF401 - what came before an error is the point


def test_texts_come_piece_by_piece() -> None:
    """Pieces arrive in order and whole; what the model raises comes after those that it made."""

    async def main() -> None:
        model = Tells()
        async with serving(model) as plane:
            pieces = [piece async for piece in plane.generate_async("m", "to be or", {"times": 100})]
            broken: list[str] = []
            with pytest.raises(PredictionFailed, match="lost for words"):
                await _collect(plane.generate_async("m", "to be", {"fail": True}), broken)

            assert pieces == ["to", "be", "or"] * 100
            assert broken == ["to", "be"]
            await until(lambda: plane.batcher.in_progress == 0)

    _run(main)


def test_readers_hold_texts_up_and_end_them() -> None:
    """A slow reader slows the model down; one that leaves ends it, and the thread is free again."""

    async def main() -> None:
        model = Tells()
        async with serving(model, threads=1) as plane:
            text = plane.generate_async("m", "on and on", {"times": 1_000_000})
            first = await anext(text)
            await until(lambda: model.made >= _AHEAD)
            for _ in range(3):
                await asyncio.sleep(0.01)
            made = model.made
            await text.aclose()
            await until(model.closed.is_set)

            assert first == "on"
            assert made <= _AHEAD + 2
            assert sums(await plane.infer_async("m", rows(1.0))) == [2.0]

    _run(main)


def test_models_without_text_say_so() -> None:
    """Only a model that makes text streams some, and only one that explains itself explains."""

    async def main() -> None:
        async with serving(Sums()) as plane:
            with pytest.raises(Unsupported):
                await anext(plane.generate_async("m", "hello", {}))
            with pytest.raises(Unsupported):
                await plane.explain_v1_async("m", lambda: v1.decode_request(b"{}"), lambda *answer: answer)

    _run(main)


def test_metrics_tell_batches_apart() -> None:
    """Queue, compute and sizes are there per model, rows per protocol."""

    async def main() -> str:
        model = Sums()
        async with serving(model, threads=1) as plane:
            held = await hold(plane, model)
            waiting = [
                asyncio.ensure_future(plane.infer_async("m", rows(1.0, 2.0), terms=Terms(protocol="grpc")))
                for _ in range(3)
            ]
            await until(lambda: plane.batcher.waiting == 3)
            model.gate.set()
            await asyncio.gather(*held, *waiting)
            with pytest.raises(InvalidInput):
                await plane.infer_async("m", rows(BAD))
            return plane.metrics.page().decode()

    found = {
        (sample.name.removeprefix("sidelight_predictor_"), *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(asyncio.run(main()))
        for sample in family.samples
    }
    model = ("model_name", "m")

    assert found["batch_rows_bucket", ("le", "1.0"), model] == 1
    assert found["batch_rows_bucket", ("le", "8.0"), model] == 2
    assert found["batch_calls_sum", model] == 4
    assert found["compute_seconds_count", model] == 2
    assert found["queue_seconds_count", model] == 4
    assert found["rows_total", model, ("protocol", "grpc")] == 6
    assert found["rows_total", model, ("protocol", "v2")] == 1
    assert found["request_predict_seconds_count", model] == 4


class _Repeats(Sums):
    """Gives its answer twice."""

    def stream(self, inputs: Arrays, asked: Asked) -> Iterator[Answer]:
        del asked
        for _ in range(2):
            yield Answer(outputs=self.predict(inputs))


def test_several_answers_are_written_where_they_are_made() -> None:
    """On the event loop, a long one would hold up everybody's calls."""

    async def main() -> None:
        async with serving(_Repeats()) as plane:
            request, threads = rows(1.0, 2.0), set[int]()

            def encode(answer: InferResponse, _request: InferRequest) -> list[float]:
                threads.add(threading.get_ident())
                return sums(answer)

            stream = plane.stream_async("m", lambda: request, encode)
            found = [answer async for answer in stream]

            assert found == [sums(await plane.infer_async("m", request))] * 2
            assert threads
            assert threading.get_ident() not in threads

    _run(main)
