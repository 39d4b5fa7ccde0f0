"""Judges and rebuilds message heads; pure. What came in is never forwarded raw, so both sides of the proxy agree.

Sources: RFC 9110 sections 7.2, 7.6.1, 10.1.1; RFC 9112 sections 3.2, 6, 9.6.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

Fields = list[tuple[bytes, bytes]]

# Section 7.6.1's list, and what would open a second protocol behind the proxy's back.
_HOP: Final = frozenset({
    b"connection", b"keep-alive", b"proxy-connection", b"proxy-authenticate", b"proxy-authorization", b"te", b"trailer",
    b"transfer-encoding", b"upgrade", b"http2-settings",
})  # fmt: skip
_DROPPED: Final = _HOP | {b"content-length", b"expect", b"x-request-id"}
_KEPT: Final = frozenset({b"host", b"content-type", b"content-encoding", b"authorization", b"keep-alive", b"close"})
_ABSOLUTE: Final = re.compile(rb"https?://[^/?#]*", re.IGNORECASE)
_TARGET: Final = re.compile(rb"[\x21-\x7e]+")


@dataclass(frozen=True, slots=True)
class Refusal:
    """A request that is answered here, and the connection closed."""

    status: int
    reason: str


class RequestHead:
    """A request's head as parsed; field names are lower case."""

    __slots__ = ("fields", "first", "method", "target", "version")

    def __init__(self, method: bytes, target: bytes, version: str, fields: Fields) -> None:
        self.method, self.version, self.fields = method, version, fields
        self.target = target if target.startswith(b"/") else origin(target)
        """In origin form."""
        self.first: dict[bytes, bytes] = dict(reversed(fields))
        """Each field's first value."""


def judge(head: RequestHead, *, upgrade: bool) -> Refusal | None:
    """Refuse what the parser lets through and two servers might read differently."""
    if head.version == "0.9":
        return Refusal(400, "no HTTP version in the request line")
    if head.version not in {"1.0", "1.1"}:
        return Refusal(505, f"HTTP version {head.version}: expected 1.0 or 1.1")
    if head.method == b"CONNECT" or upgrade:
        return Refusal(501, "CONNECT and protocol upgrades are not served by this proxy")
    return _judge_coding(head) or _judge_target(head)


def _judge_coding(head: RequestHead) -> Refusal | None:
    if b"transfer-encoding" not in head.first:
        return None
    codings = [value for name, value in head.fields if name == b"transfer-encoding"]
    if head.version == "1.0":
        return Refusal(400, "Transfer-Encoding in an HTTP/1.0 request")
    if len(codings) > 1 or codings[0].strip().lower() != b"chunked":
        return Refusal(501, "Transfer-Encoding: only 'chunked' is served")
    if b"content-length" in head.first:
        return Refusal(400, "both Transfer-Encoding and Content-Length")
    return None


def _judge_target(head: RequestHead) -> Refusal | None:
    hosts = sum(name == b"host" for name, _ in head.fields) if len(head.first) < len(head.fields) else 1
    if hosts > 1 or (b"host" not in head.first and head.version == "1.1"):
        return Refusal(400, f"expected one Host field, got {hosts if b'host' in head.first else 0}")
    if not _TARGET.fullmatch(head.target):
        return Refusal(400, "request target: expected printable ASCII without spaces")
    if not head.target.startswith(b"/") and head.target != b"*":
        return Refusal(400, "request target: expected a path")
    return None


def origin(target: bytes) -> bytes:
    """Give a target in origin form; an absolute one loses its scheme and authority."""
    found = _ABSOLUTE.match(target)
    if found is None:
        return target
    rest = target[found.end() :]
    return rest if rest.startswith(b"/") else b"/" + rest


def request_bytes(head: RequestHead, correlation: bytes, length: int | None, *, chunked: bool) -> bytes:
    """Write the head that goes to the model."""
    lines = [b"%b %b HTTP/1.1\r\nx-request-id: %b\r\n" % (head.method, head.target, correlation)]
    if b"host" not in head.first:
        lines.append(b"host: localhost\r\n")
    lines += [b"%b: %b\r\n" % item for item in end_to_end(head.fields)]
    lines.append(framing(length, chunked=chunked))
    lines.append(b"\r\n")
    return b"".join(lines)


def response_bytes(
    status: int,
    reason: bytes,
    fields: Sequence[tuple[bytes, bytes]],
    correlation: bytes,
    framing: bytes,
    *,
    close: bool,
) -> bytes:
    """Write the head that goes to the client; `framing` is its length or coding line, or empty."""
    lines = [b"HTTP/1.1 %d %b\r\n" % (status, reason)]
    lines += [b"%b: %b\r\n" % item for item in end_to_end(fields)]
    lines.append(b"x-request-id: %b\r\n%b%b\r\n" % (correlation, framing, b"connection: close\r\n" if close else b""))
    return b"".join(lines)


def end_to_end(fields: Sequence[tuple[bytes, bytes]]) -> Fields:
    """Give the fields that travel on: neither hop-by-hop, nor named in Connection, nor those that are written anew."""
    kept = [item for item in fields if item[0] not in _DROPPED]
    named = {token.strip().lower() for name, value in fields if name == b"connection" for token in value.split(b",")}
    # A sender may not ask to have these dropped: a message without them means something else.
    named -= _KEPT
    return [item for item in kept if item[0] not in named] if named else kept


def framing(length: int | None, *, chunked: bool) -> bytes:
    """Write the one line that says where the body ends; empty when the end of the connection does."""
    if chunked:
        return b"transfer-encoding: chunked\r\n"
    return b"" if length is None else b"content-length: %d\r\n" % length


def chunk(data: bytes) -> bytes:
    """Write one chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)


LAST_CHUNK: Final = b"0\r\n\r\n"
