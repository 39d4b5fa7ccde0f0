"""ModelInfer, and Triton's ModelStreamInfer: one message in, one answer out, in order, several at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Any, Final

from inference.batching.terms import Terms
from inference.dataplane import DataPlane
from inference.errors import ClientGone
from inference.grpc.callers import synthetic, terms_of
from inference.grpc.methods import Asked
from inference.grpc.statuses import note, text_of
from inference.protocol.grpc_codec import Received, encode_response, encode_stream_error, encode_streamed
from inference.protocol.v2 import InferRequest, InferResponse
from inference.rest import answers

_AHEAD: Final = 16
"""Messages of one stream that are predicted on while the answer to an earlier one is yet to be sent."""
_OK, _BUG = 200, 500


class Predictions:
    """The two methods over one data plane."""

    def __init__(self, plane: DataPlane) -> None:
        self._plane = plane

    async def unary(self, data: bytes, asked: Asked) -> bytes:
        """Answer ModelInfer. Cancelled, as it is when the client has gone, the call leaves the queue."""
        head, model = asked.head, ""
        try:
            received = Received(data)
            model = received.model
            answer = await self._predicted(received, terms_of(asked, len(data)))
        except asyncio.CancelledError:
            self._count(model, head, ClientGone())
            raise
        except Exception as exc:
            self._count(model, head, exc)
            raise
        self._count(model, head)
        return answer

    async def stream(self, messages: AsyncIterator[bytes], asked: Asked) -> AsyncGenerator[bytes, None]:
        """Answer ModelStreamInfer. What goes wrong with a message is its own answer, and the stream goes on."""
        head = asked.head
        waiting: asyncio.Queue[asyncio.Task[bytes] | None] = asyncio.Queue(_AHEAD)
        tasks: set[asyncio.Task[Any]] = set()

        async def read() -> None:
            try:
                async for data in messages:
                    task = asyncio.ensure_future(self._streamed(data, head, terms_of(asked, len(data))))
                    tasks.add(task)
                    task.add_done_callback(tasks.discard)
                    await waiting.put(task)
            finally:
                await waiting.put(None)

        reader = asyncio.ensure_future(read())
        try:
            while (task := await waiting.get()) is not None:
                yield await task
            await reader
        finally:
            for each in (reader, *tasks):
                each.cancel()

    async def _streamed(self, data: bytes, head: Mapping[str, str], terms: Terms) -> bytes:
        model = identity = ""
        try:
            received = Received(data)
            model, identity = received.model, received.id
            answer = await self._predicted(received, terms)
        except asyncio.CancelledError:
            self._count(model, head, ClientGone())
            raise
        except Exception as exc:  # noqa: BLE001 - the edge: everything becomes an answer
            note("ModelStreamInfer", exc)
            self._count(model, head, exc)
            # The id tells the client which of its messages failed.
            return encode_stream_error(text_of(exc), identity)
        self._count(model, head)
        return encode_streamed(answer)

    async def _predicted(self, received: Received, terms: Terms) -> bytes:
        raw = received.raw

        def encode(response: InferResponse, _request: InferRequest) -> bytes:
            return encode_response(response, raw=raw)

        return await self._plane.answer_async(received.model, received.request, encode, received.version, terms)

    def _count(self, model: str, head: Mapping[str, str], error: Exception | None = None) -> None:
        label = self._plane.label(model)
        if error is not None:
            self._plane.metrics.failed(label, type(error).__name__)
        # By HTTP's statuses, as the other transports count, so that one query asks for all of them.
        status = _OK if error is None else answers.status_of(error) or _BUG
        self._plane.metrics.answered(label, "grpc", status, synthetic=synthetic(head))
