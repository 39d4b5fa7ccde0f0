"""HPACK without memory: fields written with the static table alone, so that what is written once is written for good.

A proxy sends the same few fields again and again, but in Python a dynamic table costs more than it saves on a machine's
own wire. Source: RFC 7541 sections 4.2, 5.1, 6.1, 6.2.2, 6.2.3 and its appendix A, as the `hpack` library has it.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Final

from hpack.hpack import Encoder, encode_integer
from hpack.table import HeaderTable

_NO_TABLE: Final = b"\x20"
"""The dynamic table's size becomes 0; once, before the first field, so that no later limit is below it."""
_INDEXED, _LITERAL, _NEVER = 0x80, 0x00, 0x10
_WORTH_KEEPING: Final = 512


class StaticEncoder(Encoder):
    """Writes fields; its connection's peer needs no table for them."""

    def __init__(self) -> None:
        super().__init__()
        self._begun = False

    def encode(self, headers: Iterable[Any], huffman: bool = True) -> bytes:  # noqa: ARG002, FBT001, FBT002 - as its base
        """Give a block of fields: pairs of bytes; those that are marked so are written as never to be indexed."""
        block = b"".join(
            [
                _spelt(name, value, _NEVER)
                if not getattr(item, "indexable", True)
                else _kept(name, value)
                if len(value) < _WORTH_KEEPING
                else _spelt(name, value, _LITERAL)
                for item in headers
                for name, value in (item,)
            ]
        )
        if self._begun:
            return block
        self._begun = True
        return _NO_TABLE + block


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
    return bytes(encode_integer(len(value), 7)) + value


_WHOLE: Final = {field: place for place, field in enumerate(HeaderTable.STATIC_TABLE, 1) if field[1]}
_PLACES: Final = {name: place for place, (name, _) in reversed(list(enumerate(HeaderTable.STATIC_TABLE, 1)))}
