"""gRPC's status: its HTTP counterpart for the events, and its spelling in trailers. Pure.

Sources: gRPC over HTTP/2 ("Status", "Status-Message", "Timeout"); "Status codes and their use in gRPC";
google/rpc/code.proto for the HTTP counterparts.
"""

from __future__ import annotations

import re
from enum import IntEnum
from typing import Final
from urllib.parse import quote, unquote_to_bytes

from inference.http2.fields import Fields


class Code(IntEnum):
    """How a call ended, by gRPC's names and numbers."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


HTTP: Final[dict[int, int]] = {
    Code.OK: 200,
    Code.CANCELLED: 499,
    Code.UNKNOWN: 500,
    Code.INVALID_ARGUMENT: 400,
    Code.DEADLINE_EXCEEDED: 504,
    Code.NOT_FOUND: 404,
    Code.ALREADY_EXISTS: 409,
    Code.PERMISSION_DENIED: 403,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.FAILED_PRECONDITION: 400,
    Code.ABORTED: 409,
    Code.OUT_OF_RANGE: 400,
    Code.UNIMPLEMENTED: 501,
    Code.INTERNAL: 500,
    Code.UNAVAILABLE: 503,
    Code.DATA_LOSS: 500,
    Code.UNAUTHENTICATED: 401,
}
_PRINTABLE: Final = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")
_TIMEOUT: Final = re.compile(rb"(\d{1,8})([HMSmun])")
_SECONDS: Final = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_LONGEST: Final = 3


def http_status(code: bytes | None) -> int:
    """Give the HTTP counterpart of a `grpc-status`; a missing or unknown one is 500, as UNKNOWN."""
    if code is None or not code.isdigit() or len(code) > _LONGEST:
        return HTTP[Code.UNKNOWN]
    return HTTP.get(int(code), HTTP[Code.UNKNOWN])


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
