"""Runs the gRPC services beside the REST application, on the same event loop. Used by `inference/server.py`."""

from __future__ import annotations

from typing import Final

import grpc.aio

from inference.dataplane import DataPlane
from inference.grpc import reflection
from inference.grpc.health import Health
from inference.grpc.service import Service
from inference.pool import ComputePool
from inference.settings import ServerSettings

_MANAGE_TIMEOUT_S: Final = 600.0
_MANAGE_QUEUE: Final = 16
_PING_MS: Final = 5_000


class GrpcServer:
    """Listens from `start` to `stop`; both are called on the event loop."""

    def __init__(self, plane: DataPlane, settings: ServerSettings) -> None:
        self._manage = ComputePool(threads=1, queue=_MANAGE_QUEUE, timeout_s=_MANAGE_TIMEOUT_S)
        self._plane, self._settings = plane, settings

    async def start(self, *, shared: bool = False) -> int:
        """Listen; give the port.

        Args:
            shared: other processes listen on the same port, too.

        Raises:
            OSError: the port is taken.
        """
        settings = self._settings
        self._server = grpc.aio.server(
            options=(
                ("grpc.max_receive_message_length", settings.grpc_max_receive),
                ("grpc.max_send_message_length", settings.grpc_max_send),
                ("grpc.so_reuseport", int(shared)),
                # Clients keep connections alive with pings; by default gRPC breaks with those that do it often.
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.http2.min_ping_interval_without_data_ms", _PING_MS),
            )
        )
        services = (Service(self._plane, self._manage).handlers(), Health(self._plane).handlers())
        self._server.add_generic_rpc_handlers((*services, *reflection.handlers()))
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        try:
            port: int = self._server.add_insecure_port(f"{host}:{settings.grpc_port}")
        except RuntimeError as exc:
            raise OSError(f"cannot listen on {host}:{settings.grpc_port}: {exc}") from exc
        await self._server.start()
        return port

    async def stop(self, grace_s: float) -> None:
        """Take no more calls, and end when those in progress have ended, or at the end of the grace."""
        await self._server.stop(grace_s)
        self._manage.close()
