"""Reads a V2 JSON body: as orjson does, except that long flat tensors of numbers come as arrays at once.

A Python number made, checked and thrown away costs more than its digits' parsing; simdjson writes them into one buffer.
Whatever it refuses or reads differently is read by orjson, so that there is one judge of what is JSON, and one who
words what is wrong with it. Next: `inference/protocol/v2.py`.
"""

from __future__ import annotations

import contextlib
from itertools import chain
from typing import Any, Final

import numpy as np
import orjson
import simdjson

from inference.protocol.errors import MalformedBody

_WORTH: Final = 1_024
"""Bytes from which on it pays."""
_KEPT: Final = 1 << 20
"""A parser keeps some fourteen times the bytes of its longest body: those of longer ones are not used again."""
_KINDS: Final = {
    "FP32": ("d", "f8"), "FP64": ("d", "f8"),
    "INT8": ("i", "i8"), "INT16": ("i", "i8"), "INT32": ("i", "i8"), "INT64": ("i", "i8"),
    "UINT8": ("u", "u8"), "UINT16": ("u", "u8"), "UINT32": ("u", "u8"), "UINT64": ("u", "u8"),
}  # fmt: skip
_UNSUITED: Final = (ValueError, TypeError, LookupError, RuntimeError, AttributeError)

_spare: Final[list[simdjson.Parser]] = []
"""Parsers that nobody uses: the memory of a new one costs as much as its work. As many as once read at once."""


def read(text: bytes, key: str) -> object:
    """Read a body; the tensors stand under `key`.

    Raises:
        MalformedBody: no JSON.
    """
    if len(text) >= _WORTH and text[:1] == b"{":
        with contextlib.suppress(*_UNSUITED):
            parser = _spare.pop() if _spare else simdjson.Parser()
            fields = _quick(parser, text, key)
            # Not after an error, which may hold on to a part of the document: the parser would refuse the next one.
            if len(text) <= _KEPT:
                _spare.append(parser)
            if fields is not None:
                return fields
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as exc:
        raise MalformedBody("body", f"no JSON: {exc}") from exc


def _quick(parser: simdjson.Parser, text: bytes, key: str) -> dict[str, Any] | None:
    """Read a body all of whose tensors are flat; None for any other."""
    document: Any = parser.parse(text)
    fields = _members(document)
    tensors = [_members(tensor) for tensor in fields.pop(key)]
    values = chain(fields.values(), *(tensor.values() for tensor in tensors))
    if not _holds(text, 1 + sum(isinstance(value, simdjson.Array) for value in values)):
        # A list within `data`, or a bracket within a text: the buffers below would not tell [1, [2, 3]] from [1, 2, 3].
        return None
    plain = {name: _plain(value) for name, value in fields.items()}
    plain[key] = [_tensor(tensor) for tensor in tensors]
    return plain


def _holds(text: bytes, lists: int) -> bool:
    """Say whether a text has so many opening brackets; between them `find` is ten times as fast as `count`."""
    at = -1
    for _ in range(lists):
        at = text.find(b"[", at + 1)
        if at < 0:
            return False
    return text.find(b"[", at + 1) < 0


def _tensor(fields: dict[str, Any]) -> dict[str, Any]:
    code, dtype = _KINDS[fields["datatype"]]
    data = fields.pop("data")
    plain = {name: _plain(value) for name, value in fields.items()}
    plain["data"] = np.frombuffer(data.as_buffer(of_type=code), dtype)
    return plain


def _members(value: Any) -> dict[str, Any]:  # noqa: ANN401 - a value of the library's
    names = list(value.keys())
    fields = {name: value[name] for name in names}
    if len(fields) != len(names):
        raise ValueError("a name stands twice")  # which of the two counts is orjson's affair
    return fields


def _plain(value: Any) -> Any:  # noqa: ANN401 - whatever JSON can hold
    if isinstance(value, simdjson.Object):
        return value.as_dict()
    return value.as_list() if isinstance(value, simdjson.Array) else value
