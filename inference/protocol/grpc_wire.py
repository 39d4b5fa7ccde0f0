"""Protobuf's bytes, as far as they are read and written here without its library: to copy large contents nowhere. Pure.

Source: Protocol Buffers, "Encoding". Used by `grpc_codec.py` and `grpc_streams.py`.
"""

from __future__ import annotations

from typing import Final

LENGTH: Final = 2
"""The kind of fields whose length stands before them: bytes, texts, messages, packed numbers."""
_VARINT, _FIXED64, _FIXED32 = 0, 1, 5


def without_field(data: bytes, field: int) -> tuple[bytes, list[memoryview]]:
    """Cut all contents of a field out of a message; all of it comes back when it does not read like one."""
    wanted = field << 3 | LENGTH
    view = memoryview(data)
    rest: list[memoryview] = []
    cut: list[memoryview] = []
    at = kept = 0
    try:
        while at < len(view):
            tag, value_at = _read_varint(view, at)
            end, value_at = _end(view, tag & 7, value_at)
            if tag == wanted:
                rest.append(view[kept:at])
                cut.append(view[value_at:end])
                kept = end
            at = end
    except (IndexError, ValueError):
        # The parser has the better words for what is wrong.
        return data, []
    if at != len(view):
        return data, []
    return b"".join((*rest, view[kept:])), cut


def _end(view: memoryview, kind: int, at: int) -> tuple[int, int]:
    """Give where a field's value ends, and where it begins."""
    if kind == LENGTH:
        length, at = _read_varint(view, at)
        return at + length, at
    if kind == _VARINT:
        return _read_varint(view, at)[1], at
    if kind in {_FIXED64, _FIXED32}:
        return at + (8 if kind == _FIXED64 else 4), at
    raise ValueError(kind)


def _read_varint(view: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = view[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:  # noqa: PLR2004 - the bit that says that more follows
            return value, at
        shift += 7
        if shift > 63:  # noqa: PLR2004 - ten bytes are the longest
            raise ValueError(shift)


def varint(value: int) -> bytes:
    """Write a number as protobuf has it."""
    out = bytearray()
    while value > 0x7F:  # noqa: PLR2004 - seven bits fit
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
