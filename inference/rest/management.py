"""The endpoints of V2's model repository extension, and the metrics page."""

from __future__ import annotations

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import Response

from inference.dataplane import DataPlane
from inference.protocol import objects
from inference.protocol.errors import MalformedBody
from inference.repository import State
from inference.rest import answers
from inference.rest.calls import Calls, is_relayed
from inference.rest.routes import add


class Management:
    """The endpoints over one data plane."""

    def __init__(self, plane: DataPlane, calls: Calls) -> None:
        self._plane = plane
        self._calls = calls

    def router(self) -> APIRouter:
        """Give the routes."""
        routes = APIRouter()
        add(routes, "POST", "/v2/repository/index", self.index)
        add(routes, "POST", "/v2/repository/models/{model}/load", self.load)
        add(routes, "POST", "/v2/repository/models/{model}/unload", self.unload)
        add(routes, "GET", "/metrics", self.metrics)
        return routes

    async def index(self, request: Request) -> Response:
        """List every model with its state; `{"ready": true}` asks for the ready ones."""
        return await self._calls.manage(request, self._listed)

    async def load(self, request: Request) -> Response:
        """Load a model, or load it anew; the old one serves until the new one is ready."""
        return await self._calls.manage(request, self._loaded)

    async def unload(self, request: Request) -> Response:
        """Unload a model once its predictions in progress have ended."""
        return await self._calls.manage(request, self._unloaded)

    async def metrics(self, request: Request) -> Response:
        """Give the metrics in Prometheus' text format, of all processes."""
        siblings = None if is_relayed(request) else self._plane.siblings

        def written(_request: Request) -> Response:
            own = self._plane.metrics.page()
            return _page(own if siblings is None else siblings.pages(own))

        # On a thread: with hundreds of models it takes longer than a call may.
        return await self._calls.gather(request, written)

    def _listed(self, _request: Request, body: bytes) -> Response:
        only_ready = objects.read(body or b"{}").get("ready", False)
        if not isinstance(only_ready, bool):
            raise MalformedBody("ready", f"expected true or false, got {only_ready!r}")
        entries = [entry for entry in self._plane.index() if entry.state is State.READY or not only_ready]
        return answers.json(entries)

    def _loaded(self, request: Request, body: bytes) -> Response:
        parameters = objects.read(body or b"{}").get("parameters") or {}
        if not isinstance(parameters, dict):
            raise MalformedBody("parameters", f"expected an object, got {type(parameters).__name__}")
        model = request.path_params["model"]
        self._plane.load(model, parameters, everywhere=not is_relayed(request))
        return answers.json({"name": model, "load": True})

    def _unloaded(self, request: Request, _body: bytes) -> Response:
        model = request.path_params["model"]
        self._plane.unload(model, everywhere=not is_relayed(request))
        return answers.json({"name": model, "unload": True})


def _page(page: bytes) -> Response:
    return Response(page, media_type=CONTENT_TYPE_LATEST)
