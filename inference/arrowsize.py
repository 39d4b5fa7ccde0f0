"""How large the compressed buffers of an Arrow IPC stream become, known before anything is allocated for them. Pure.

Arrow compresses each buffer by itself and writes its full length in front; where the buffers lie is said by a message's
metadata, a FlatBuffer, which pyarrow verifies and does not show. So it is read here, by the places of its schema.
Sources: Arrow's format/Message.fbs, "Buffer Compression" in its columnar format; FlatBuffers' internals.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

import pyarrow as pa

_DICTIONARY: Final = 2
_RECORDS: Final = 3
"""Of the union MessageHeader."""
_BUFFER: Final = struct.Struct("<qq")
"""Offset in the message's body, and length there."""
_LENGTH: Final = struct.Struct("<q")
_PLAIN: Final = -1
"""The length of a buffer that was left as it is."""


def inflated(body: bytes) -> int:
    """Give how many bytes all compressed buffers of a stream become; 0 when none is compressed.

    Raises:
        pa.ArrowInvalid: no Arrow IPC stream.
        ValueError: a message's metadata does not follow its schema.
    """
    try:
        return sum(
            length
            for message in _messages(body)
            for length in _lengths(memoryview(message.metadata), memoryview(message.body or b""))
        )
    except (struct.error, IndexError) as exc:
        raise ValueError(f"message metadata: {exc}") from exc


def _messages(body: bytes) -> Iterator[pa.Message]:
    reader = pa.ipc.MessageReader.open_stream(pa.py_buffer(body))
    while True:
        try:
            yield reader.read_next_message()
        except StopIteration:
            return


def _lengths(metadata: memoryview, body: memoryview) -> Iterator[int]:
    message = _Table(metadata, _unsigned(metadata, 0))
    kind = message.byte(1)
    if kind not in {_DICTIONARY, _RECORDS}:
        return
    records = message.table(2)
    if records is not None and kind == _DICTIONARY:
        records = records.table(1)
    if records is None or records.table(3) is None:
        return
    for offset, length in records.buffers(2):
        if length >= _LENGTH.size:
            (whole,) = _LENGTH.unpack_from(body, offset)
            yield 0 if whole == _PLAIN else max(0, whole)


class _Table:
    """A table of a FlatBuffer; fields by their place in the schema."""

    def __init__(self, metadata: memoryview, at: int) -> None:
        self._metadata, self._at = metadata, at
        self._fields = at - struct.unpack_from("<i", metadata, at)[0]

    def byte(self, field: int) -> int:
        """Give a small number, 0 when it is not there."""
        place = self._place(field)
        return self._metadata[place] if place else 0

    def table(self, field: int) -> _Table | None:
        """Give an inner table, None when it is not there."""
        place = self._place(field)
        return _Table(self._metadata, place + _unsigned(self._metadata, place)) if place else None

    def buffers(self, field: int) -> Iterator[tuple[int, int]]:
        """Give a list of Arrow's Buffers."""
        place = self._place(field)
        if place:
            start = place + _unsigned(self._metadata, place)
            for index in range(_unsigned(self._metadata, start)):
                yield _BUFFER.unpack_from(self._metadata, start + 4 + _BUFFER.size * index)

    def _place(self, field: int) -> int:
        size = struct.unpack_from("<H", self._metadata, self._fields)[0]
        entry = 4 + 2 * field
        if entry >= size:
            return 0
        offset: int = struct.unpack_from("<H", self._metadata, self._fields + entry)[0]
        return self._at + offset if offset else 0


def _unsigned(metadata: memoryview, at: int) -> int:
    found: int = struct.unpack_from("<I", metadata, at)[0]
    return found
