"""ModelStreamInfer, whose caller has gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping

from inference.grpc.predictions import Predictions
from inference.protocol.grpc_codec import encode_request
from tests.inference.batching.models import Sums, rows, serving, until


class _Asked:
    head: Mapping[str, str] = {}
    deadline: float | None = None


def test_a_stream_that_ends_early_leaves_no_task() -> None:
    """With as many messages begun as may be: the one that reads them does not wait for a place for good."""

    async def main() -> None:
        model = Sums()
        model.gate.clear()
        async with serving(model) as plane:

            async def messages() -> AsyncGenerator[bytes, None]:
                for _ in range(40):
                    yield encode_request("m", rows(1.0), raw=True)

            answers = Predictions(plane).stream(messages(), _Asked())
            first = asyncio.ensure_future(anext(answers))
            # One is waited for, sixteen lie in the queue, and one has no place there.
            await until(lambda: plane.batcher.in_progress == 18)
            first.cancel()
            await asyncio.wait({first})
            await until(lambda: asyncio.all_tasks() == {asyncio.current_task()})
            model.gate.set()

    asyncio.run(main())
