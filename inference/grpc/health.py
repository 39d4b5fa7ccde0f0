"""gRPC's standard health service, for the server (service names "" and ours) and for each model by its name.

Source: the gRPC project's "GRPC Health Checking Protocol", package grpc.health.v1.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final

import grpc
from google.protobuf.message import DecodeError
from grpc import StatusCode

from inference.dataplane import DataPlane
from inference.errors import ModelNotFound
from inference.grpc.statuses import refuse
from inference.protocol.errors import MalformedBody
from inference.protocol.grpc_messages import SERVICE
from inference.protocol.grpc_schema import Messages, Schema

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

    def handlers(self) -> Any:  # noqa: ANN401 - grpc has no types
        """Give the methods as grpc takes them."""
        return grpc.method_handlers_generic_handler(
            NAME,
            {
                "Check": grpc.unary_unary_rpc_method_handler(self.check),
                "List": grpc.unary_unary_rpc_method_handler(self.list),
                "Watch": grpc.unary_stream_rpc_method_handler(self.watch),
            },
        )

    async def check(self, data: bytes, context: Any) -> bytes:  # noqa: ANN401 - grpc has no types
        """Say whether the server, or a model, takes calls."""
        try:
            status = self._status(_service(data))
        except Exception as exc:  # noqa: BLE001 - the edge: everything becomes an answer
            await refuse(context, "Check", exc)
        if status == _UNKNOWN:
            await context.abort(StatusCode.NOT_FOUND, "unknown service")
        return _said(status)

    async def list(self, _data: bytes, context: Any) -> bytes:  # noqa: ANN401 - grpc has no types
        """Say it of everything."""
        names = ["", SERVICE, *self._plane.models()]
        if len(names) > _MOST:
            await context.abort(StatusCode.RESOURCE_EXHAUSTED, f"{len(names)} services; ask for one of them")
        listed = _Listed()
        for name in names:
            listed.statuses[name].status = self._status(name)
        text: bytes = listed.SerializeToString()
        return text

    async def watch(self, data: bytes, context: Any) -> AsyncIterator[bytes]:  # noqa: ANN401 - grpc has no types
        """Say it now and whenever it changes, until the client leaves."""
        try:
            service = _service(data)
        except Exception as exc:  # noqa: BLE001 - the edge: everything becomes an answer
            await refuse(context, "Watch", exc)
        last = None
        while True:
            status = self._status(service)
            if status != last:
                yield _said(status)
                last = status
            await asyncio.sleep(_LOOK_S)

    def _status(self, service: str) -> int:
        if service in {"", SERVICE}:
            return _SERVING if self._plane.ready() else _NOT_SERVING
        try:
            return _SERVING if self._plane.model_ready(service) else _NOT_SERVING
        except ModelNotFound:
            return _UNKNOWN


def _service(data: bytes) -> str:
    try:
        service: str = _Request.FromString(data).service
    except DecodeError as exc:
        raise MalformedBody("message", f"no HealthCheckRequest: {exc}") from exc
    return service


def _said(status: int) -> bytes:
    answer: bytes = _Response(status=status).SerializeToString()
    return answer
