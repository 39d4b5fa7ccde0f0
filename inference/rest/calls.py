"""Carries one HTTP request to the data plane and back: body, terms, counters, errors, request id."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from inference.batching.terms import Terms
from inference.batching.waiting import Gone
from inference.dataplane import DataPlane
from inference.pool import MutualPool
from inference.protocol import cloudevents
from inference.rest import answers, bodies
from inference.rest.bodies import Bodies
from inference.rest.callers import synthetic, terms_of
from inference.rest.events import Exchange
from inference.settings import ServerSettings
from inference.siblings import RELAYED

log = logging.getLogger(__name__)

REQUEST_ID: Final = b"x-request-id"
_DISCONNECT: Final = "http.disconnect"
_MANAGE_TIMEOUT_S: Final = 600.0
_MANAGE_QUEUE: Final = 16

Body = Callable[[], bytes]
"""Gives a request's body, with its content encoding undone: work for a thread, not for the event loop."""
Inference = Callable[[Request, Body, Terms, Gone], Awaitable[Response]]
Work = Callable[[Request, bytes], Response]


class Calls:
    """What every endpoint goes through."""

    def __init__(self, plane: DataPlane, settings: ServerSettings) -> None:
        self._plane = plane
        self._settings = settings
        self._bodies = Bodies(limit=settings.max_body, timeout_s=settings.body_timeout_s)
        self._managing, self._gathering = self._pools = tuple(
            MutualPool(queue=_MANAGE_QUEUE, timeout_s=_MANAGE_TIMEOUT_S) for _ in range(2)
        )

    async def infer(self, request: Request, protocol: str, answer: Inference) -> Response:
        """Run a prediction. Its answer is counted, whatever it is."""
        label = self._plane.label(request.path_params["model"])
        # Looked into once: the request's own headers are searched anew each time.
        head = dict(request.scope["headers"])
        try:
            sent = await self._bodies.read(request)
            plain = partial(bodies.plain, sent, head.get(b"content-encoding"), self._settings.max_body)
            terms = terms_of(head, request.headers, protocol, len(sent))
            if cloudevents.is_event(request.scope["headers"]):
                exchange = Exchange(request, plain, self._settings.events)
                response = exchange.answered(await answer(request, exchange.data, terms, partial(_gone, request)))
            else:
                response = await answer(request, plain, terms, partial(_gone, request))
        except Exception as exc:  # noqa: BLE001 - the edge: everything becomes an answer
            self._plane.metrics.failed(label, type(exc).__name__)
            response = self._refused(request, exc)
        self._plane.metrics.answered(label, protocol, response.status_code, synthetic=synthetic(head))
        return _tagged(head, response)

    async def manage(self, request: Request, work: Work) -> Response:
        """Run something slow that predicts nothing, such as loading a model, one at a time."""
        try:
            sent = await self._bodies.read(request)
            worked = partial(_worked, request, sent, work, self._settings.max_body)
            answer = await self._managing.run(worked, asks=not is_relayed(request))
        except Exception as exc:  # noqa: BLE001 - the edge: everything becomes an answer
            answer = self._refused(request, exc)
        return _tagged(dict(request.scope["headers"]), answer)

    def close(self) -> None:
        """Give what is being loaded a moment."""
        for pool in self._pools:
            pool.close()

    async def gather(self, request: Request, work: Callable[[Request], Response]) -> Response:
        """Run what looks at everything, here or in the other processes, too; loads of models are not waited for."""
        try:
            answer = await self._gathering.run(partial(work, request), asks=not is_relayed(request))
        except Exception as exc:  # noqa: BLE001 - the edge: everything becomes an answer
            answer = self._refused(request, exc)
        return _tagged(dict(request.scope["headers"]), answer)

    def look(self, request: Request, work: Callable[[Request], Response]) -> Response:
        """Run something that only looks, at once."""
        try:
            answer = work(request)
        except Exception as exc:  # noqa: BLE001 - the edge: everything becomes an answer
            answer = self._refused(request, exc)
        return _tagged(dict(request.scope["headers"]), answer)

    async def ask(self, request: Request, work: Callable[[Request], Awaitable[Response]]) -> Response:
        """Run something that may wait for another server, and predicts nothing."""
        try:
            answer = await work(request)
        except Exception as exc:  # noqa: BLE001 - the edge: everything becomes an answer
            answer = self._refused(request, exc)
        return _tagged(dict(request.scope["headers"]), answer)

    def _refused(self, request: Request, error: Exception) -> Response:
        if answers.status_of(error) is None and not isinstance(error, ClientDisconnect):
            log.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return answers.refusal(error, v2=not request.url.path.startswith("/v1/"))


def is_relayed(request: Request) -> bool:
    """Say whether another process of this predictor asks."""
    return RELAYED in request.headers


def _worked(request: Request, sent: bytes, work: Work, limit: int) -> Response:
    encoding = dict(request.scope["headers"]).get(b"content-encoding")
    return work(request, bodies.plain(sent, encoding, limit))


def _tagged(head: dict[bytes, bytes], answer: Response) -> Response:
    identity = head.get(REQUEST_ID)
    if identity is not None:
        answer.raw_headers.append((REQUEST_ID, identity))
    return answer


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != _DISCONNECT:
        pass
