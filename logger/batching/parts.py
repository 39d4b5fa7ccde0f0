"""What the codecs of both protocols have in common: one call as a part of a batch. Pure."""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final, Protocol

import orjson

# Integers of more than 64 bits would come out of JSON as floats, and so as other numbers.
_LONG: Final = re.compile(rb"(?<![\w.+])(-?)([0-9]{19,})(?![0-9.eE])")
_MOST: Final = {b"": (1 << 64) - 1, b"-": 1 << 63}


@dataclass(frozen=True, slots=True)
class Part:
    """One call: what must be equal for it to share a batch, how many rows it has, and what they are."""

    key: Hashable
    rows: int
    content: Any
    """The codec's own."""


class Codec(Protocol):
    """Reads calls, joins them and splits the answer. Bodies come with the length of their JSON when more follows it."""

    def read(self, body: bytes, header_length: int | None) -> Part | None:
        """Read a call; None for one that must go by itself."""
        ...

    def join(self, parts: Sequence[Part]) -> tuple[bytes, int | None]:
        """Make one call of parts with equal keys."""
        ...

    def split(
        self, body: bytes, header_length: int | None, parts: Sequence[Part]
    ) -> list[tuple[bytes, int | None]] | None:
        """Give each part its answer; None when the answer has not one row for each row of the call."""
        ...


def loads(text: bytes | memoryview) -> dict[str, Any] | None:
    """Read a JSON object whose every value comes out of `dumps` again as it was; None for anything else."""
    try:
        fields = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    exact = all(int(digits[:21]) <= _MOST[sign] for sign, digits in _LONG.findall(text))
    return fields if isinstance(fields, dict) and exact else None


def canonical(content: object) -> bytes:
    """Give what is equal exactly when two JSON values are."""
    return orjson.dumps(content, option=orjson.OPT_SORT_KEYS)


def shape(values: Sequence[Any]) -> Hashable | None:
    """Give what the values of one column are like: types, lengths, names; None when they are not alike.

    A model that makes arrays or tables of its rows gets the same types from rows of several calls with equal shapes as
    from each call's own: whole numbers and others are told apart, column by column.
    """
    kinds = set(map(type, values))
    if kinds == {list}:
        return _lists(values)
    if kinds == {dict}:
        return _objects(values)
    if list in kinds or dict in kinds:
        return None
    return _scalar(kinds)


def _lists(values: Sequence[list[Any]]) -> Hashable | None:
    lengths = set(map(len, values))
    if len(lengths) != 1:
        return None
    (length,) = lengths
    flat = list(chain.from_iterable(values))
    kinds = set(map(type, flat))
    if not flat or (len(kinds) == 1 and not kinds & {list, dict}):
        return "list", length, _scalar(kinds)
    if kinds == {list}:
        inner = _lists(flat)
        return None if inner is None else ("list", length, inner)
    columns = tuple(shape(column) for column in zip(*values, strict=True))
    return None if None in columns else ("list", length, columns)


def _objects(values: Sequence[dict[str, Any]]) -> Hashable | None:
    names = tuple(values[0])
    if any(tuple(value) != names for value in values):
        return None
    columns = tuple(shape([value[name] for value in values]) for name in names)
    return None if None in columns else ("object", names, columns)


def _scalar(kinds: set[type]) -> Hashable:
    # A column of both is a column of floats, alone and in company.
    return frozenset({float} if kinds == {int, float} else kinds)
