"""Open Inference Protocol messages → V2 bodies: a JSON head and binary tensors. Pure.

Sources: Open Inference Protocol, `grpc_predict_v2.proto` (raw and typed contents alike) and its binary tensor data
extension; Triton's `ModelStreamInferResponse`.
"""

from __future__ import annotations

import math
import struct
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from logger.grpc import wire
from logger.grpc.wire import FIXED32, FIXED64, LENGTH, VARINT, Malformed, Table

_PARAMETER: Final[Table] = {
    1: ("value", VARINT, wire.one_of(wire.boolean)),
    2: ("value", VARINT, wire.one_of(wire.signed)),
    3: ("value", LENGTH, wire.one_of(wire.text)),
    4: ("value", FIXED64, wire.one_of(wire.double)),
    5: ("value", VARINT, wire.one_of(wire.unsigned)),
}
_PARAMETERS: Final = wire.entries(_PARAMETER)
_CONTENTS: Final[Table] = {
    1: ("bool", VARINT, wire.varints),
    2: ("int", VARINT, wire.varints),
    3: ("int64", VARINT, wire.varints),
    4: ("uint", VARINT, wire.varints),
    5: ("uint64", VARINT, wire.varints),
    6: ("fp32", FIXED32, wire.floats),
    7: ("fp64", FIXED64, wire.doubles),
    8: ("bytes", LENGTH, wire.blobs),
}
_TENSOR: Final[Table] = {
    1: ("name", LENGTH, wire.text),
    2: ("datatype", LENGTH, wire.text),
    3: ("shape", VARINT, wire.varints),
    4: ("parameters", LENGTH, _PARAMETERS),
    5: ("contents", LENGTH, wire.part(_CONTENTS)),
}
_REQUESTED: Final[Table] = {1: ("name", LENGTH, wire.text), 2: ("parameters", LENGTH, _PARAMETERS)}
_HEAD: Final[Table] = {
    1: ("model_name", LENGTH, wire.text),
    2: ("model_version", LENGTH, wire.text),
    3: ("id", LENGTH, wire.text),
    4: ("parameters", LENGTH, _PARAMETERS),
    5: ("tensors", LENGTH, wire.parts(_TENSOR)),
}
REQUEST: Final[Table] = {
    **_HEAD, 6: ("requested", LENGTH, wire.parts(_REQUESTED)), 7: ("raw", LENGTH, wire.blobs),
}  # fmt: skip
RESPONSE: Final[Table] = {**_HEAD, 6: ("raw", LENGTH, wire.blobs)}
STREAMED: Final[Table] = {1: ("error", LENGTH, wire.text), 2: ("response", LENGTH, wire.part(RESPONSE))}

# Which typed contents a datatype is carried in, and how an element is spelt raw. FP16 and BF16 are always raw.
_TYPED: Final = {
    "BOOL": ("bool", "B"),
    "INT8": ("int", "b"), "INT16": ("int", "h"), "INT32": ("int", "i"), "INT64": ("int64", "q"),
    "UINT8": ("uint", "B"), "UINT16": ("uint", "H"), "UINT32": ("uint", "I"), "UINT64": ("uint64", "Q"),
    "FP32": ("fp32", ""), "FP64": ("fp64", ""), "BYTES": ("bytes", ""),
}  # fmt: skip
_SIZE: Final = "binary_data_size"
_LENGTH: Final = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class V2Body:
    """A V2 body and what else its message said."""

    body: bytes
    head: int
    """Bytes of JSON at its beginning."""
    model: str
    version: str
    parameters: dict[str, Any]


def request_body(messages: Sequence[memoryview]) -> V2Body:
    """Write the V2 body of a request; of several messages, their rows one below the other.

    Raises:
        Malformed: no such message, contents that do not fit their datatype, or messages that have no rows together.
    """
    found = [wire.read(message, REQUEST) for message in messages]
    fields: dict[str, Any] = {}
    first = _shared(found, fields)
    asked = first.get("requested")
    if asked:
        fields["outputs"] = [{"name": item.get("name", "")} | _parameters(item) for item in asked]
    return _write(found, fields, "inputs")


def response_body(messages: Sequence[memoryview], *, streamed: bool) -> V2Body | str:
    """Write the V2 body of an answer, or give the error that one of its messages tells.

    Raises:
        Malformed: as for requests.
    """
    if streamed:
        outer = [wire.read(message, STREAMED) for message in messages]
        errors = [item["error"] for item in outer if item.get("error")]
        if errors:
            return str(errors[0])
        found = [item.get("response", {}) for item in outer]
    else:
        found = [wire.read(message, RESPONSE) for message in messages]
    fields: dict[str, Any] = {}
    first = _shared(found, fields)
    names = {"model_name": first.get("model_name", "")}
    if first.get("model_version"):
        names["model_version"] = first["model_version"]
    return _write(found, names | fields, "outputs")


