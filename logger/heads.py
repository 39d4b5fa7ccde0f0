"""Judges and rebuilds message heads; pure. What came in is never forwarded raw, so both sides of the proxy agree.

Sources: RFC 9110 sections 6.6.1, 7.2, 7.6, 8.6, 10.1.1; RFC 9112 sections 3, 6, 7, 9.6.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

Fields = list[tuple[bytes, bytes]]

# Section 7.6.1's list, and what would open a second protocol behind the proxy's back.
_HOP: Final = frozenset({
    b"connection", b"keep-alive", b"proxy-connection", b"proxy-authenticate", b"proxy-authorization", b"te", b"trailer",
    b"transfer-encoding", b"upgrade", b"http2-settings",
})  # fmt: skip
_WRITTEN: Final = _HOP | {b"content-length", b"expect", b"x-request-id"}
_FORWARDED: Final = b"x-forwarded-for"
# Behind CGI-like interfaces `-` and `_` are one: content_length would be a second Content-Length.
_DROPPED: Final = _WRITTEN | {name.replace(b"-", b"_") for name in (*_WRITTEN, _FORWARDED)}
_DROPPED_CHAINED: Final = _DROPPED | {_FORWARDED}
_ADDRESS: Final = len(_FORWARDED) + len(b": ")
# A sender may not ask to have these dropped: a message without them means something else, here or in the log.
_KEPT: Final = frozenset({
    b"host", b"content-type", b"content-encoding", b"authorization", b"keep-alive", b"close", b"traceparent",
    b"inference-header-content-length", b"via",
})  # fmt: skip
_ABSOLUTE: Final = re.compile(rb"https?://(?P<authority>[^/?#]*)", re.IGNORECASE)
# Section 3.2: no fragment; and nothing that is not printable ASCII.
_TARGET: Final = re.compile(rb"[\x21\x22\x24-\x7e]+")
_HOST: Final = re.compile(rb"[A-Za-z0-9._~!$&'()*+,;=%:\[\]-]*")
_REASON: Final = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
# The parser also reads RTSP and ICE, whose methods and versions look like these.
_METHODS_OF_1_0: Final = frozenset(
    {b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH", b"LINK", b"UNLINK"}
)
_CACHED: Final = 512
"""Bytes of the longest target, host or status line that is remembered as judged."""
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
LAST_CHUNK: Final = b"0\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Refusal:
    """A request that is answered here, and the connection closed."""

    status: int
    reason: str


class RequestHead:
    """A request's head as parsed; field names are lower case.

    What Connection names is gone already: it is for this hop only, and neither the model nor the log may see it.
    """

    __slots__ = ("fields", "first", "method", "target", "version")

    def __init__(self, method: bytes, target: bytes, version: str, fields: Fields) -> None:
        self.first: dict[bytes, bytes] = dict(reversed(fields))
        """Each field's first value."""
        if b"connection" in self.first and len(kept := _without_named(fields)) < len(fields):
            fields, self.first = kept, dict(reversed(kept))
        self.method, self.version, self.fields = method, version, fields
        self.target = target
        """In origin form, or `*`."""
        if not target.startswith(b"/"):
            self._relocate()

    def _relocate(self) -> None:
        """Sections 3.2.2 and 3.2.4: an absolute target names the host, whatever Host says."""
        found = _ABSOLUTE.match(self.target)
        if found is None or not (authority := found["authority"]):
            return
        empty = found.end() == len(self.target)
        self.target = b"*" if empty and self.method == b"OPTIONS" else origin(self.target)
        if b"host" in self.first:
            self.fields = [(name, authority if name == b"host" else value) for name, value in self.fields]
        elif self.version == "1.0":
            self.fields = [*self.fields, (b"host", authority)]
        else:
            return
        self.first[b"host"] = authority


