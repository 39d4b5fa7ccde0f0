"""A message of a stream that gets several answers, such as the pieces of a text: as they are made, at its turn."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace

from inference.batching.terms import Terms
from inference.dataplane import DataPlane
from inference.errors import ClientGone
from inference.grpc.statuses import note, text_of
from inference.protocol import grpc_texts
from inference.protocol.grpc_codec import Received, encode_response
from inference.protocol.grpc_streams import FINAL, encode_error, encode_streamed
from inference.protocol.v2 import InferRequest, InferResponse
from inference.settings import Dialect

Count = Callable[[Exception | None], None]


class Pieces(ABC):
    """Several answers. `count` is told once of their end, and of the error that was it; strict, that is raised, too."""

    def __init__(self, plane: DataPlane, received: Received, terms: Terms, count: Count, *, strict: bool) -> None:
        self._plane, self._received, self._terms, self._count, self._strict = plane, received, terms, count, strict
        self._raw = received.raw or plane.dialect is Dialect.TRITON

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """Have it made, and give the answers; closed, the model stops. What goes wrong is the last answer."""
        try:
            async with aclosing(self._made()) as answers:
                async for answer in answers:
                    yield answer
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

    @abstractmethod
    def _made(self) -> AsyncGenerator[bytes, None]:
        """Give the answers, written."""

    def _written(self, answer: InferResponse) -> bytes:
        return encode_streamed(encode_response(answer, raw=self._raw))


class Text(Pieces):
    """One text."""

    _version = ""

    async def _made(self) -> AsyncGenerator[bytes, None]:
        model, request = self._received.model, self._received.request()
        asked, label = grpc_texts.decode(request), self._plane.label(model)
        text = self._plane.generate_async(
            model, asked.prompt, asked.parameters, self._received.version, self._terms, self._chosen
        )
        async with aclosing(text):
            async for piece in text:
                self._plane.metrics.generated(label)
                yield self._written(grpc_texts.piece_of(asked, model, self._version, piece))
        if grpc_texts.wants_final(request.parameters):
            yield self._written(grpc_texts.final_of(asked, model, self._version))

    def _chosen(self, version: str) -> None:
        self._version = version


class Several(Pieces):
    """What a model gives that has several answers to a call."""

    async def _made(self) -> AsyncGenerator[bytes, None]:
        received, version = self._received, self._received.version or ""

        def encode(answer: InferResponse, _request: InferRequest) -> bytes:
            nonlocal version
            version = answer.model_version or version
            return self._written(replace(answer, parameters={**answer.parameters, FINAL: False}))

        answers = self._plane.stream_async(received.model, received.request, encode, received.version, self._terms)
        async with aclosing(answers):
            async for answer in answers:
                yield answer
        if grpc_texts.wants_final(received.parameters):
            last = InferResponse(
                model_name=received.model, model_version=version, id=received.id, outputs=(), parameters={FINAL: True}
            )
            yield self._written(last)


def refused(error: Exception, model: str, identity: str) -> bytes:
    """Write the answer that says what is wrong; the id tells the client with which of its messages."""
    note("ModelStreamInfer", error)
    return encode_error(text_of(error), model, identity)
