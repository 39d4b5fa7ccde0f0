"""Protocol Buffers messages and services described by tables, and their classes. Pure.

Tables instead of generated files: a field is one line, and there is no compiler to run. The descriptors live in a pool
of their own, so that another library's descriptors of the same names (a client's, in one process) do not clash.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from inference.protocol.errors import MalformedBody

_FIELD: Final = descriptor_pb2.FieldDescriptorProto
_KINDS: Final = {
    "bool": _FIELD.TYPE_BOOL, "int32": _FIELD.TYPE_INT32, "int64": _FIELD.TYPE_INT64, "uint32": _FIELD.TYPE_UINT32,
    "uint64": _FIELD.TYPE_UINT64, "float": _FIELD.TYPE_FLOAT, "double": _FIELD.TYPE_DOUBLE,
    "string": _FIELD.TYPE_STRING, "bytes": _FIELD.TYPE_BYTES,
}  # fmt: skip
_STREAM: Final = "stream "


@dataclass(frozen=True, slots=True, kw_only=True)
class Schema:
    """One file of messages.

    A message's name may stand inside another's: `Outer.Inner`, after `Outer`. Its fields are lines of
    `<number> <name> <kind>`; a kind is a scalar, a message or an enum, repeated with `*` before it; `map <kind>` maps
    texts to it. A line `<oneof>:` puts the fields after it into a choice. A service's methods are pairs of messages.
    """

    file: str
    package: str
    messages: Mapping[str, Sequence[str]]
    enums: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Enum, inside a message or not, and its values from 0 up."""
    services: Mapping[str, Mapping[str, tuple[str, str]]] = field(default_factory=dict)
    """Service, method, request and response; `stream ` before a message where there are several."""


class Messages:
    """The classes of a schema's messages."""

    def __init__(self, schema: Schema) -> None:
        self.file = _described(schema)
        """The description, as reflection sends it."""
        self._package = schema.package
        self._pool = descriptor_pool.DescriptorPool()
        self._pool.Add(self.file)

    def of(self, name: str) -> Any:  # noqa: ANN401 - made at run time
        """Give a message's class."""
        return message_factory.GetMessageClass(self._pool.FindMessageTypeByName(f"{self._package}.{name}"))


def _described(schema: Schema) -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(name=schema.file, package=schema.package, syntax="proto3")
    found: dict[str, Any] = {}
    for path, lines in schema.messages.items():
        outer, _, name = path.rpartition(".")
        found[path] = found[outer].nested_type.add(name=name) if outer else file.message_type.add(name=name)
        _fill(found[path], lines, schema, path)
    for path, values in schema.enums.items():
        outer, _, name = path.rpartition(".")
        enum = (found[outer] if outer else file).enum_type.add(name=name)
        for number, value in enumerate(values):
            enum.value.add(name=value, number=number)
    for name, methods in schema.services.items():
        service = file.service.add(name=name)
        for method, (asked, answered) in methods.items():
            service.method.add(
                name=method,
                input_type=f".{schema.package}.{asked.removeprefix(_STREAM)}",
                output_type=f".{schema.package}.{answered.removeprefix(_STREAM)}",
                client_streaming=asked.startswith(_STREAM),
                server_streaming=answered.startswith(_STREAM),
            )
    return file


def _fill(message: Any, lines: Sequence[str], schema: Schema, path: str) -> None:  # noqa: ANN401 - descriptors have no types
    choice: int | None = None
    for line in lines:
        if line.endswith(":"):
            choice = len(message.oneof_decl)
            message.oneof_decl.add(name=line.removesuffix(":"))
            continue
        number, name, *kind = line.split()
        added = message.field.add(name=name, number=int(number), label=_FIELD.LABEL_OPTIONAL)
        if choice is not None:
            added.oneof_index = choice
        if kind[0] == "map":
            entry = message.nested_type.add(name="".join(map(str.capitalize, name.split("_"))) + "Entry")
            entry.options.map_entry = True
            entry.field.add(name="key", number=1, type=_FIELD.TYPE_STRING, label=_FIELD.LABEL_OPTIONAL)
            value = entry.field.add(name="value", number=2, label=_FIELD.LABEL_OPTIONAL)
            _type(value, kind[1], schema)
            added.type, added.type_name = _FIELD.TYPE_MESSAGE, f".{schema.package}.{path}.{entry.name}"
            added.label = _FIELD.LABEL_REPEATED
            continue
        if kind[0].startswith("*"):
            added.label = _FIELD.LABEL_REPEATED
        _type(added, kind[0].removeprefix("*"), schema)


def _type(field_: Any, kind: str, schema: Schema) -> None:  # noqa: ANN401 - descriptors have no types
    if kind in _KINDS:
        field_.type = _KINDS[kind]
        return
    field_.type = _FIELD.TYPE_ENUM if kind in schema.enums else _FIELD.TYPE_MESSAGE
    field_.type_name = f".{schema.package}.{kind}"


def parsed(kind: Any, data: bytes) -> Any:  # noqa: ANN401 - messages are made at run time
    """Read a message of a class that `Messages` made.

    Raises:
        MalformedBody: the bytes are none.
    """
    try:
        return kind.FromString(data)
    except DecodeError as exc:
        raise MalformedBody("message", f"no {kind.DESCRIPTOR.name}: {exc}") from exc
