"""Carries one HTTP request to a worker thread and back: body, deadline, counters, errors, request id."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Final

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from inference.dataplane import DataPlane
from inference.pool import ComputePool
from inference.rest import answers, bodies
from inference.settings import ServerSettings

log = logging.getLogger(__name__)

REQUEST_ID: Final = "x-request-id"
SYNTHETIC: Final = "x-sidelight-synthetic"
"""Set by explainers and tests on calls that no user made."""

Work = Callable[[Request, bytes], Response]
"""Decode, predict, encode: runs on a worker thread."""


class Calls:
    """What every endpoint goes through."""

    def __init__(self, plane: DataPlane, settings: ServerSettings, predict: ComputePool, manage: ComputePool) -> None:
        self._plane = plane
        self._settings = settings
        self._predict_pool = predict
        self._manage_pool = manage

    async def infer(self, request: Request, protocol: str, work: Work) -> Response:
        """Run a prediction. Its answer is counted, whatever it is."""
        label = self._plane.label(request.path_params["model"])
        try:
            answer = await self._carry(request, work, self._predict_pool)
        except Exception as exc:  # noqa: BLE001 - the edge: everything becomes an answer
            self._plane.metrics.failed(label, type(exc).__name__)
            answer = self._refused(request, exc)
        synthetic = request.headers.get(SYNTHETIC, "false").lower() not in {"false", "0"}
        self._plane.metrics.answered(label, protocol, answer.status_code, synthetic=synthetic)
        return self._tagged(request, answer)

    async def manage(self, request: Request, work: Work) -> Response:
        """Run something slow that predicts nothing, such as loading a model, one at a time."""
        try:
            answer = await self._carry(request, work, self._manage_pool)
        except Exception as exc:  # noqa: BLE001 - the edge: everything becomes an answer
            answer = self._refused(request, exc)
        return self._tagged(request, answer)

    def look(self, request: Request, work: Callable[[Request], Response]) -> Response:
        """Run something that only looks, at once."""
        try:
            answer = work(request)
        except Exception as exc:  # noqa: BLE001 - the edge: everything becomes an answer
            answer = self._refused(request, exc)
        return self._tagged(request, answer)

    async def _carry(self, request: Request, work: Work, pool: ComputePool) -> Response:
        limit = self._settings.max_body
        body = await bodies.read(request, limit=limit, timeout_s=self._settings.body_timeout_s)
        return await pool.run(partial(_worked, request, body, work, limit))

    def _refused(self, request: Request, error: Exception) -> Response:
        if answers.status_of(error) is None and not isinstance(error, ClientDisconnect):
            log.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return answers.refusal(error)

    def _tagged(self, request: Request, answer: Response) -> Response:
        identity = request.headers.get(REQUEST_ID)
        if identity is not None:
            answer.headers[REQUEST_ID] = identity
        return answer


def _worked(request: Request, body: bytes, work: Work, limit: int) -> Response:
    return work(request, bodies.plain(body, request.headers.get("content-encoding"), limit))
