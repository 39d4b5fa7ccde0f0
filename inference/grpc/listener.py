"""Serves methods on a port, from `start` to `stop`: its connections, their sweeps and their end."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import time
from collections.abc import Callable
from typing import Final

from inference.grpc.connection import Connection, Host
from inference.grpc.methods import Methods
from inference.settings import ServerSettings

log = logging.getLogger(__name__)

_BACKLOG: Final = 2_048
_SWEEP_S: Final = 0.25
_LOOK_S: Final = 0.01
_GOODBYE_S: Final = 0.5
"""For clients without calls to close after the goodbye, as they do at once."""


class Listener:
    """One port. Made on the event loop.

    Args:
        methods: what is served.
        settings: the limits.
        waiting: counts the calls in progress, for who is refused.
    """

    def __init__(self, methods: Methods, settings: ServerSettings, waiting: Callable[[], int]) -> None:
        self._loop = asyncio.get_running_loop()
        self.host = Host(methods=methods, settings=settings, loop=self._loop, waiting=waiting)

    async def start(self, bound: socket.socket, tls: ssl.SSLContext | None = None) -> int:
        """Listen on a bound socket, encrypted if so; give the port."""
        host = self.host
        self._server = await self._loop.create_server(lambda: Connection(host), sock=bound, backlog=_BACKLOG, ssl=tls)
        self._timer = self._loop.call_later(_SWEEP_S, self._sweep)
        port: int = bound.getsockname()[1]
        return port

    async def stop(self, grace_s: float) -> None:
        """Take no more calls, and end when those in progress have ended, or at the end of the grace."""
        self._server.close()
        connections = self.host.connections
        for connection in list(connections):
            connection.close_when_idle()
        await _until(lambda: not any(each.busy() for each in connections), grace_s)
        await _until(lambda: not connections, min(grace_s, _GOODBYE_S))
        for connection in list(connections):
            connection.stop()
        self._timer.cancel()

    def _sweep(self) -> None:
        self._timer = self._loop.call_later(_SWEEP_S, self._sweep)
        now = time.monotonic()
        for connection in list(self.host.connections):
            try:
                connection.sweep(now)
            except Exception:
                # One connection's trouble must not end the time limits of all others.
                log.exception("a connection could not be swept and is cut")
                connection.abort()


async def _until(done: Callable[[], bool], most_s: float) -> None:
    until = time.monotonic() + most_s
    while not done() and time.monotonic() < until:  # noqa: ASYNC110 - many things end it, once in a process's life
        await asyncio.sleep(_LOOK_S)