def judge(head: RequestHead, *, upgrade: bool) -> Refusal | None:
    """Refuse what the parser lets through and two servers might read differently."""
    first = head.first
    if head.version != "1.1" and (refusal := _judge_version(head)) is not None:
        return refusal
    if upgrade or head.method == b"CONNECT":
        return Refusal(501, "CONNECT and protocol upgrades are not served by this proxy")
    if b"transfer-encoding" in first and (refusal := _judge_coding(head)) is not None:
        return refusal
    if len(first) < len(head.fields) and sum(name == b"host" for name, _ in head.fields) > 1:
        return Refusal(400, "expected one Host field, got several")
    host = first.get(b"host")
    if host is None:
        if head.version == "1.1":
            return Refusal(400, "expected one Host field, got none")
    elif not (_is_host(host) if len(host) < _CACHED else _HOST.fullmatch(host)):
        return Refusal(400, "Host: expected a name or an address, and perhaps a port")
    if b"expect" in first and (refusal := _judge_expectation(head)) is not None:
        return refusal
    target = head.target
    return _judge_target(target, head.method) if len(target) < _CACHED else _target_refusal(target, head.method)


def _judge_version(head: RequestHead) -> Refusal | None:
    if head.version == "0.9":
        return Refusal(400, "no HTTP version in the request line")
    if head.version != "1.0":
        return Refusal(505, f"HTTP version {head.version}: expected 1.0 or 1.1")
    if head.method not in _METHODS_OF_1_0:
        return Refusal(400, "this method is none of HTTP/1.0")
    return None


def _judge_coding(head: RequestHead) -> Refusal | None:
    if head.version == "1.0":
        return Refusal(400, "Transfer-Encoding in an HTTP/1.0 request")
    if not is_chunked(head.fields):
        return Refusal(501, "Transfer-Encoding: only 'chunked' is served")
    if b"content-length" in head.first:
        return Refusal(400, "both Transfer-Encoding and Content-Length")
    return None


def _judge_expectation(head: RequestHead) -> Refusal | None:
    expected = [value for name, value in head.fields if name == b"expect"]
    if any(value.lower() != b"100-continue" for value in expected):
        return Refusal(417, "Expect: only '100-continue' can be met")
    return None


def _target_refusal(target: bytes, method: bytes) -> Refusal | None:
    if not _TARGET.fullmatch(target):
        return Refusal(400, "request target: expected printable ASCII without spaces and fragment")
    if not target.startswith(b"/") and not (target == b"*" and method == b"OPTIONS"):
        return Refusal(400, "request target: expected a path")
    if method == b"TRACE":
        # It would send the client's credentials back to whoever made the client ask.
        return Refusal(501, "TRACE is not served by this proxy")
    return None


_judge_target = lru_cache(maxsize=1024)(_target_refusal)


@lru_cache(maxsize=256)
def _is_host(value: bytes) -> bool:
    return _HOST.fullmatch(value) is not None


def is_chunked(fields: Fields) -> bool:
    """Tell whether `chunked` is the one and only transfer coding."""
    codings = [value for name, value in fields if name == b"transfer-encoding"]
    return len(codings) == 1 and codings[0].strip(b" \t").lower() == b"chunked"


def head_size(line: bytes, fields: Fields) -> int:
    """Give the bytes of a head, from its target or reason and its fields."""
    return len(line) + sum([len(name) + len(value) + 4 for name, value in fields])


def origin(target: bytes) -> bytes:
    """Give a target in origin form; an absolute one loses its scheme and authority."""
    found = _ABSOLUTE.match(target)
    if found is None:
        return target
    rest = target[found.end() :]
    return rest if rest.startswith(b"/") else b"/" + rest


def wants_only_h2c(head: RequestHead) -> bool:
    """Tell whether the one offer in Upgrade is HTTP/2, which section 7.8 lets a server leave alone."""
    offers = [value.strip().lower() for name, value in head.fields if name == b"upgrade"]
    return offers == [b"h2c"]


def without_upgrade(head: RequestHead) -> bytes:
    """Write a head anew without its offer of another protocol, to be parsed again."""
    lines = [b"%b %b HTTP/1.1\r\n" % (head.method, head.target)]
    gone = (b"upgrade", b"http2-settings", b"connection")
    lines += [b"%b: %b\r\n" % item for item in head.fields if item[0] not in gone]
    if b"close" in head.first[b"connection"].lower():
        lines.append(b"connection: close\r\n")
    return b"".join((*lines, b"\r\n"))


