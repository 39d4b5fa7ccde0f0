"""Answers of HTTP/1.1 in the model's place, and what it left out of its own."""

from __future__ import annotations

import time
from email.utils import formatdate
from functools import lru_cache
from typing import Final

from logger.heads import Fields, framing, response_bytes

_REASONS: Final = {
    400: b"Bad Request", 408: b"Request Timeout", 413: b"Content Too Large", 414: b"URI Too Long",
    417: b"Expectation Failed", 429: b"Too Many Requests", 431: b"Request Header Fields Too Large",
    501: b"Not Implemented", 502: b"Bad Gateway", 503: b"Service Unavailable", 504: b"Gateway Timeout",
    505: b"HTTP Version Not Supported",
}  # fmt: skip


def refusal(status: int, body: bytes, correlation: bytes | None, *, content: bool = True) -> bytes:
    """Write a whole answer of our own; `content` is false for a HEAD request."""
    fields: Fields = [(b"content-type", b"application/json")]
    if status in {429, 503}:
        fields.append((b"retry-after", b"1"))
    tail = framing(len(body), chunked=False) + b"connection: close\r\n" + date(int(time.time()))
    head = response_bytes(status, _REASONS.get(status, b"Error"), fields, tail, correlation)
    return head + body if content else head


@lru_cache(maxsize=4)
def date(second: int) -> bytes:
    """Write when an answer came; RFC 9110 section 6.6.1 wants it of whoever passes on an answer without it."""
    return b"date: %b\r\n" % formatdate(second, usegmt=True).encode()
