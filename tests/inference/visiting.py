"""Serves connections over HTTP in this process, as uvicorn does, with an application of a test's own."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from uvicorn.server import ServerState

from inference.settings import ServerSettings
from inference.visitors import Door

LONG = 64 << 20
"""More than the system's own buffers take."""


async def _app(scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401 - ASGI's
    body, more = b"ok", scope["path"] == "/echo"
    if more:
        body = b""
    while more:
        message = await receive()
        body, more = body + message["body"], message["more_body"]
    if scope["path"] == "/long":
        body *= LONG // 2
    pieces = 1_000 if scope["path"] == "/pieces" else 0
    headers = [] if pieces else [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for _ in range(pieces):
        await send({"type": "http.response.body", "body": bytes(LONG // 1_000), "more_body": True})
    await send({"type": "http.response.body", "body": body})


@asynccontextmanager
async def hosted(
    tls: ssl.SSLContext | None = None,
    trust: ssl.SSLContext | None = None,
    **settings: Any,  # noqa: ANN401 - of several types
) -> AsyncIterator[tuple[Door, asyncio.StreamReader, asyncio.StreamWriter]]:
    """Serve, and connect; over TLS with both contexts, the server's and the client's."""
    door = Door(ServerSettings(**settings))
    config, state = uvicorn.Config(_app, log_config=None), ServerState()
    config.load()
    loop = asyncio.get_running_loop()
    made = await loop.create_server(
        lambda: door.protocol(config=config, server_state=state, app_state={}), "127.0.0.1", 0, ssl=tls
    )
    reader, writer = await asyncio.open_connection(*made.sockets[0].getsockname(), ssl=trust)
    try:
        yield door, reader, writer
    finally:
        writer.close()
        made.close()
