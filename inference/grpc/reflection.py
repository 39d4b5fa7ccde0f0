"""gRPC's server reflection, so that tools such as grpcurl need no .proto file.

Source: the gRPC project's "GRPC Server Reflection Protocol", packages grpc.reflection.v1 and, the same, v1alpha.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator
from typing import Any, Final

from google.protobuf.message import DecodeError

from inference.grpc import health
from inference.grpc.methods import Asked, Method, of_service
from inference.grpc.statuses import Refused
from inference.http2.status import Code
from inference.protocol.grpc_messages import MESSAGES
from inference.protocol.grpc_schema import Messages, Schema

_PACKAGES: Final = ("grpc.reflection.v1", "grpc.reflection.v1alpha")
_METHOD: Final = "ServerReflectionInfo"


def _schema(package: str) -> Schema:
    return Schema(
        file=f"{package.replace('.', '/')}/reflection.proto",
        package=package,
        messages={
            "ServerReflectionRequest": (
                "1 host string", "message_request:", "3 file_by_filename string", "4 file_containing_symbol string",
                "5 file_containing_extension ExtensionRequest", "6 all_extension_numbers_of_type string",
                "7 list_services string",
            ),
            "ExtensionRequest": ("1 containing_type string", "2 extension_number int32"),
            "ServerReflectionResponse": (
                "1 valid_host string", "2 original_request ServerReflectionRequest", "message_response:",
                "4 file_descriptor_response FileDescriptorResponse",
                "5 all_extension_numbers_response ExtensionNumberResponse",
                "6 list_services_response ListServiceResponse", "7 error_response ErrorResponse",
            ),
            "FileDescriptorResponse": ("1 file_descriptor_proto *bytes",),
            "ExtensionNumberResponse": ("1 base_type_name string", "2 extension_number *int32"),
            "ListServiceResponse": ("1 service *ServiceResponse",),
            "ServiceResponse": ("1 name string",),
            "ErrorResponse": ("1 error_code int32", "2 error_message string"),
        },
        services={
            "ServerReflection": {_METHOD: ("stream ServerReflectionRequest", "stream ServerReflectionResponse")}
        },
    )  # fmt: skip


_REFLECTIONS: Final = {package: Messages(_schema(package)) for package in _PACKAGES}
_FILES: Final = {messages.file.name: messages.file for messages in (MESSAGES, health.MESSAGES, *_REFLECTIONS.values())}


def _symbols(file: Any) -> Iterator[str]:  # noqa: ANN401 - descriptors have no types
    for service in file.service:
        yield f"{file.package}.{service.name}"
        yield from (f"{file.package}.{service.name}.{method.name}" for method in service.method)
    yield from _names(file.message_type, file.package)


def _names(messages: Iterable[Any], outer: str) -> Iterator[str]:
    for message in messages:
        yield f"{outer}.{message.name}"
        yield from (f"{outer}.{message.name}.{each.name}" for each in (*message.enum_type, *message.field))
        yield from _names(message.nested_type, f"{outer}.{message.name}")


_BY_SYMBOL: Final = {symbol: file for file in _FILES.values() for symbol in _symbols(file)}
_SERVICES: Final = sorted(f"{file.package}.{service.name}" for file in _FILES.values() for service in file.service)


def methods() -> dict[bytes, Method]:
    """Give the methods of all versions."""
    found: dict[bytes, Method] = {}
    for package, messages in _REFLECTIONS.items():
        found |= of_service(f"{package}.ServerReflection", {}, {_METHOD: _Reflection(messages).info})
    return found


class _Reflection:
    """One version of the service."""

    def __init__(self, messages: Messages) -> None:
        self._asked = messages.of("ServerReflectionRequest")
        self._answered = messages.of("ServerReflectionResponse")

    async def info(self, messages: AsyncIterator[bytes], _asked: Asked) -> AsyncGenerator[bytes, None]:
        """Answer questions, one by one."""
        async for data in messages:
            try:
                request = self._asked.FromString(data)
            except DecodeError as exc:
                raise Refused(Code.INVALID_ARGUMENT, f"no ServerReflectionRequest: {exc}") from exc
            answer = self._answered(valid_host=request.host, original_request=request)
            self._fill(answer, request)
            yield answer.SerializeToString()

    def _fill(self, answer: Any, request: Any) -> None:  # noqa: ANN401 - messages are made at run time
        kind = request.WhichOneof("message_request")
        if kind == "list_services":
            for name in _SERVICES:
                answer.list_services_response.service.add(name=name)
            return
        found = None
        if kind == "file_by_filename":
            found = _FILES.get(request.file_by_filename)
        elif kind == "file_containing_symbol":
            found = _BY_SYMBOL.get(request.file_containing_symbol)
        elif kind == "all_extension_numbers_of_type" and request.all_extension_numbers_of_type in _BY_SYMBOL:
            answer.all_extension_numbers_response.base_type_name = request.all_extension_numbers_of_type
            return
        if found is not None:
            answer.file_descriptor_response.file_descriptor_proto.append(found.SerializeToString())
            return
        answer.error_response.error_code = Code.NOT_FOUND.value
        answer.error_response.error_message = f"{kind or 'nothing'}: unknown here"