def _shared(found: Sequence[dict[str, Any]], fields: dict[str, Any]) -> dict[str, Any]:
    """Note what the first message says for all of them."""
    if not found:
        raise Malformed("no message")
    first = found[0]
    if any(item.get("model_name") != first.get("model_name") for item in found):
        raise Malformed("messages for several models")
    if first.get("id"):
        fields["id"] = first["id"]
    fields |= _parameters(first)
    return first


def _write(found: Sequence[dict[str, Any]], fields: dict[str, Any], key: str) -> V2Body:
    tensors = _joined([_tensors(item) for item in found])
    fields[key] = [fact for fact, _ in tensors]
    try:
        head = orjson.dumps(fields)
    except TypeError as exc:
        raise Malformed(f"has no JSON form: {exc}") from exc
    first = found[0]
    body = b"".join((head, *(raw for _, raw in tensors)))
    parameters = fields.get("parameters", {})
    return V2Body(body, len(head), first.get("model_name", ""), first.get("model_version", ""), parameters)


Tensors = list[tuple[dict[str, Any], bytes | bytearray | memoryview]]


def _tensors(message: dict[str, Any]) -> Tensors:
    """Give the tensors of one message: what V2 says about each, and its raw bytes."""
    items = message.get("tensors", [])
    raws = message.get("raw")
    if raws is not None and (len(raws) != len(items) or any("contents" in item for item in items)):
        raise Malformed(f"{len(items)} tensors, {len(raws)} raw contents, and maybe typed ones")
    found: Tensors = []
    for index, item in enumerate(items):
        raw = _raw(item) if raws is None else raws[index]
        shape = array("q", item.get("shape", array("Q")).tobytes()).tolist()
        given = _parameters(item).get("parameters", {})
        fact = {"name": item.get("name", ""), "shape": shape, "datatype": item.get("datatype", "")}
        found.append((fact | {"parameters": given | {_SIZE: len(raw)}}, raw))
    return found


def _joined(messages: list[Tensors]) -> Tensors:
    """Put the rows of several messages one below the other."""
    if len(messages) == 1:
        return messages[0]
    kinds = {tuple((fact["name"], fact["datatype"], *fact["shape"][1:]) for fact, _ in one) for one in messages}
    if len(kinds) > 1 or not all(fact["shape"] for one in messages for fact, _ in one):
        raise Malformed("messages whose tensors do not fit together")
    found: Tensors = []
    for same in zip(*messages, strict=True):
        fact = dict(same[0][0])
        raw = b"".join(raw for _, raw in same)
        fact["shape"] = [sum(one["shape"][0] for one, _ in same), *fact["shape"][1:]]
        fact["parameters"] = fact["parameters"] | {_SIZE: len(raw)}
        found.append((fact, raw))
    return found


def _raw(item: dict[str, Any]) -> bytes | bytearray:
    """Give typed contents as raw ones."""
    contents = {name: value for name, value in item.get("contents", {}).items() if len(value)}
    if not contents:
        return b""
    datatype = item.get("datatype", "")
    name, code = _TYPED.get(datatype, ("", ""))
    if set(contents) != {name}:
        raise Malformed(f"tensor of {datatype!r}: contents of {', '.join(contents)}")
    value = contents[name]
    if name == "bytes":
        return b"".join(_LENGTH.pack(len(blob)) + blob for blob in value)
    if name == "bool":
        return bytes(number != 0 for number in value)
    return _numbers(value, code) if code else bytearray(value)


def _numbers(value: array[int], code: str) -> bytes:
    """Spell integers in as many bytes as their datatype has."""
    if code in "qQ":
        return wire.little(value)
    # What is declared with 32 bits counts as 32 bits, whatever was sent.
    lower = [number & 0xFFFFFFFF for number in value]
    if code.islower():
        lower = [number - (1 << 32) if number >> 31 else number for number in lower]
    try:
        return wire.little(array(code, lower))
    except OverflowError as exc:
        raise Malformed(f"a number is out of range: {exc}") from exc


def _parameters(item: dict[str, Any]) -> dict[str, Any]:
    """Give parameters as V2 writes them; one without a value is null."""
    found = item.get("parameters")
    return {"parameters": {name: _json(value.get("value")) for name, value in found.items()}} if found else {}


def _json(value: object) -> object:
    # NaN and infinities have no JSON form; text keeps what they were.
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
