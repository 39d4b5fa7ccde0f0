"""Texts that nobody waits for any more leave nothing behind."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from inference.errors import DeadlineExceeded
from tests.inference.batching.models import PATIENCE_S, Tells, rows, serving, sums, until


class Stops(Tells):
    """Makes one word, and the next when its gate is open."""

    def generate(self, prompt: str, parameters: object) -> Iterator[str]:
        """Give the prompt, twice."""
        del parameters
        yield prompt
        self.gate.wait(PATIENCE_S)
        yield prompt


def test_a_reader_that_leaves_leaves_no_task() -> None:
    """Cancelled between two pieces: what waited for the next one is not left waiting."""

    async def main() -> None:
        model = Stops()
        model.gate.clear()
        async with serving(model) as plane:
            text = plane.generate_async("m", "word", {})
            await anext(text)
            coming = asyncio.ensure_future(anext(text))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            coming.cancel()
            await asyncio.wait({coming})
            await until(lambda: asyncio.all_tasks() == {asyncio.current_task()})
            model.gate.set()

    asyncio.run(main())


def test_a_reader_that_takes_nothing_frees_the_thread() -> None:
    """Connected and silent: the model stops after its time, for its thread is needed by others."""

    async def main() -> None:
        model = Tells()
        async with serving(model, threads=1, timeout_s=1.0) as plane:
            text = plane.generate_async("m", "word", {"times": 1_000})
            first = await anext(text)
            await until(model.closed.is_set)
            answer = await plane.infer_async("m", rows(1.0))
            with pytest.raises(DeadlineExceeded):
                _ = [piece async for piece in text]

        assert first == "word"
        assert sums(answer) == [2.0]

    asyncio.run(main())
