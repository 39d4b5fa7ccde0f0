"""gRPC's standard health service, for the server (service names "" and ours) and for each model by its name.

Source: the gRPC project's "GRPC Health Checking Protocol", package grpc.health.v1.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Final

from inference.dataplane import DataPlane
from inference.errors import ModelNotFound
from inference.grpc.methods import Asked, Method, of_service, only
from inference.grpc.statuses import Refused
from inference.http2.status import Code
from inference.protocol.grpc_messages import SERVICE
from inference.protocol.grpc_schema import Messages, Schema, parsed

NAME: Final = "grpc.health.v1.Health"
_SERVING, _NOT_SERVING, _UNKNOWN = 1, 2, 3
_LOOK_S: Final = 0.25
"""How often a watched state is looked at: a model's readiness changes in many places, and nobody tells."""
_MOST: Final = 100
"""Services in a list, as the protocol advises to bound it."""

MESSAGES: Final = Messages(
    Schema(
        file="grpc/health/v1/health.proto",
        package="grpc.health.v1",
        messages={
            "HealthCheckRequest": ("1 service string",),
            "HealthCheckResponse": ("1 status HealthCheckResponse.ServingStatus",),
            "HealthListRequest": (),
            "HealthListResponse": ("1 statuses map HealthCheckResponse",),
        },
        enums={"HealthCheckResponse.ServingStatus": ("UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN")},
        services={
            "Health": {
                "Check": ("HealthCheckRequest", "HealthCheckResponse"),
                "List": ("HealthListRequest", "HealthListResponse"),
                "Watch": ("HealthCheckRequest", "stream HealthCheckResponse"),
            }
        },
    )
)
_Request, _Response = MESSAGES.of("HealthCheckRequest"), MESSAGES.of("HealthCheckResponse")
_Listed = MESSAGES.of("HealthListResponse")


class Health:
    """The service over one data plane."""

    def __init__(self, plane: DataPlane) -> None:
        self._plane = plane
        self._closed = False

    def methods(self) -> dict[bytes, Method]:
        """Give the methods."""
        return of_service(NAME, {"Check": self.check, "List": self.list}, {"Watch": self.watch})

    async def check(self, data: bytes, _asked: Asked) -> bytes:
        """Say whether the server, or a model, takes calls."""
        status = self._status(_service(data))
        if status == _UNKNOWN:
            raise Refused(Code.NOT_FOUND, "unknown service")
        return _said(status)

    async def list(self, _data: bytes, _asked: Asked) -> bytes:
        """Say it of everything."""
        names = ["", SERVICE, *self._plane.models()]
        if len(names) > _MOST:
            raise Refused(Code.RESOURCE_EXHAUSTED, f"{len(names)} services; ask for one of them")
        listed = _Listed()
        for name in names:
            listed.statuses[name].status = self._status(name)
        text: bytes = listed.SerializeToString()
        return text

    async def watch(self, messages: AsyncIterator[bytes], _asked: Asked) -> AsyncGenerator[bytes, None]:
        """Say it now and whenever it changes, until the client leaves or the server stops."""
        service = _service(await only(messages))
        last = None
        while True:
            over, status = self._closed, self._status(service)
            if status != last:
                yield _said(status)
                last = status
            if over:
                # A client watches for as long as it lives: the server would wait for it until its grace is over.
                raise Refused(Code.UNAVAILABLE, "the server stops")
            await asyncio.sleep(_LOOK_S)

    def close(self) -> None:
        """Serve nothing any more: those who watch hear so, and then their streams end."""
        self._closed = True

    def _status(self, service: str) -> int:
        if service in {"", SERVICE}:
            return _SERVING if self._plane.ready() and not self._closed else _NOT_SERVING
        try:
            return _SERVING if self._plane.model_ready(service) and not self._closed else _NOT_SERVING
        except ModelNotFound:
            return _UNKNOWN


def _service(data: bytes) -> str:
    service: str = parsed(_Request, data).service
    return service


def _said(status: int) -> bytes:
    answer: bytes = _Response(status=status).SerializeToString()
    return answer
