"""The endpoints of Triton's statistics and model configuration extensions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import orjson
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from inference.dataplane import DataPlane
from inference.rest import answers
from inference.rest.callers import terms_of
from inference.rest.calls import Calls, is_relayed
from inference.rest.routes import add
from inference.statistics import Said


class Description:
    """The endpoints over one data plane."""

    def __init__(self, plane: DataPlane, calls: Calls) -> None:
        self._plane = plane
        self._calls = calls

    def router(self) -> APIRouter:
        """Give the routes. Before those of a model's metadata: as on Triton, `stats` is no model's name there."""
        routes = APIRouter()
        add(routes, "GET", "/v2/models/stats", self.statistics)
        add(routes, "GET", "/v2/models/{model}/stats", self.statistics)
        add(routes, "GET", "/v2/models/{model}/versions/{version}/stats", self.statistics)
        add(routes, "GET", "/v2/models/{model}/config", self.config)
        add(routes, "GET", "/v2/models/{model}/versions/{version}/config", self.config)
        return routes

    async def statistics(self, request: Request) -> Response:
        """Tell what models did: one version, all of one model, or all."""
        return await self._calls.ask(request, self._told)

    async def config(self, request: Request) -> Response:
        """Describe a model as Triton's model configuration does."""
        return await self._calls.ask(request, self._configured)

    async def _configured(self, request: Request) -> Response:
        path: dict[str, Any] = request.path_params
        terms = terms_of(dict(request.scope["headers"]), request.headers, "v2", 0)
        return answers.json(await self._plane.configured(path["model"], path.get("version"), terms))

    async def _told(self, request: Request) -> Response:
        path: dict[str, Any] = request.path_params
        everywhere = not is_relayed(request)
        body = await self._plane.statistics(_written, path.get("model"), path.get("version"), everywhere=everywhere)
        return answers.plain(body, answers.JSON)


def _written(told: Iterable[Said]) -> bytes:
    return b'{"model_stats":[' + b",".join(map(orjson.dumps, told)) + b"]}"