def forwarded_line(address: str) -> bytes:
    """Write what tells the model who asks; once for a connection."""
    # A socket for both families gives an IPv4 address in the form of the other.
    return b"%b: %b\r\n" % (_FORWARDED, (address.removeprefix("::ffff:") if "." in address else address).encode())


def request_bytes(
    head: RequestHead,
    correlation: bytes,
    length: int | None,
    *,
    chunked: bool,
    expect: bool = False,
    forwarded: bytes = b"",
) -> bytes:
    """Write the head that goes to the model.

    Args:
        head: what came; it has passed `judge`.
        correlation: the request's id.
        length: bytes of content, None when there is none or nobody knows.
        chunked: the content comes in chunks.
        expect: the client waits for the model's word.
        forwarded: `forwarded_line` of the client; empty when it has no address.
    """
    lines = [b"%b %b HTTP/1.1\r\nx-request-id: %b\r\n" % (head.method, head.target, correlation)]
    dropped = _DROPPED
    if forwarded:
        if _FORWARDED in head.first:
            forwarded, dropped = _chain(head, forwarded), _DROPPED_CHAINED
        lines.append(forwarded)
    lines += [b"%b: %b\r\n" % item for item in head.fields if item[0] not in dropped]
    if b"host" not in head.first:
        lines.append(b"host: localhost\r\n")
    if expect:
        lines.append(b"expect: 100-continue\r\n")
    # Section 7.6.3: after all that came with the request.
    lines.append(b"via: %b sidelight\r\n%b\r\n" % (head.version.encode(), framing(length, chunked=chunked)))
    return b"".join(lines)


def _chain(head: RequestHead, forwarded: bytes) -> bytes:
    """Put who asks behind those that it asks for, all in one field, as KServe's agent does."""
    before = head.first[_FORWARDED]
    if len(head.first) < len(head.fields):
        before = b", ".join([value for name, value in head.fields if name == _FORWARDED and value])
    return b"%b: %b, %b" % (_FORWARDED, before, forwarded[_ADDRESS:]) if before else forwarded


def response_bytes(
    status: int,
    reason: bytes,
    fields: Sequence[tuple[bytes, bytes]],
    tail: bytes,
    correlation: bytes | None,
) -> bytes:
    """Write a head that goes to the client; `tail` is whole lines: framing, and what else is not the model's."""
    lines = [_status_line(status, reason) if len(reason) < _CACHED else _write_status(status, reason)]
    lines += [b"%b: %b\r\n" % item for item in fields if item[0] not in _DROPPED]
    lines.append(b"x-request-id: %b\r\n%b\r\n" % (correlation, tail) if correlation is not None else tail + b"\r\n")
    return b"".join(lines)


def without_named(fields: Fields, first: dict[bytes, bytes]) -> Fields:
    """Give the fields without those that Connection names."""
    return _without_named(fields) if b"connection" in first else fields


def _without_named(fields: Fields) -> Fields:
    named: frozenset[bytes] = frozenset()
    for name, value in fields:
        if name == b"connection":
            named |= _named(value) if len(value) < _CACHED else _named_in(value)
    return [item for item in fields if item[0] not in named] if named else fields


def _named_in(value: bytes) -> frozenset[bytes]:
    return frozenset(token.strip(b" \t").lower() for token in value.split(b",")) - _KEPT - _WRITTEN - {b""}


_named = lru_cache(maxsize=256)(_named_in)


def _write_status(status: int, reason: bytes) -> bytes:
    return b"HTTP/1.1 %d %b\r\n" % (status, reason if _REASON.fullmatch(reason) else b"")


_status_line = lru_cache(maxsize=256)(_write_status)


def framing(length: int | None, *, chunked: bool) -> bytes:
    """Write the one line that says where the body ends; empty when the end of the connection does."""
    if chunked:
        return b"transfer-encoding: chunked\r\n"
    return b"" if length is None else b"content-length: %d\r\n" % length


def chunk(data: bytes) -> bytes:
    """Write one chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)
