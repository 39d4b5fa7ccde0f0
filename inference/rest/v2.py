"""The V2 endpoints: Open Inference Protocol REST with the binary tensor extension."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any, Final

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from inference.batching.terms import Terms
from inference.batching.waiting import Gone
from inference.catalogue import server_name
from inference.dataplane import DataPlane
from inference.errors import InvalidInput, ModelNotReady
from inference.protocol import v2
from inference.protocol.datatypes import RAW_ONLY
from inference.protocol.errors import MalformedBody
from inference.rest import answers
from inference.rest.callers import terms_of
from inference.rest.calls import Body, Calls
from inference.rest.routes import add
from inference.timeouts import heeded

_LENGTH: Final = "inference-header-content-length"
_BINARY: Final = "application/octet-stream"
_DIGITS: Final = 15
"""Of the longest length that is read: Python refuses to read thousands."""
_TIMEOUT: Final = b'"timeout"'
_SHORT: Final = 64 * 1024
"""Longest JSON that an event loop looks into. What is longer is heeded when a thread has read it."""
_RAW_LENGTH, _RAW_BINARY = _LENGTH.encode(), _BINARY.encode()


class V2:
    """The endpoints over one data plane."""

    def __init__(self, plane: DataPlane, calls: Calls) -> None:
        self._plane = plane
        self._calls = calls
        self._server = {
            "name": server_name(plane.dialect),
            "version": version("sidelight"),
            "extensions": [
                "model_repository_extension",
                "model_repository",
                "binary_tensor_data",
                "classification",
                "statistics",
                "model_configuration",
            ],
        }

    def router(self) -> APIRouter:
        """Give the routes, the busiest first."""
        routes = APIRouter()
        add(routes, "POST", "/v2/models/{model}/infer", self.infer)
        add(routes, "POST", "/v2/models/{model}/versions/{version}/infer", self.infer)
        add(routes, "POST", "/v2/models/{model}/explain", self.explain)
        add(routes, "POST", "/v2/models/{model}/versions/{version}/explain", self.explain)
        add(routes, "GET", "/v2/health/live", self.live)
        add(routes, "GET", "/v2/health/ready", self.ready)
        add(routes, "GET", "/v2/models/{model}/ready", self.model_ready)
        add(routes, "GET", "/v2/models/{model}/versions/{version}/ready", self.model_ready)
        add(routes, "GET", "/v2/models/{model}", self.model)
        add(routes, "GET", "/v2/models/{model}/versions/{version}", self.model)
        add(routes, "GET", "/v2/models", self.models)
        add(routes, "GET", "/v2", self.metadata)
        # The specification's text has it without the slash, its OpenAPI file with one.
        add(routes, "GET", "/v2/", self.metadata)
        return routes

    async def infer(self, request: Request) -> Response:
        """Predict on tensors, JSON or binary."""
        return await self._calls.infer(request, "v2", self._inferred)

    async def explain(self, request: Request) -> Response:
        """Explain, where the model itself can: a request as for `infer`, and what the model gives as outputs."""
        return await self._calls.infer(request, "v2", self._explained)

    async def live(self, request: Request) -> Response:
        """Say that the process lives."""
        return self._calls.look(request, lambda _: answers.json({"live": True}))

    async def ready(self, request: Request) -> Response:
        """Say whether new clients should be sent here."""
        return self._calls.look(request, self._readiness)

    async def metadata(self, request: Request) -> Response:
        """Describe the server."""
        return self._calls.look(request, lambda _: answers.json(self._server))

    async def models(self, request: Request) -> Response:
        """List the models."""
        return self._calls.look(request, lambda _: answers.json({"models": self._plane.models()}))

    async def model(self, request: Request) -> Response:
        """Describe a model: its versions, platform and tensors."""
        return await self._calls.ask(request, self._described)

    async def model_ready(self, request: Request) -> Response:
        """Say whether a model is ready."""
        return self._calls.look(request, self._model_readiness)

    async def _described(self, request: Request) -> Response:
        terms = terms_of(dict(request.scope["headers"]), request.headers, "v2", 0)
        return answers.json(await self._plane.described(*_which(request), terms))

    async def _inferred(self, request: Request, body: Body, terms: Terms, gone: Gone) -> Response:
        model, version = _which(request)
        length = header_length(request)
        terms = _heeded(terms, body, length)
        return await self._plane.answer_async(
            model, lambda: v2.decode_request(body(), length), _encoded, version, terms, gone
        )

    async def _explained(self, request: Request, body: Body, terms: Terms, gone: Gone) -> Response:
        model, version = _which(request)
        length = header_length(request)
        terms = _heeded(terms, body, length)
        return await self._plane.explain_async(
            model, lambda: v2.decode_request(body(), length), _encoded, version, terms, gone
        )

    def _readiness(self, _request: Request) -> Response:
        if not self._plane.ready():
            return answers.json({"error": "Server is not ready."}, 503)
        return answers.json({"ready": True})

    def _model_readiness(self, request: Request) -> Response:
        model, version = _which(request)
        if not self._plane.model_ready(model, version):
            raise ModelNotReady(model)
        return answers.json({"name": model, "ready": True})


def header_length(request: Request) -> int | None:
    """Give the length of a binary request's JSON; None for a request that is all JSON.

    Raises:
        MalformedBody: no number, or missing although the content type says binary.
    """
    given = kind = None
    for name, value in request.scope["headers"]:
        if name == _RAW_LENGTH:
            given = value.decode("latin-1") if given is None else given
        elif name == b"content-type" and kind is None:
            kind = value
    if given is None:
        if kind == _RAW_BINARY:
            raise MalformedBody("Inference-Header-Content-Length", f"expected with {_BINARY}, got no such header")
        return None
    if not given.isascii() or not given.isdecimal() or len(given) > _DIGITS:
        raise MalformedBody("Inference-Header-Content-Length", f"expected a number of bytes, got {given!r}")
    return int(given)


def _heeded(terms: Terms, body: Body, length: int | None) -> Terms:
    """Look for a time limit in the request's parameters, unless that takes an event loop too long."""
    if terms.packed or (terms.size if length is None else length) > _SHORT:
        return terms
    sent = body()
    if sent.find(_TIMEOUT, 0, length) < 0:
        return terms
    return heeded(terms, v2.decode_parameters(sent, length))


def _which(request: Request) -> tuple[str, str | None]:
    path: dict[str, Any] = request.path_params
    return path["model"], path.get("version")


def _encoded(response: v2.InferResponse, request: v2.InferRequest) -> Response:
    for tensor in response.outputs:
        # A client that did not ask for binary data may read JSON only.
        if tensor.datatype in RAW_ONLY and not request.wants_binary(tensor.name):
            raise InvalidInput(f"output {tensor.name!r}: {tensor.datatype} has no JSON form; ask for binary data")
    body, length = v2.encode_response(response, request.wants_binary)
    if length is None:
        answer = answers.plain(body, answers.JSON)
    else:
        answer = answers.plain(body, _BINARY, (_RAW_LENGTH, str(length).encode()))
    return answers.versioned(answer, response.model_version or "")
