"""Puts the REST application together. Next: `inference/server.py`, which runs it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus

from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from inference.dataplane import DataPlane
from inference.rest import answers
from inference.rest.calls import Calls
from inference.rest.description import Description
from inference.rest.generate import Generate
from inference.rest.management import Management
from inference.rest.shortcut import Shortcut
from inference.rest.v1 import V1
from inference.rest.v2 import V2
from inference.settings import ServerSettings


def application(plane: DataPlane, settings: ServerSettings) -> ASGIApp:
    """Build the application. It closes the data plane at its end."""
    calls = Calls(plane, settings)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        yield
        plane.close()
        calls.close()

    app = FastAPI(
        title="Sidelight predictor",
        lifespan=lifespan,
        docs_url="/docs" if settings.docs else None,
        openapi_url="/openapi.json" if settings.docs else None,
        redoc_url=None,
        redirect_slashes=False,
        exception_handlers={HTTPException: _no_such_path},
    )
    v1, v2 = V1(plane, calls), V2(plane, calls)
    for part in (Description(plane, calls), v2, v1, Generate(plane, calls), Management(plane, calls)):
        app.routes.extend(part.router().routes)
    busy = {v1.predict, v2.infer}
    return Shortcut(app, [route for route in app.routes if isinstance(route, APIRoute) and route.endpoint in busy])


async def _no_such_path(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    if error.status_code == HTTPStatus.NOT_FOUND and not request.url.path.startswith(("/v1/", "/v2/")):
        # No protocol's path: KServe's servers answer so.
        return answers.json({"detail": "Not Found"}, error.status_code)
    phrase = HTTPStatus(error.status_code).phrase
    return answers.json({"error": f"{phrase}: {request.method} {request.url.path}"}, error.status_code)
