"""Runs the gRPC services beside the REST application, on the same event loop. Used by `inference/server.py`.

Next on the path: `listener.py` → `connection.py` → `call.py` → `predictions.py`.
"""

from __future__ import annotations

import socket
import ssl
from typing import Final

from inference.attendance import Count
from inference.dataplane import DataPlane
from inference.grpc import reflection
from inference.grpc.health import Health
from inference.grpc.listener import Listener
from inference.grpc.service import Service
from inference.pool import ComputePool
from inference.settings import ServerSettings

_MANAGE_TIMEOUT_S: Final = 600.0
_MANAGE_QUEUE: Final = 16


class GrpcServer:
    """Listens from `start` to `stop`; both are called on the event loop."""

    def __init__(self, plane: DataPlane, settings: ServerSettings) -> None:
        self._manage = ComputePool(threads=1, queue=_MANAGE_QUEUE, timeout_s=_MANAGE_TIMEOUT_S)
        self._plane, self._settings = plane, settings

    async def start(self, bound: socket.socket, tls: ssl.SSLContext | None = None) -> int:
        """Listen on a bound socket, encrypted if so; give the port."""
        self._health = Health(self._plane)
        services = Service(self._plane, self._manage).methods() | self._health.methods()
        batcher = self._plane.batcher
        self._listener = Listener(services | reflection.methods(), self._settings, lambda: batcher.in_progress)
        return await self._listener.start(bound, tls)

    def connections(self) -> Count:
        """Count the clients' connections."""
        host = self._listener.host
        return Count(len(host.places.taken), host.places.refused, host.unread)

    async def stop(self, grace_s: float) -> None:
        """Take no more calls, and end when those in progress have ended, or at the end of the grace."""
        self._health.close()
        await self._listener.stop(grace_s)
        self._manage.close()
