"""The V1 endpoints, with KServe's paths, answers and error texts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from inference.batching.terms import Terms
from inference.batching.waiting import Gone
from inference.dataplane import DataPlane
from inference.errors import ModelNotReady
from inference.protocol import v1
from inference.rest import answers
from inference.rest.calls import Body, Calls
from inference.rest.routes import add


class V1:
    """The endpoints over one data plane."""

    def __init__(self, plane: DataPlane, calls: Calls) -> None:
        self._plane = plane
        self._calls = calls

    def router(self) -> APIRouter:
        """Give the routes, the busiest first."""
        routes = APIRouter()
        add(routes, "POST", "/v1/models/{model}:predict", self.predict)
        add(routes, "POST", "/v1/models/{model}:explain", self.explain)
        add(routes, "GET", "/v1/models/{model}", self.model)
        add(routes, "GET", "/v1/models", self.models)
        add(routes, "GET", "/", self.alive)
        return routes

    async def predict(self, request: Request) -> Response:
        """Predict: `{"instances": [...]}` or `{"inputs": [...]}`, lists or objects by feature name."""
        return await self._calls.infer(request, "v1", self._predicted)

    async def explain(self, request: Request) -> Response:
        """Explain, where the model itself can; else say who does."""
        return await self._calls.infer(request, "v1", self._explained)

    async def models(self, request: Request) -> Response:
        """List the models."""
        return self._calls.look(request, lambda _: answers.json({"models": self._plane.models()}))

    async def model(self, request: Request) -> Response:
        """Say whether a model is ready."""
        return self._calls.look(request, self._readiness)

    async def alive(self, request: Request) -> Response:
        """Say that the process lives."""
        return self._calls.look(request, lambda _: answers.json({"status": "alive"}))

    async def _predicted(self, request: Request, body: Body, terms: Terms, gone: Gone) -> Response:
        return await self._plane.answer_v1_async(
            request.path_params["model"], lambda: v1.decode_request(body()), _encoded, terms, gone
        )

    async def _explained(self, request: Request, body: Body, terms: Terms, gone: Gone) -> Response:
        model = request.path_params["model"]
        return await self._plane.explain_v1_async(model, lambda: v1.decode_request(body()), _explanation, terms, gone)

    def _readiness(self, request: Request) -> Response:
        model = request.path_params["model"]
        if not self._plane.model_ready(model):
            raise ModelNotReady(model)
        return answers.json({"name": model, "ready": True})


def _explanation(fields: Mapping[str, Any], version: str) -> Response:
    return answers.versioned(Response(v1.encode_object(fields), media_type=answers.JSON), version)


def _encoded(predictions: list[Any], version: str) -> Response:
    return answers.versioned(Response(v1.encode_response(predictions), media_type=answers.JSON), version)
