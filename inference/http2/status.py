"""gRPC's status: its HTTP counterpart for the events, and its spelling in trailers. Pure.

Sources: gRPC over HTTP/2 ("Status", "Status-Message", "Timeout"); google/rpc/code.proto for the HTTP counterparts.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import quote, unquote_to_bytes

from inference.http2.fields import Fields

OK, CANCELLED, UNKNOWN, _, DEADLINE = range(5)
EXHAUSTED: Final = 8
UNAVAILABLE: Final = 14

HTTP: Final = {
    0: 200,  # OK
    1: 499,  # CANCELLED
    2: 500,  # UNKNOWN
    3: 400,  # INVALID_ARGUMENT
    4: 504,  # DEADLINE_EXCEEDED
    5: 404,  # NOT_FOUND
    6: 409,  # ALREADY_EXISTS
    7: 403,  # PERMISSION_DENIED
    8: 429,  # RESOURCE_EXHAUSTED
    9: 400,  # FAILED_PRECONDITION
    10: 409,  # ABORTED
    11: 400,  # OUT_OF_RANGE
    12: 501,  # UNIMPLEMENTED
    13: 500,  # INTERNAL
    14: 503,  # UNAVAILABLE
    15: 500,  # DATA_LOSS
    16: 401,  # UNAUTHENTICATED
}
_PRINTABLE: Final = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")
_TIMEOUT: Final = re.compile(rb"(\d{1,8})([HMSmun])")
_SECONDS: Final = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_LONGEST: Final = 3


def http_status(code: bytes | None) -> int:
    """Give the HTTP counterpart of a `grpc-status`; a missing or unknown one is 500, as UNKNOWN."""
    if code is None or not code.isdigit() or len(code) > _LONGEST:
        return HTTP[UNKNOWN]
    return HTTP.get(int(code), HTTP[UNKNOWN])


def trailers(code: int, message: str) -> Fields:
    """Write a status of our own."""
    return [(b"grpc-status", b"%d" % code), (b"grpc-message", quote(message, safe=_PRINTABLE).encode())]


def message_of(value: bytes) -> str:
    """Read a `grpc-message`; what is no UTF-8 stays visible as replacement characters."""
    return unquote_to_bytes(value).decode(errors="replace")


def seconds_of(timeout: bytes | None) -> float | None:
    """Read a `grpc-timeout`; None when there is none, or none that makes sense."""
    found = _TIMEOUT.fullmatch(timeout or b"")
    return None if found is None else int(found[1]) * _SECONDS[found[2]]
