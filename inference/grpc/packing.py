"""Messages that are compressed: small ones on the event loop, others on a thread, for they would hold all calls up.

Small is what has few bytes packed and unpacked: 16 KiB of gzip may be 16 MiB.
"""

from __future__ import annotations

import asyncio
import sys
import zlib
from typing import Final

from inference.errors import BodyTooLarge
from inference.grpc.heads import CODINGS
from inference.grpc.statuses import Refused
from inference.http2.status import Code
from inference.rest.bodies import plain

WORTH_IT: Final = 1_024
"""Bytes of an answer from which on it is compressed."""
_LARGE: Final = 16 * 1024
"""Bytes of a message that is to be packed, or was, from which on a thread does it."""
_UNPACKED: Final = 64 * 1024
"""Bytes that the event loop unpacks at most; for more, a thread begins anew."""
_LEVEL: Final = 1
"""Of zlib's: numbers hardly get any smaller with more effort."""


async def unpacked(message: bytes, coding: bytes, most: int) -> bytes:
    """Give a message as it was.

    Args:
        message: as it came.
        coding: the call's `grpc-encoding`.
        most: bytes of the message; -1 is no limit.

    Raises:
        BodyTooLarge: more bytes than that.
        MalformedBody: not compressed in this way.
        Refused: another way than ours.
    """
    if coding not in CODINGS:
        raise Refused(Code.UNIMPLEMENTED, f"grpc-encoding: expected gzip or deflate, got {coding.decode('latin-1')!r}")
    limit = most if most >= 0 else sys.maxsize - 1
    if len(message) < _LARGE:
        at_once = min(limit, _UNPACKED)
        try:
            return plain(message, coding, at_once)
        except BodyTooLarge:
            if at_once == limit:
                raise
    return await asyncio.to_thread(plain, message, coding, limit)


async def packed(message: bytes, coding: bytes) -> bytes:
    """Give a message as one of our codings has it."""
    if len(message) < _LARGE:
        return _packed(message, coding)
    return await asyncio.to_thread(_packed, message, coding)


def _packed(message: bytes, coding: bytes) -> bytes:
    return zlib.compress(message, _LEVEL, zlib.MAX_WBITS + (16 if coding == b"gzip" else 0))
