"""Records ↔ bytes, for states that keep records exactly as they came.

Each part is its length (4 bytes, little-endian, -1 for null) and its bytes; fixed numbers come first. Used by
`streams/pairing.py`.
"""

from __future__ import annotations

import struct
from typing import Final

from streams.errors import StreamError
from streams.stage import Record

_HEAD: Final = struct.Struct("<iqqI")
"""Partition, offset, timestamp, number of headers; then topic, key, value and the headers' names and values."""
_LENGTH: Final = struct.Struct("<i")


def pack(record: Record) -> bytes:
    """Put a record into bytes."""
    parts = [_HEAD.pack(record.partition, record.offset, record.timestamp_ms, len(record.headers))]
    _add(parts, record.topic.encode())
    _add(parts, record.key)
    _add(parts, record.value)
    for name, value in record.headers:
        _add(parts, name.encode("utf-8", "surrogateescape"))
        _add(parts, value)
    return b"".join(parts)


def unpack(packed: bytes, at: int) -> tuple[Record, int]:
    """Read the record that begins at a place; give it and the place behind it.

    Raises:
        StreamError: the bytes end before the record does.
    """
    try:
        partition, offset, timestamp_ms, count = _HEAD.unpack_from(packed, at)
        topic, at = _take(packed, at + _HEAD.size)
        key, at = _take(packed, at)
        value, at = _take(packed, at)
        headers = []
        for _ in range(count):
            name, at = _take(packed, at)
            content, at = _take(packed, at)
            headers.append(((name or b"").decode("utf-8", "surrogateescape"), content))
    except struct.error as exc:
        raise StreamError(f"packed record: cut off at byte {at} of {len(packed)}") from exc
    return Record((topic or b"").decode(), partition, offset, key, value, tuple(headers), timestamp_ms), at


def _add(parts: list[bytes], content: bytes | None) -> None:
    parts.append(_LENGTH.pack(-1 if content is None else len(content)))
    if content:
        parts.append(content)


def _take(packed: bytes, at: int) -> tuple[bytes | None, int]:
    (length,) = _LENGTH.unpack_from(packed, at)
    at += _LENGTH.size
    if length < 0:
        return None, at
    if at + length > len(packed):
        raise StreamError(f"packed record: {length} bytes at byte {at} reach past the end at {len(packed)}")
    return packed[at : at + length], at + length
