"""ModelInfer, and Triton's ModelStreamInfer: one message in, one answer out, in order, several at a time.

A message that asks for a text has an answer for each piece; see `texts.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from functools import partial
from typing import Any, Final

from inference.batching.terms import Terms
from inference.dataplane import DataPlane
from inference.errors import ClientGone
from inference.grpc.callers import synthetic, terms_of
from inference.grpc.methods import Asked
from inference.grpc.texts import Pieces, Several, Text, refused
from inference.protocol.generate import PROMPT
from inference.protocol.grpc_codec import Received, encode_response
from inference.protocol.grpc_streams import STRICT, encode_only
from inference.protocol.v2 import InferRequest, InferResponse
from inference.rest import answers
from inference.settings import Dialect
from inference.timeouts import heeded

_AHEAD: Final = 16
"""Messages of one stream that are predicted on while the answer to an earlier one is yet to be sent."""
_OK, _BUG = 200, 500


class Predictions:
    """The two methods over one data plane."""

    def __init__(self, plane: DataPlane) -> None:
        self._plane = plane
        self._always_raw = plane.dialect is Dialect.TRITON

    async def unary(self, data: bytes, asked: Asked) -> bytes:
        """Answer ModelInfer. Cancelled, as it is when the client has gone, the call leaves the queue."""
        head, model = asked.head, ""
        try:
            received = Received(data)
            model = received.model
            answer = await self._predicted(received, heeded(terms_of(asked, len(data)), received.parameters))
        except asyncio.CancelledError:
            self._count(model, head, ClientGone())
            raise
        except Exception as exc:
            self._count(model, head, exc)
            raise
        self._count(model, head)
        return answer

    async def stream(self, messages: AsyncIterator[bytes], asked: Asked) -> AsyncGenerator[bytes, None]:
        """Answer ModelStreamInfer. What goes wrong with a message is its own answer, and the stream goes on.

        A client that asked for it gets the status for it instead, which ends the stream.
        """
        head, several = asked.head, dict[tuple[str, str | None], bool]()
        waiting: asyncio.Queue[tuple[asyncio.Task[bytes | Pieces], _Kept] | None] = asyncio.Queue(_AHEAD)
        tasks: set[asyncio.Task[Any]] = set()

        def done(kept: _Kept, task: asyncio.Task[bytes | Pieces]) -> None:
            tasks.discard(task)
            # Of a stream that has ended nobody else asks for the exception; it was counted.
            if task.cancelled() or task.exception() or isinstance(task.result(), bytes):
                kept.let_go()

        async def read() -> None:
            try:
                async for data in messages:
                    kept = _Kept(asked, len(data))
                    task = asyncio.ensure_future(self._streamed(data, head, terms_of(asked, len(data)), several, kept))
                    tasks.add(task)
                    task.add_done_callback(partial(done, kept))
                    # The task has it: who waits for a place in the queue is not to hold it for longer.
                    del data
                    await waiting.put((task, kept))
            except Exception:
                await waiting.put(None)
                raise
            # Not when it is cancelled: nobody takes anything then, and a full queue would hold it for good.
            await waiting.put(None)

        reader = asyncio.ensure_future(read())
        try:
            while (found := await waiting.get()) is not None:
                task, kept = found
                answer = await task
                kept.let_go()
                if isinstance(answer, bytes):
                    yield answer
                    continue
                async with aclosing(answer.pieces()) as pieces:
                    async for piece in pieces:
                        yield piece
            await reader
        finally:
            for each in (reader, *tasks):
                each.cancel()

    async def _streamed(
        self, data: bytes, head: Mapping[str, str], terms: Terms, several: dict[tuple[str, str | None], bool],
        kept: _Kept,
    ) -> bytes | Pieces:  # fmt: skip
        model = identity = ""
        strict = head.get(STRICT) == "true"
        try:
            received = Received(data)
            model, identity = received.model, received.id
            terms = heeded(terms, received.parameters)
            which = model, received.version
            found = several.get(which)
            if found is None and (found := await self._plane.streams(*which, terms)) is not None:
                # Once for a stream: who asks for a model again and again is not to be asked what it is. Only what is
                # known: a client may send any number of names, and what cannot be loaded now may be loaded later.
                several[which] = found
            if found:
                return Several(self._plane, received, terms, partial(self._count, model, head), strict=strict)
            if received.names(PROMPT) and await self._plane.generates(model, received.version, terms):
                return Text(self._plane, received, terms, partial(self._count, model, head), strict=strict)
            # From here on the batcher counts it.
            kept.let_go()
            answer = await self._predicted(received, terms)
        except asyncio.CancelledError:
            self._count(model, head, ClientGone())
            raise
        except Exception as exc:
            self._count(model, head, exc)
            if strict:
                raise
            return refused(exc, model, identity)
        self._count(model, head)
        return encode_only(answer)

    async def _predicted(self, received: Received, terms: Terms) -> bytes:
        raw = received.raw or self._always_raw

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


class _Kept:
    """A message that waits until its model is known, which may have to be loaded, or until its several answers' turn.

    It is in no queue of the batcher's then, so it counts among what its connection holds.
    """

    __slots__ = ("_asked", "_size")

    def __init__(self, asked: Asked, size: int) -> None:
        self._asked: Asked | None = asked
        self._size = size
        asked.keep(size)

    def let_go(self) -> None:
        """Count it no more. Any number of times."""
        asked, self._asked = self._asked, None
        if asked is not None:
            asked.let_go(self._size)
