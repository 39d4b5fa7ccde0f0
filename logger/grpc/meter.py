"""Counts messages in the content of a call, piece by piece. Pure.

Source: gRPC over HTTP/2, "Length-Prefixed-Message": a flag of one byte, four bytes of length, the message.
"""

from __future__ import annotations

from typing import Final

_PREFIX: Final = 5
_UNLIMITED: Final = 1 << 32


class Meter:
    """Knows where the messages of one direction end.

    Args:
        most: bytes of a message; 0 is no limit.
    """

    __slots__ = ("_begun", "_left", "_most", "received")

    def __init__(self, most: int) -> None:
        self._most = most or _UNLIMITED
        self._left = 0
        self._begun = b""
        """The beginning of a prefix."""
        self.received = 0
        """Bytes so far."""

    @property
    def within(self) -> bool:
        """Tell whether a message has begun and not ended."""
        return self._left > 0 or bool(self._begun)

    def add(self, data: bytes) -> int:
        """Take a piece; give the length of a message that is too long, as soon as it is known, else 0."""
        size, at = len(data), self._left
        self.received += size
        if size < at:
            self._left = at - size
            return 0
        if self._begun:
            data = self._begun + data
            size = len(data)
        while size - at >= _PREFIX:
            length = int.from_bytes(data[at + 1 : at + _PREFIX], "big")
            if length > self._most:
                return length
            at += _PREFIX + length
        self._left, self._begun = (at - size, b"") if at > size else (0, data[at:])
        return 0
