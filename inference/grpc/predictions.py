"""ModelInfer, and Triton's ModelStreamInfer: one message in, one answer out, in order, several at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

from inference.batching.terms import Terms
from inference.dataplane import DataPlane
from inference.errors import ClientGone
from inference.grpc.callers import REQUEST_ID, head_of, synthetic, terms_of
from inference.grpc.statuses import note, refuse, text_of
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

    async def unary(self, data: bytes, context: Any) -> bytes:  # noqa: ANN401 - grpc has no types
        """Answer ModelInfer. Cancelled, as grpc does when the client has gone, the call leaves the queue."""
        head = head_of(context)
        await _tag(context, head)
        model = ""
        try:
            received = Received(data)
            model = received.model
            answer = await self._predicted(received, terms_of(context, head, len(data)))
        except asyncio.CancelledError:
            self._count(model, head, ClientGone())
            raise
        except Exception as exc:  # noqa: BLE001 - the edge: everything becomes an answer
            self._count(model, head, exc)
            await refuse(context, "ModelInfer", exc)
        self._count(model, head)
        return answer

    async def stream(self, messages: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:  # noqa: ANN401 - grpc has no types
        """Answer ModelStreamInfer. What goes wrong with a message is its own answer, and the stream goes on."""
        head = head_of(context)
        await _tag(context, head)
        waiting: asyncio.Queue[asyncio.Task[bytes] | None] = asyncio.Queue(_AHEAD)
        tasks: set[asyncio.Task[Any]] = set()

        async def read() -> None:
            try:
                async for data in messages:
                    task = asyncio.ensure_future(self._streamed(data, head, terms_of(context, head, len(data))))
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


async def _tag(context: Any, head: Mapping[str, str]) -> None:  # noqa: ANN401 - grpc has no types
    identity = head.get(REQUEST_ID)
    # gRPC takes more from a peer than it lets us send: what is no printable ASCII would end the call.
    if identity is not None and identity.isascii() and identity.isprintable():
        await context.send_initial_metadata(((REQUEST_ID, identity),))
