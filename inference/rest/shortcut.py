"""Takes inference calls to their endpoint ahead of routers and middleware, which would double a small call's cost."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send


class Shortcut:
    """An ASGI application: the busy routes directly, everything else through the application that also has them.

    The endpoints of the busy routes must answer every error themselves.
    """

    def __init__(self, app: ASGIApp, busy: Sequence[APIRoute]) -> None:
        self._app = app
        self._busy = [(route.path_regex, route.endpoint) for route in busy]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope."""
        if scope["type"] == "http" and scope["method"] == "POST":
            for pattern, endpoint in self._busy:
                found = pattern.match(scope["path"])
                if found is not None:
                    scope["path_params"] = found.groupdict()
                    response = await endpoint(Request(scope, receive))
                    await response(scope, receive, send)
                    return
        await self._app(scope, receive, send)
