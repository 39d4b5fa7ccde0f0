"""The events of one exchange as bytes on disk, and back. Pure.

A format of our own that any later version can read: a version byte, then for each letter the lengths of key, headers
and value, then those; headers are JSON, for their values are text.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

import orjson

from logger.tap import Letter
from logger.way import Origin

_VERSION: Final = 1
_ORIGIN: Final = struct.Struct("<BQHQ")
_LENGTHS: Final = struct.Struct("<III")


def encode(origin: Origin, letters: Sequence[Letter]) -> bytes:
    """Give letters and where they came from as bytes."""
    pieces = [_ORIGIN.pack(_VERSION, origin.boot, origin.lane, origin.position)]
    for letter in letters:
        headers = orjson.dumps([(name, value.decode()) for name, value in letter.headers])
        pieces += (_LENGTHS.pack(len(letter.key), len(headers), len(letter.value)), letter.key, headers, letter.value)
    return b"".join(pieces)


def origin(record: bytes) -> Origin:
    """Give where a record came from.

    Raises:
        ValueError: a version of another program.
    """
    if len(record) < _ORIGIN.size or record[0] != _VERSION:
        raise ValueError(f"expected a spool record of version {_VERSION}, got {record[:1].hex() or 'nothing'}")
    return Origin(*_ORIGIN.unpack_from(record)[1:])


def decode(record: bytes) -> list[Letter]:
    """Give the letters of a record.

    Raises:
        ValueError: it is none, or one of another version.
    """
    origin(record)
    letters, at = [], _ORIGIN.size
    while at < len(record):
        if len(record) - at < _LENGTHS.size:
            raise ValueError(f"spool record: {len(record) - at} bytes left over")
        key, headers, value = _LENGTHS.unpack_from(record, at)
        at += _LENGTHS.size
        middle, end = at + key + headers, at + key + headers + value
        if end > len(record):
            raise ValueError(f"spool record: expected {end} bytes, got {len(record)}")
        pairs = tuple((name, text.encode()) for name, text in orjson.loads(record[at + key : middle]))
        letters.append(Letter(record[at : at + key], record[middle:end], pairs))
        at = end
    return letters
