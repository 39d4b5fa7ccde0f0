"""Runs the gRPC services beside the REST application, on the same event loop. Used by `inference/server.py`."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from typing import Final

from inference.dataplane import DataPlane
from inference.grpc import reflection
from inference.grpc.connection import Connection, Host
from inference.grpc.health import Health
from inference.grpc.service import Service
from inference.pool import ComputePool
from inference.settings import ServerSettings

_MANAGE_TIMEOUT_S: Final = 600.0
_MANAGE_QUEUE: Final = 16
_BACKLOG: Final = 2_048
_SWEEP_S: Final = 0.25
_LOOK_S: Final = 0.01
_GOODBYE_S: Final = 0.5
"""For clients without calls to close after the goodbye, as they do at once."""


class GrpcServer:
    """Listens from `start` to `stop`; both are called on the event loop."""

    def __init__(self, plane: DataPlane, settings: ServerSettings) -> None:
        self._manage = ComputePool(threads=1, queue=_MANAGE_QUEUE, timeout_s=_MANAGE_TIMEOUT_S)
        self._plane, self._settings = plane, settings

    async def start(self, listener: socket.socket) -> int:
        """Listen on a bound socket; give the port."""
        loop = self._loop = asyncio.get_running_loop()
        methods = Service(self._plane, self._manage).methods() | Health(self._plane).methods() | reflection.methods()
        host = self._host = Host(
            methods=methods, settings=self._settings, loop=loop, waiting=lambda: self._plane.batcher.in_progress
        )
        self._server = await loop.create_server(lambda: Connection(host), sock=listener, backlog=_BACKLOG)
        self._timer = loop.call_later(_SWEEP_S, self._sweep)
        port: int = listener.getsockname()[1]
        return port

    async def stop(self, grace_s: float) -> None:
        """Take no more calls, and end when those in progress have ended, or at the end of the grace."""
        self._server.close()
        connections = self._host.connections
        for connection in list(connections):
            connection.close_when_idle()
        await self._until(lambda: not any(each.busy() for each in connections), grace_s)
        await self._until(lambda: not connections, min(grace_s, _GOODBYE_S))
        for connection in list(connections):
            connection.stop()
        self._timer.cancel()
        self._manage.close()

    async def _until(self, done: Callable[[], bool], most_s: float) -> None:
        until = time.monotonic() + most_s
        while not done() and time.monotonic() < until:  # noqa: ASYNC110 - many things end it, once in a process's life
            await asyncio.sleep(_LOOK_S)

    def _sweep(self) -> None:
        now = time.monotonic()
        for connection in list(self._host.connections):
            connection.sweep(now)
        self._timer = self._loop.call_later(_SWEEP_S, self._sweep)
