"""Texts that nobody waits for any more leave nothing behind."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from tests.inference.batching.models import PATIENCE_S, Tells, serving, until


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
