"""A message of a stream that asks for a text: an answer for each piece as it is made, when the message has its turn."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from inference.batching.terms import Terms
from inference.dataplane import DataPlane
from inference.errors import ClientGone
from inference.grpc.statuses import note, text_of
from inference.protocol import grpc_texts
from inference.protocol.grpc_codec import Received, encode_response
from inference.protocol.grpc_streams import encode_error, encode_streamed
from inference.protocol.v2 import InferResponse
from inference.settings import Dialect

Count = Callable[[Exception | None], None]


class Text:
    """One text. `count` is told once of its end, and of the error that was it; strict, that is raised, too."""

    def __init__(self, plane: DataPlane, received: Received, terms: Terms, count: Count, *, strict: bool) -> None:
        self._plane, self._received, self._terms, self._count, self._strict = plane, received, terms, count, strict
        self._raw = received.raw or plane.dialect is Dialect.TRITON
        self._version = ""

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """Have it made, and give the answers; closed, the model stops. What goes wrong is the last answer."""
        try:
            async with aclosing(self._made()) as answers:
                async for answer in answers:
                    yield encode_streamed(encode_response(answer, raw=self._raw))
        except (asyncio.CancelledError, GeneratorExit):
            self._count(ClientGone())
            raise
        except Exception as exc:
            self._count(exc)
            if self._strict:
                raise
            yield refused(exc, self._received.model, self._received.id)
            return
        self._count(None)

    async def _made(self) -> AsyncGenerator[InferResponse, None]:
        model, request = self._received.model, self._received.request()
        asked, label = grpc_texts.decode(request), self._plane.label(model)
        text = self._plane.generate_async(
            model, asked.prompt, asked.parameters, self._received.version, self._terms, self._chosen
        )
        async with aclosing(text):
            async for piece in text:
                self._plane.metrics.generated(label)
                yield grpc_texts.piece_of(asked, model, self._version, piece)
        if grpc_texts.wants_final(request):
            yield grpc_texts.final_of(asked, model, self._version)

    def _chosen(self, version: str) -> None:
        self._version = version


def refused(error: Exception, model: str, identity: str) -> bytes:
    """Write the answer that says what is wrong; the id tells the client with which of its messages."""
    note("ModelStreamInfer", error)
    return encode_error(text_of(error), model, identity)
