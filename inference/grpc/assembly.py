"""Messages ↔ the content of a call, cut anywhere. Pure.

Source: gRPC over HTTP/2, "Length-Prefixed-Message": a flag of one byte, four bytes of length, the message.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from struct import Struct
from typing import Final

from inference.errors import BodyTooLarge
from inference.protocol.errors import MalformedBody

_PREFIX: Final = Struct(">BL")
PREFIX_BYTES: Final = _PREFIX.size
_SMALL: Final = 1_024
"""Shorter pieces are joined at once: each by itself would take many times its bytes."""


class Assembly:
    """Puts the messages of one call together.

    Args:
        most: bytes of a message; -1 is no limit.
    """

    __slots__ = ("_most", "_need", "_parts", "size")

    def __init__(self, most: int) -> None:
        self._most = most if most >= 0 else math.inf
        self._parts: list[bytes] = []
        self._need = PREFIX_BYTES
        """Bytes that have to be there before anything can be done."""
        self.size = 0
        """Bytes of a message that has begun and not ended."""

    def add(self, data: bytes) -> Sequence[tuple[int, bytes]]:
        """Take a piece; give the messages that end in it, each with its flag: 1 when it is compressed.

        Raises:
            BodyTooLarge: a message is announced that is too long.
            MalformedBody: no such content.
        """
        have = self.size + len(data)
        if have < self._need:
            if self._parts and len(self._parts[-1]) < _SMALL:
                self._parts[-1] += data
            elif data:
                self._parts.append(data)
            self.size = have
            return ()
        if self._parts:
            self._parts.append(data)
            data = b"".join(self._parts)
            self._parts.clear()
        found: list[tuple[int, bytes]] = []
        at, self._need = 0, PREFIX_BYTES
        while have - at >= PREFIX_BYTES:
            flag, length = _PREFIX.unpack_from(data, at)
            if flag > 1:
                raise MalformedBody("message", f"a flag of 0 or 1 was expected before it, got {flag}")
            if length > self._most:
                raise BodyTooLarge(int(self._most), length)
            begin = at + PREFIX_BYTES
            if begin + length > have:
                self._need = PREFIX_BYTES + length
                break
            at = begin + length
            found.append((flag, data[begin:at]))
        self.size = have - at
        if self.size:
            self._parts.append(data[at:] if at else data)
        return found


def prefixed(message: bytes, *, packed: bool) -> bytes:
    """Give what goes before a message."""
    return _PREFIX.pack(packed, len(message))
