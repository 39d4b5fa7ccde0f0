"""The endpoints for models that make text: `generate`, and `generate_stream` as Server-Sent Events."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator
from typing import Any, Final

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from inference.batching.terms import Terms
from inference.batching.waiting import Gone
from inference.dataplane import DataPlane
from inference.errors import ClientGone
from inference.protocol import generate
from inference.protocol.generate import GenerateRequest
from inference.rest import answers
from inference.rest.calls import Body, Calls
from inference.rest.routes import add

log = logging.getLogger(__name__)

_ON_A_THREAD: Final = 64 * 1024
"""A body of so many bytes takes the event loop too long to read."""


class Generate:
    """The endpoints over one data plane."""

    def __init__(self, plane: DataPlane, calls: Calls) -> None:
        self._plane = plane
        self._calls = calls

    def router(self) -> APIRouter:
        """Give the routes."""
        routes = APIRouter()
        for prefix in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
            add(routes, "POST", f"{prefix}/generate", self.whole)
            add(routes, "POST", f"{prefix}/generate_stream", self.stream)
        return routes

    async def whole(self, request: Request) -> Response:
        """Give the whole text: `{"text_input": "...", "parameters": {...}}` in, `text_output` out."""
        return await self._calls.infer(request, "generate", self._whole)

    async def stream(self, request: Request) -> Response:
        """Give the text as it is made, one event per piece; the last one is `done`."""
        return await self._calls.infer(request, "generate", self._streamed)

    async def _whole(self, request: Request, body: Body, terms: Terms, gone: Gone) -> Response:
        text = await self._begun(request, body, terms, gone)
        async with contextlib.aclosing(text):
            pieces = [piece async for piece in text]
        encoded = generate.encode_response(text.asked, text.model, text.version, "".join(pieces))
        return answers.versioned(Response(encoded, media_type=answers.JSON), text.version)

    async def _streamed(self, request: Request, body: Body, terms: Terms, gone: Gone) -> Response:
        return _EventStream(await self._begun(request, body, terms, gone))

    async def _begun(self, request: Request, body: Body, terms: Terms, gone: Gone) -> _Text:
        """Begin a text; what goes wrong before its first piece is raised here."""
        large = terms.size >= _ON_A_THREAD or terms.packed
        sent = await asyncio.to_thread(body) if large else body()
        text = _Text(self._plane, request, generate.decode_request(sent), terms, gone)
        await text.begin()
        return text


class _Text:
    """One text on its way: its pieces, until the end, or until the client has gone."""

    def __init__(self, plane: DataPlane, request: Request, asked: GenerateRequest, terms: Terms, gone: Gone) -> None:
        path: dict[str, Any] = request.path_params
        self.model: str = path["model"]
        self.version = ""
        """Known when the first piece is there."""
        self.asked = asked
        self._plane = plane
        self._pieces: AsyncGenerator[str, None] = plane.generate_async(
            self.model, asked.prompt, asked.parameters, path.get("version"), terms, self._chosen
        )
        self._gone = asyncio.ensure_future(gone())
        self._first: str | None = None
        self._over = False

    async def begin(self) -> None:
        """Wait for the first piece."""
        try:
            self._first = await self._next()
        except BaseException:
            await self.aclose()
            raise

    def __aiter__(self) -> _Text:
        return self

    async def __anext__(self) -> str:
        piece, self._first = self._first, None
        if piece is None and not self._over:
            piece = await self._next()
        if piece is None:
            raise StopAsyncIteration
        return piece

    async def aclose(self) -> None:
        """Let the model stop."""
        self._gone.cancel()
        await self._pieces.aclose()

    async def _next(self) -> str | None:
        """Wait for a piece; None after the last.

        Raises:
            ClientGone: the client went away.
        """
        coming = asyncio.ensure_future(anext(self._pieces, None))
        try:
            await asyncio.wait((coming, self._gone), return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not coming.done():
                coming.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await coming
        if coming.cancelled():
            raise ClientGone
        piece = coming.result()
        if piece is None:
            self._over = True
        else:
            self._plane.metrics.generated(self._plane.label(self.model))
        return piece

    def failed(self, error: Exception) -> None:
        """Count what ends a text after its status was sent."""
        if answers.status_of(error) is None:
            log.error("model %s failed in mid-text", self.model, exc_info=error)
        self._plane.metrics.failed(self._plane.label(self.model), type(error).__name__)

    def _chosen(self, version: str) -> None:
        self.version = version


class _EventStream(Response):
    """Sends a text as it comes."""

    media_type = generate.EVENT_STREAM

    def __init__(self, text: _Text) -> None:
        super().__init__(headers={"cache-control": "no-cache"})
        del self.headers["content-length"]
        answers.versioned(self, text.version)
        self._text = text

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer."""
        del scope, receive
        text = self._text
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        last = b""
        async with contextlib.aclosing(text):
            try:
                async for piece in text:
                    event = generate.encode_event(text.asked, text.model, text.version, piece, done=False)
                    await send({"type": "http.response.body", "body": event, "more_body": True})
                last = generate.encode_event(text.asked, text.model, text.version, "", done=True)
            except ClientGone as exc:
                text.failed(exc)
                return
            except Exception as exc:  # noqa: BLE001 - the edge: the status was sent, so the error is an event
                text.failed(exc)
                last = generate.encode_error(answers.text_of(exc))
        await send({"type": "http.response.body", "body": last, "more_body": False})
