"""Routes that FastAPI documents but does not run: its work per request would cost more than a small model's."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from fastapi import APIRouter
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

Endpoint = Callable[[Request], Awaitable[Response]]


class _Direct(APIRoute):
    """Hands the request to the endpoint as it is."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        return self.endpoint


def add(router: APIRouter, method: str, path: str, endpoint: Endpoint) -> None:
    """Add a route whose path parameters are documented from the path."""
    router.route_class = _Direct
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"{(\w+)}", path)
    ]
    router.add_api_route(
        path, endpoint, methods=[method], response_model=None, openapi_extra={"parameters": parameters}
    )
