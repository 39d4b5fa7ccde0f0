"""Records in a segment: how they are written, and how they are found again among whatever a crash left. Pure.

A frame is a mark, the payload's length, the record's id, a CRC-32 over length, id and payload, then the payload. A
frame whose checksum is wrong costs that record alone: reading goes on at the next mark that begins a whole frame.
"""

from __future__ import annotations

import struct
import zlib
from typing import Final

MARK: Final = b"\xf5SL1"
_HEAD: Final = struct.Struct("<4sIQI")
_SUMMED: Final = struct.Struct("<IQ")
HEAD_BYTES: Final = _HEAD.size
MOST_BYTES: Final = 64 << 20
"""Largest payload. A length beyond it is damage, not a record."""


def frame(identity: int, payload: bytes) -> bytes:
    """Give a record's bytes."""
    return _HEAD.pack(MARK, len(payload), identity, _sum(len(payload), identity, payload)) + payload


def unframe(data: bytes, at: int) -> tuple[int, bytes, int] | None:
    """Give id, payload and end of the frame that begins at an offset; None when there is no whole, sound one."""
    if len(data) - at < HEAD_BYTES:
        return None
    mark, length, identity, checksum = _HEAD.unpack_from(data, at)
    end = at + HEAD_BYTES + length
    if mark != MARK or length > MOST_BYTES or end > len(data):
        return None
    payload = data[at + HEAD_BYTES : end]
    return (identity, payload, end) if _sum(length, identity, payload) == checksum else None


def wanted(data: bytes, at: int) -> int:
    """Give how many bytes from an offset a frame needs that looks sound so far; 0 when it does not."""
    if len(data) - at < HEAD_BYTES:
        return HEAD_BYTES
    mark, length, _, _ = _HEAD.unpack_from(data, at)
    return HEAD_BYTES + length if mark == MARK and length <= MOST_BYTES else 0


def next_mark(data: bytes, at: int) -> int:
    """Give the offset of the next mark, or of the first byte that may be part of one."""
    found = data.find(MARK, at)
    return found if found >= 0 else max(at, len(data) - len(MARK) + 1)


def _sum(length: int, identity: int, payload: bytes) -> int:
    return zlib.crc32(payload, zlib.crc32(_SUMMED.pack(length, identity)))
