"""V2 REST bodies: JSON, and JSON followed by binary tensors.

Sources: Open Inference Protocol, "Inference Request/Response JSON Object"; binary tensor data extension
(`Inference-Header-Content-Length`, `binary_data_size`, `binary_data`, `binary_data_output`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

import orjson

from inference.protocol import bodies
from inference.protocol.datatypes import RAW_ONLY
from inference.protocol.errors import BadTensor, MalformedBody
from inference.protocol.tensors import Parameters, Tensor, check_shape, from_json, from_raw, to_json, to_raw

_NOTHING: Final[Parameters] = MappingProxyType({})
_SIZE: Final = "binary_data_size"


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestedOutput:
    """An output that the client names."""

    name: str
    parameters: Parameters = field(default_factory=lambda: _NOTHING)


@dataclass(frozen=True, slots=True, kw_only=True)
class InferRequest:
    """A V2 inference request. Model name and version come from the path, not from the body."""

    inputs: tuple[Tensor, ...]
    id: str | None = None
    parameters: Parameters = field(default_factory=lambda: _NOTHING)
    outputs: tuple[RequestedOutput, ...] = ()

    def wants_binary(self, output: str) -> bool:
        """Tell whether the client asked for an output in binary; its own parameter beats the request's."""
        named = {item.name: item.parameters for item in self.outputs}
        own = named.get(output, _NOTHING).get("binary_data")
        return bool(self.parameters.get("binary_data_output", False) if own is None else own)


@dataclass(frozen=True, slots=True, kw_only=True)
class InferResponse:
    """A V2 inference response."""

    model_name: str
    outputs: tuple[Tensor, ...]
    model_version: str | None = None
    id: str | None = None
    parameters: Parameters = field(default_factory=lambda: _NOTHING)


def decode_request(body: bytes, header_length: int | None = None) -> InferRequest:
    """Read a request; `header_length` is the value of Inference-Header-Content-Length, None without that header.

    Raises:
        ProtocolError: the body does not follow the protocol; the text names the tensor, expected and got.
    """
    fields, tensors = _decode(body, header_length, "inputs")
    return InferRequest(
        inputs=tensors,
        id=_text(fields, "id"),
        parameters=_parameters(fields, "request"),
        outputs=tuple(map(_requested, _list(fields, "outputs", optional=True))),
    )


def decode_parameters(body: bytes, header_length: int | None = None) -> Parameters:
    """Read a request's own parameters, and nothing else. Raises what `decode_request` raises about them."""
    head = body if header_length is None else body[:header_length]
    return _parameters(_object(bodies.read(head, "inputs"), "body"), "request")


def decode_response(body: bytes, header_length: int | None = None) -> InferResponse:
    """Read a response; see `decode_request`."""
    fields, tensors = _decode(body, header_length, "outputs")
    name = _text(fields, "model_name")
    if name is None:
        raise MalformedBody("response", "'model_name' is missing")
    return InferResponse(
        model_name=name,
        outputs=tensors,
        model_version=_text(fields, "model_version"),
        id=_text(fields, "id"),
        parameters=_parameters(fields, "response"),
    )


def encode_request(request: InferRequest, *, binary: bool = False) -> tuple[bytes, int | None]:
    """Write a request; with `binary` every tensor is raw. Gives body and header length (None for plain JSON)."""
    fields: dict[str, Any] = _identity(request.id, request.parameters)
    if request.outputs:
        fields["outputs"] = [
            {"name": item.name} | ({"parameters": dict(item.parameters)} if item.parameters else {})
            for item in request.outputs
        ]
    return _encode(fields, "inputs", request.inputs, lambda _name: binary)


def encode_response(
    response: InferResponse, binary: Callable[[str], bool] = lambda _name: False
) -> tuple[bytes, int | None]:
    """Write a response; `binary(name)` says which outputs go raw. FP16 and BF16 always do: they have no JSON form."""
    fields: dict[str, Any] = {"model_name": response.model_name}
    if response.model_version is not None:
        fields["model_version"] = response.model_version
    fields |= _identity(response.id, response.parameters)
    return _encode(fields, "outputs", response.outputs, binary)


def _identity(identity: str | None, parameters: Parameters) -> dict[str, Any]:
    fields: dict[str, Any] = {} if identity is None else {"id": identity}
    if parameters:
        fields["parameters"] = dict(parameters)
    return fields


