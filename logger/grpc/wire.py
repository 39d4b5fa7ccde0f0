"""Protocol Buffers' wire format, as much as reading needs. Pure; values in, values out.

A message is read against a table of its fields; what the table does not name is skipped, as proto3 asks for.
Source: protobuf.dev, "Encoding".
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Callable, Mapping
from typing import Any, Final

VARINT, FIXED64, LENGTH, GROUP, END_GROUP, FIXED32 = range(6)
_MASK_64: Final = (1 << 64) - 1
_LONGEST: Final = 10
_LAST_SHIFT: Final = 63
_DEEPEST: Final = 100
_HIGHEST_FIELD: Final = (1 << 29) - 1
_FIXED: Final = {FIXED64: 8, FIXED32: 4}


class Malformed(ValueError):
    """The bytes are no message."""


Value = int | bytes | memoryview
Take = Callable[[dict[str, Any], str, Value], None]
Table = Mapping[int, tuple[str, int, Take]]
"""By field number: the name, the wire type that the taker reads, and the taker. Packed numbers are taken either way."""


def read(data: memoryview, table: Table, found: dict[str, Any] | None = None) -> dict[str, Any]:
    """Read a message; with `found`, into what an earlier occurrence of it gave.

    Raises:
        Malformed: cut off, or no message.
    """
    message: dict[str, Any] = {} if found is None else found
    at, end = 0, len(data)
    while at < end:
        tag, at = varint(data, at)
        field, kind = tag >> 3, tag & 7
        if not 0 < field <= _HIGHEST_FIELD:
            raise Malformed(f"field number {field}")
        value, at = _value(data, at, kind, field)
        known = table.get(field)
        if known is None:
            continue
        name, wanted, take = known
        if kind == wanted or (kind == LENGTH and wanted != LENGTH and take in _PACKABLE):
            take(message, name, value)
    return message


def varint(data: memoryview, at: int) -> tuple[int, int]:
    """Read a varint; give it, in 64 bits, and where it ends."""
    if at < len(data) and data[at] < 0x80:  # noqa: PLR2004 - the bit that says that more follows
        return data[at], at + 1
    value = shift = 0
    for place in range(at, min(at + _LONGEST, len(data))):
        byte = data[place]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:  # noqa: PLR2004 - as above
            return value & _MASK_64, place + 1
        shift += 7
    raise Malformed("a number is cut off, or longer than ten bytes")


def text(message: dict[str, Any], name: str, value: Value) -> None:
    """Take a string."""
    try:
        message[name] = bytes(value).decode()
    except UnicodeDecodeError as exc:
        raise Malformed(f"{name}: no UTF-8") from exc


def blobs(message: dict[str, Any], name: str, value: Value) -> None:
    """Take one of repeated bytes; a view, nothing is copied."""
    message.setdefault(name, []).append(value)


def boolean(message: dict[str, Any], name: str, value: Value) -> None:
    """Take a bool."""
    message[name] = value != 0


def signed(message: dict[str, Any], name: str, value: Value) -> None:
    """Take an int64."""
    message[name] = _signed(value)  # type: ignore[arg-type] # by its wire type an integer


def unsigned(message: dict[str, Any], name: str, value: Value) -> None:
    """Take a uint64."""
    message[name] = value


def double(message: dict[str, Any], name: str, value: Value) -> None:
    """Take a double."""
    message[name] = struct.unpack("<d", value)[0]  # type: ignore[arg-type] # by its wire type eight bytes


def varints(message: dict[str, Any], name: str, value: Value) -> None:
    """Take repeated numbers, packed or one by one, as 64 bits each."""
    found = message.setdefault(name, array("Q"))
    if isinstance(value, int):
        found.append(value)
    elif value and max(value) < 0x80:  # noqa: PLR2004 - one byte each: the usual case of small numbers
        found.extend(bytes(value))
    else:
        _unpack(value, found)


def floats(message: dict[str, Any], name: str, value: Value) -> None:
    """Take repeated floats as the bytes that they are, little-endian: what packing makes of them."""
    _fixed(message, name, value, 4)


def doubles(message: dict[str, Any], name: str, value: Value) -> None:
    """Take repeated doubles, as floats."""
    _fixed(message, name, value, 8)


def part(table: Table) -> Take:
    """Give the taker of an embedded message; a second one is merged into the first."""

    def take(message: dict[str, Any], name: str, value: Value) -> None:
        message[name] = read(memoryview(value), table, message.get(name))  # type: ignore[arg-type] # bytes, by its wire type

    return take


def parts(table: Table) -> Take:
    """Give the taker of one of repeated messages."""

    def take(message: dict[str, Any], name: str, value: Value) -> None:
        message.setdefault(name, []).append(read(memoryview(value), table))  # type: ignore[arg-type] # as above

    return take


def entries(table: Table) -> Take:
    """Give the taker of an entry of a map from text to messages; the last of a key counts."""
    entry: Table = {1: ("key", LENGTH, text), 2: ("value", LENGTH, part(table))}

    def take(message: dict[str, Any], name: str, value: Value) -> None:
        found = read(memoryview(value), entry)  # type: ignore[arg-type] # as above
        message.setdefault(name, {})[found.get("key", "")] = found.get("value", {})

    return take


def one_of(take: Take) -> Take:
    """Give the taker of a member of a oneof that is the whole message: what comes later replaces it."""

    def taken(message: dict[str, Any], name: str, value: Value) -> None:
        message.clear()
        take(message, name, value)

    return taken


def _fixed(message: dict[str, Any], name: str, value: Value, width: int) -> None:
    if isinstance(value, int) or len(value) % width:
        raise Malformed(f"{name}: expected a multiple of {width} bytes")
    message.setdefault(name, bytearray()).extend(value)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> _LAST_SHIFT else value


def _value(data: memoryview, at: int, kind: int, field: int) -> tuple[Value, int]:
    if kind == VARINT:
        return varint(data, at)
    if kind == LENGTH:
        size, at = varint(data, at)
    elif kind in _FIXED:
        size = _FIXED[kind]
    elif kind == GROUP:
        return b"", _skip_group(data, at, field)
    else:
        raise Malformed(f"field {field}: wire type {kind}")
    if size > len(data) - at:
        raise Malformed(f"field {field}: needs {size} bytes, {len(data) - at} are there")
    return data[at : at + size], at + size


def _skip_group(data: memoryview, at: int, field: int) -> int:
    """Give where a group ends; nobody has used them since proto2."""
    opened = [field]
    while opened:
        tag, at = varint(data, at)
        field, kind = tag >> 3, tag & 7
        if not 0 < field <= _HIGHEST_FIELD:
            raise Malformed(f"field number {field}")
        if kind == GROUP:
            opened.append(field)
            if len(opened) > _DEEPEST:
                raise Malformed("groups are nested too deep")
        elif kind == END_GROUP:
            if opened.pop() != field:
                raise Malformed(f"field {field}: the end of a group that was not opened")
        else:
            _, at = _value(data, at, kind, field)
    return at


def _unpack(data: bytes | memoryview, into: array[int]) -> None:
    value = shift = 0
    for byte in data:
        value |= (byte & 0x7F) << shift
        if byte < 0x80:  # noqa: PLR2004 - the bit that says that more follows
            into.append(value & _MASK_64)
            value = shift = 0
        elif shift == _LAST_SHIFT:
            raise Malformed("a number is longer than ten bytes")
        else:
            shift += 7
    if shift:
        raise Malformed("a number is cut off")


def little(numbers: array[Any]) -> bytes:
    """Give an array's bytes, little-endian."""
    if sys.byteorder == "big":
        numbers = array(numbers.typecode, numbers)
        numbers.byteswap()
    return numbers.tobytes()


_PACKABLE: Final = frozenset({varints, floats, doubles})
