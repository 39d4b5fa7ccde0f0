"""Blocks of fields (HPACK), read and written; pure.

Written without memory: with the static table alone, so that what is written once is written for good. A proxy sends the
same few fields again and again, but in Python a dynamic table costs more than it saves on a machine's own wire. Read
with the peer's table, as it has to be; the table itself is the `hpack` library's.

Sources: RFC 7541 sections 4.2, 5.1, 5.2, 6.1, 6.2, 6.3 and its appendix A; RFC 9113 sections 8.2 and 8.3.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, Final

from hpack.exceptions import HPACKDecodingError, OversizedHeaderListError
from hpack.hpack import Decoder, Encoder, encode_integer
from hpack.huffman_table import decode_huffman
from hpack.struct import HeaderTuple, NeverIndexedHeaderTuple
from hpack.table import HeaderTable

Fields = list[tuple[bytes, bytes]]

NO_TABLE: Final = b"\x20"
"""The dynamic table's size becomes 0; once, before the first field, so that no later limit is below it."""
REQUEST, ANSWER, TRAILERS = range(3)
DROPPED: Final = frozenset({b"x-request-id", b"proxy-authorization", b"proxy-authenticate", b"http2-settings"})
"""What does not travel on through a proxy."""
_INDEXED, _LITERAL, _NEVER = 0x80, 0x00, 0x10
_WORTH_KEEPING: Final = 512
_ENTRY_BYTES: Final = 32
_LONGEST_NUMBER: Final = 5
_NAME: Final = re.compile(rb":?[\x21-\x39\x3b-\x40\x5b-\x7e]*")
_VALUE: Final = re.compile(rb"(?![ \t])[^\0\r\n]*(?<![ \t])")
# RFC 9113 section 8.2.2.
_CONNECTION: Final = frozenset({b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade"})
_OF_REQUESTS: Final = frozenset({b":method", b":scheme", b":authority", b":path", b":protocol"})


class Head:
    """A block of fields that was read: a request's or an answer's head, or trailers. Never changed, so often shared."""

    __slots__ = ("_block", "fields", "found", "made", "plain", "size")

    def __init__(self, fields: Sequence[tuple[bytes, bytes]]) -> None:
        self.fields = fields
        self.found = dict(fields)
        """By name; of a name that comes twice, the last."""
        self.plain: Fields = [(name, value) for name, value in fields if name[:1] != b":"]
        """What is kept for the log."""
        self.size = sum([len(name) + len(value) + _ENTRY_BYTES for name, value in fields])
        self._block: bytes | None = None
        self.made: Any = None
        """What its reader has made of it, kept for the next time that it comes."""

    @property
    def block(self) -> bytes:
        """Give what travels on through a proxy, written."""
        if self._block is None:
            self._block = block_of([item for item in self.fields if item[0] not in DROPPED])
        return self._block


class Reader(Decoder):
    """Reads blocks; refuses characters that a field must not have (RFC 9113 section 8.2.1)."""

    changes = 0
    """How often the table has changed: between two changes, the same block means the same fields."""

    def decode(self, data: bytes, raw: bool = True) -> list[HeaderTuple]:  # noqa: ARG002, FBT001, FBT002 - as its base
        """Read a block.

        Raises:
            HPACKError: it is none, or has a field that must not be.
        """
        table, size, at = self.header_table, 0, 0
        fields: list[HeaderTuple] = []
        while at < len(data):
            first = data[at]
            if first & 0x80:
                index, at = _number(data, at, 0x7F)
                field = HeaderTuple(*table.get_by_index(index))
            elif first & 0x60 == 0x20:  # noqa: PLR2004 - section 6.3: a new size of the table
                if fields:
                    raise HPACKDecodingError("the table's size changes within a block")
                at = self._resize(data, at)
                continue
            else:
                keep = first & 0x40
                index, at = _number(data, at, 0x3F if keep else 0x0F)
                if index:
                    name = table.get_by_index(index)[0]
                else:
                    name, at = _text(data, at)
                    if not name or not _NAME.fullmatch(name):
                        raise HPACKDecodingError(f"a field's name with characters that it must not have: {name!r}")
                value, at = _text(data, at)
                if not _VALUE.fullmatch(value):
                    raise HPACKDecodingError(f"field {name!r}: characters that a value must not have")
                kind = NeverIndexedHeaderTuple if first & _NEVER and not keep else HeaderTuple
                field = kind(name, value)
                if keep:
                    table.add(name, value)
                    self.changes += 1
            fields.append(field)
            size += len(field[0]) + len(field[1]) + _ENTRY_BYTES
            if size > self.max_header_list_size:
                raise OversizedHeaderListError(f"fields of more than {self.max_header_list_size} bytes")
        self._assert_valid_table_size()
        return fields

    def _resize(self, data: bytes, at: int) -> int:
        size, at = _number(data, at, 0x1F)
        if size > self.max_allowed_table_size:
            raise HPACKDecodingError(f"a table of {size} bytes, where {self.max_allowed_table_size} are allowed")
        self.header_table_size = size
        self.changes += 1
        return at


def misplaced(fields: Sequence[tuple[bytes, bytes]], found: dict[bytes, bytes], kind: int) -> str:
    """Tell what is wrong with a head's fields taken together; empty when nothing is (RFC 9113 sections 8.2.2, 8.3)."""
    own: set[bytes] = set()
    regular = False
    for name, _ in fields:
        if name[:1] != b":":
            regular = True
        elif regular or name in own:
            return f"pseudo-header {name!r} comes twice, or after a field"
        else:
            own.add(name)
    if not _CONNECTION.isdisjoint(found):
        return "a field that belongs to one connection"
    if b"te" in found and any(name == b"te" and value.lower() != b"trailers" for name, value in fields):
        return "TE: expected 'trailers' alone"
    if kind == REQUEST:
        return _misplaced_in_request(fields, found, own)
    if kind == TRAILERS:
        return "a pseudo-header in trailers" if own else ""
    return "" if own == {b":status"} else "an answer needs :status and no other pseudo-header"


def _misplaced_in_request(fields: Sequence[tuple[bytes, bytes]], found: dict[bytes, bytes], own: set[bytes]) -> str:
    method = found.get(b":method")
    if method is None or not own <= _OF_REQUESTS:
        return "a request needs :method, and none but a request's pseudo-headers"
    if method == b"CONNECT" and b":protocol" not in own:
        if b":scheme" in own or b":path" in own:
            return "CONNECT has neither :scheme nor :path"
    elif b":scheme" not in own or not found.get(b":path"):
        return "a request needs :scheme and :path"
    elif method != b"CONNECT" and b":protocol" in own:
        return ":protocol is for CONNECT"
    hosts = [value for name, value in fields if name == b"host"] if b"host" in found else []
    if len(hosts) > 1 or len({*hosts, found.get(b":authority", *hosts[:1] or (None,))}) > 1:
        return "more than one Host, or another than :authority"
    return "" if hosts or b":authority" in own else "a request needs :authority or Host"


class StaticEncoder(Encoder):
    """Writes fields; its connection's peer needs no table for them."""

    def __init__(self) -> None:
        super().__init__()
        self._begun = False

    def encode(self, headers: Iterable[Any], huffman: bool = True) -> bytes:  # noqa: ARG002, FBT001, FBT002 - as its base
        """Give a block of fields: pairs of bytes; those that are marked so are written as never to be indexed."""
        return self.begin(block_of(headers))

    def begin(self, block: bytes) -> bytes:
        """Give a written block as it goes out on this connection: the first one says that there is no table."""
        if self._begun:
            return block
        self._begun = True
        return NO_TABLE + block


def block_of(fields: Iterable[Any]) -> bytes:
    """Write fields: pairs of bytes; those that are marked so as never to be indexed."""
    return b"".join(
        [
            _spelt(name, value, _NEVER)
            if not getattr(item, "indexable", True)
            else _kept(name, value)
            if len(value) < _WORTH_KEEPING
            else _spelt(name, value, _LITERAL)
            for item in fields
            for name, value in (item,)
        ]
    )


def identity(correlation: bytes) -> bytes:
    """Write the field of a correlation id; the other end need not index what never comes again."""
    return _IDENTITY + _string(correlation)


def _number(data: bytes, at: int, most: int) -> tuple[int, int]:
    """Read a number that begins with the low bits of a byte; give it, and where it ends."""
    value = data[at] & most
    at += 1
    if value < most:
        return value, at
    for shift in range(0, 7 * _LONGEST_NUMBER, 7):
        if at >= len(data):
            break
        byte = data[at]
        at += 1
        value += (byte & 0x7F) << shift
        if byte < 0x80:  # noqa: PLR2004 - the bit that says that more follows
            return value, at
    raise HPACKDecodingError("a number is cut off, or too long")


def _text(data: bytes, at: int) -> tuple[bytes, int]:
    """Read a string; give it, and where it ends."""
    if at >= len(data):
        raise HPACKDecodingError("a block is cut off")
    short = data[at] & 0x80
    length, at = _number(data, at, 0x7F)
    value = data[at : at + length]
    if len(value) != length:
        raise HPACKDecodingError("a block is cut off")
    if short:
        value = _unpacked(value) if length < _WORTH_KEEPING else decode_huffman(value)
    return value, at + length


# Huffman's code is read bit by bit, in Python.
_unpacked = lru_cache(maxsize=1024)(decode_huffman)


def _spelt(name: bytes, value: bytes, kind: int) -> bytes:
    place = _PLACES.get(name, 0)
    prefix = encode_integer(place, 4)
    prefix[0] |= kind
    return bytes(prefix) + (b"" if place else _string(name)) + _string(value)


@lru_cache(maxsize=4_096)
def _kept(name: bytes, value: bytes) -> bytes:
    whole = _WHOLE.get((name, value))
    if whole is None:
        return _spelt(name, value, _LITERAL)
    prefix = encode_integer(whole, 7)
    prefix[0] |= _INDEXED
    return bytes(prefix)


def _string(value: bytes) -> bytes:
    length = len(value)
    return (bytes((length,)) if length < 0x7F else bytes(encode_integer(length, 7))) + value  # noqa: PLR2004 - 7 bits


_WHOLE: Final = {field: place for place, field in enumerate(HeaderTable.STATIC_TABLE, 1) if field[1]}
_PLACES: Final = {name: place for place, (name, _) in reversed(list(enumerate(HeaderTable.STATIC_TABLE, 1)))}
_IDENTITY: Final = bytes((_NEVER,)) + _string(b"x-request-id")