def _encode(
    fields: dict[str, Any], key: str, tensors: Sequence[Tensor], binary: Callable[[str], bool]
) -> tuple[bytes, int | None]:
    raws: list[bytes] = []
    items = []
    for tensor in tensors:
        item: dict[str, Any] = {"name": tensor.name, "shape": list(tensor.shape), "datatype": tensor.datatype}
        parameters = {name: value for name, value in tensor.parameters.items() if name != _SIZE}
        if binary(tensor.name) or tensor.datatype in RAW_ONLY:
            raws.append(to_raw(tensor))
            parameters[_SIZE] = len(raws[-1])
        else:
            item["data"] = to_json(tensor)
        if parameters:
            item["parameters"] = parameters
        items.append(item)
    try:
        head = orjson.dumps(fields | {key: items})
    except TypeError as exc:
        raise MalformedBody("body", f"has no JSON form: {exc}") from exc
    return (b"".join((head, *raws)), len(head)) if raws else (head, None)


def _decode(body: bytes, header_length: int | None, key: str) -> tuple[dict[str, Any], tuple[Tensor, ...]]:
    length = len(body) if header_length is None else header_length
    if not 0 < length <= len(body):
        if header_length is None:
            raise MalformedBody("body", "expected a JSON object, got nothing")
        raise MalformedBody("Inference-Header-Content-Length", f"expected 1 to {len(body)} bytes, got {length}")
    fields = _object(bodies.read(body[:length], key), "body")
    rest = memoryview(body)[length:]
    tensors: list[Tensor] = []
    seen: set[str] = set()
    for index, item in enumerate(_list(fields, key)):
        tensor, rest = _tensor(item, f"{key}[{index}]", rest, binary_allowed=header_length is not None)
        if tensor.name in seen:
            raise BadTensor(f"tensor {tensor.name!r}", "is given twice")
        seen.add(tensor.name)
        tensors.append(tensor)
    if len(rest):
        raise MalformedBody("binary data", f"{len(rest)} bytes follow the last tensor's")
    return fields, tuple(tensors)


def _tensor(item: object, where: str, rest: memoryview, *, binary_allowed: bool) -> tuple[Tensor, memoryview]:
    fields = _object(item, where)
    name = fields.get("name")
    if not isinstance(name, str):
        raise MalformedBody(where, f"'name': expected text, got {name!r}")
    where = f"tensor {name!r}"
    shape = check_shape(fields.get("shape"), where)
    datatype = fields.get("datatype")
    parameters = _parameters(fields, where)
    size = parameters.get(_SIZE)
    if size is None:
        if "data" not in fields:
            elsewhere = "; shared memory is not offered" if "shared_memory_region" in parameters else ""
            raise MalformedBody(where, f"has neither 'data' nor the parameter {_SIZE!r}{elsewhere}")
        data = from_json(datatype, shape, fields["data"], where)
    else:
        if not binary_allowed:
            raise MalformedBody(where, "binary data without the header Inference-Header-Content-Length")
        if "data" in fields:
            raise MalformedBody(where, f"has both 'data' and the parameter {_SIZE!r}")
        if not isinstance(size, int) or isinstance(size, bool) or size < 0:
            raise BadTensor(where, f"{_SIZE}: expected a number of bytes, got {size!r}")
        if size > len(rest):
            raise BadTensor(where, f"{_SIZE} is {size}, only {len(rest)} bytes are left in the body")
        data = from_raw(datatype, shape, rest[:size], where)
        rest = rest[size:]
    return Tensor(name=name, datatype=str(datatype), shape=shape, data=data, parameters=parameters), rest


def _requested(item: object) -> RequestedOutput:
    fields = _object(item, "outputs")
    name = fields.get("name")
    if not isinstance(name, str):
        raise MalformedBody("outputs", f"'name': expected text, got {name!r}")
    return RequestedOutput(name=name, parameters=_parameters(fields, f"output {name!r}"))


def _object(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise MalformedBody(where, f"expected a JSON object, got {type(value).__name__}")
    return value


def _list(fields: dict[str, Any], key: str, *, optional: bool = False) -> list[Any]:
    value = fields.get(key)
    if value is None and optional:
        return []
    if not isinstance(value, list):
        raise MalformedBody(key, f"expected a list of tensors, got {type(value).__name__}")
    return value


def _text(fields: dict[str, Any], key: str) -> str | None:
    value = fields.get(key)
    if value is not None and not isinstance(value, str):
        raise MalformedBody(key, f"expected text, got {type(value).__name__}")
    return value


def _parameters(fields: dict[str, Any], where: str) -> Parameters:
    value = fields.get("parameters")
    if value is None:
        return _NOTHING
    return _object(value, f"{where}: parameters")
