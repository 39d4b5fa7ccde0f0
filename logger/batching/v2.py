"""V2 calls as parts of a batch: tensors are joined along their first axis, JSON and binary ones alike. Pure.

Without numpy, which the base does not have: no value is looked at, only counted.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, pairwise
from typing import Any, Final

import orjson

from logger.batching.parts import Part, canonical, loads

_SIZE: Final = "binary_data_size"
_LENGTH: Final = struct.Struct("<I")
_BYTES: Final = "BYTES"
_WIDTHS: Final = {
    "BOOL": 1, "INT8": 1, "UINT8": 1, "INT16": 2, "UINT16": 2, "FP16": 2, "BF16": 2, "INT32": 4, "UINT32": 4,
    "FP32": 4, "INT64": 8, "UINT64": 8, "FP64": 8,
}  # fmt: skip


class _Unfit(Exception):
    """Not to be joined or split."""


@dataclass(frozen=True, slots=True)
class _Tensor:
    """A tensor whose data are whole: nested or flat JSON, or raw bytes."""

    head: dict[str, Any]
    """All but shape and data."""
    shape: tuple[int, ...]
    data: list[Any] | None
    raw: memoryview
    nested: bool

    @property
    def key(self) -> tuple[object, ...]:
        return canonical(self.head), self.shape[1:], self.data is None, self.nested

    def rows(self, start: int, end: int) -> tuple[dict[str, Any], memoryview]:
        """Give some of the rows, as what stands in the JSON and what follows it."""
        shape = [end - start, *self.shape[1:]]
        if self.data is not None:
            width = 1 if self.nested else math.prod(self.shape[1:])
            return {**self.head, "shape": shape, "data": self.data[start * width : end * width]}, self.raw
        first, last = self._place(start), self._place(end)
        return _sized(self.head, shape, last - first), self.raw[first:last]

    def _place(self, row: int) -> int:
        width = math.prod(self.shape[1:])
        datatype = self.head["datatype"]
        if datatype != _BYTES:
            return row * width * int(_WIDTHS[datatype])
        at = 0
        for _ in range(row * width):
            at += _LENGTH.size + _LENGTH.unpack_from(self.raw, at)[0]
        return at


class V2:
    """See `logger.batching.parts.Codec`."""

    def read(self, body: bytes, header_length: int | None) -> Part | None:
        """Read a call. The id is each call's own; all else beside the rows has to be equal."""
        try:
            fields, tensors = _read(body, header_length, "inputs")
        except _Unfit:
            return None
        identity = fields.pop("id", None)
        rows = tensors[0].shape[0] if tensors else 0
        if not rows or any(tensor.shape[0] != rows for tensor in tensors):
            return None
        if identity is not None and not isinstance(identity, str):
            return None
        return Part((canonical(fields), tuple(tensor.key for tensor in tensors)), rows, (fields, tensors, identity))

    def join(self, parts: Sequence[Part]) -> tuple[bytes, int | None]:
        """Put the rows of all parts into one call, which has no id."""
        fields: dict[str, Any] = parts[0].content[0]
        total = sum(part.rows for part in parts)
        items, raws = [], []
        for column in zip(*(part.content[1] for part in parts), strict=True):
            shape = [total, *column[0].shape[1:]]
            if column[0].data is None:
                raw = b"".join(tensor.raw for tensor in column)
                items.append(_sized(column[0].head, shape, len(raw)))
                raws.append(raw)
            else:
                data = list(chain.from_iterable(tensor.data for tensor in column))
                items.append({**column[0].head, "shape": shape, "data": data})
        return _written({**fields, "inputs": items}, raws, binary=bool(raws))

    def split(
        self, body: bytes, header_length: int | None, parts: Sequence[Part]
    ) -> list[tuple[bytes, int | None]] | None:
        """Give each part its rows of every output, under its own id."""
        try:
            fields, tensors = _read(body, header_length, "outputs")
        except _Unfit:
            return None
        places = list(accumulate((part.rows for part in parts), initial=0))
        if not tensors or any(tensor.shape[0] != places[-1] for tensor in tensors):
            return None
        found = []
        for index, (start, end) in enumerate(pairwise(places)):
            cut = [tensor.rows(start, end) for tensor in tensors]
            own = {**fields, "outputs": [item for item, _ in cut]}
            identity = parts[index].content[2]
            if identity is not None:
                own["id"] = identity
            elif "id" in own:
                # The model made it up for the batch; two answers must not share it.
                own["id"] = f"{own['id']}-{index}"
            found.append(_written(own, [raw for _, raw in cut], binary=header_length is not None))
        return found


def _read(body: bytes, header_length: int | None, key: str) -> tuple[dict[str, Any], list[_Tensor]]:
    length = len(body) if header_length is None else header_length
    if not 0 < length <= len(body):
        raise _Unfit
    fields = loads(body[:length])
    items = fields.pop(key, None) if fields else None
    if fields is None or not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise _Unfit
    rest = memoryview(body)[length:]
    tensors = []
    for item in items:
        tensor = _tensor(item, rest)
        tensors.append(tensor)
        rest = rest[len(tensor.raw) :]
    if rest:
        raise _Unfit
    return fields, tensors


def _tensor(item: dict[str, Any], rest: memoryview) -> _Tensor:
    head = dict(item)
    shape, data, parameters = head.pop("shape", None), head.pop("data", None), head.get("parameters", {})
    if not isinstance(shape, list) or not shape or not all(type(size) is int and size >= 0 for size in shape):
        raise _Unfit
    if not isinstance(parameters, dict) or any(name.startswith("shared_memory") for name in parameters):
        raise _Unfit
    size = parameters.get(_SIZE)
    if size is not None:
        head["parameters"] = {name: value for name, value in parameters.items() if name != _SIZE}
        if data is not None or type(size) is not int or not 0 <= size <= len(rest):
            raise _Unfit
        raw = rest[:size]
        _check_raw(head.get("datatype"), math.prod(shape), raw)
        return _Tensor(head, tuple(shape), None, raw, nested=False)
    if not isinstance(data, list):
        raise _Unfit
    return _Tensor(head, tuple(shape), data, rest[:0], nested=_is_nested(data, shape))


def _check_raw(datatype: object, count: int, raw: memoryview) -> None:
    if datatype == _BYTES:
        at = 0
        for _ in range(count):
            if at + _LENGTH.size > len(raw):
                raise _Unfit
            at += _LENGTH.size + _LENGTH.unpack_from(raw, at)[0]
        if at != len(raw):
            raise _Unfit
    elif not isinstance(datatype, str) or datatype not in _WIDTHS or count * _WIDTHS[datatype] != len(raw):
        raise _Unfit


def _is_nested(data: list[Any], shape: list[int]) -> bool:
    """Tell whether data are nested as the shape says, or flat; anything else would shift the rows of others."""
    if not any(isinstance(item, list | dict) for item in data):
        if len(data) != math.prod(shape):
            raise _Unfit
        return False
    level: Iterator[Any] | list[Any] = [data]
    for size in shape:
        inner = list(level)
        if not all(type(item) is list and len(item) == size for item in inner):
            raise _Unfit
        level = chain.from_iterable(inner)
    if any(isinstance(item, list | dict) for item in level):
        raise _Unfit
    return True


def _sized(head: dict[str, Any], shape: list[int], size: int) -> dict[str, Any]:
    return {**head, "shape": shape, "parameters": {**head.get("parameters", {}), _SIZE: size}}


def _written(fields: dict[str, Any], raws: Sequence[bytes | memoryview], *, binary: bool) -> tuple[bytes, int | None]:
    head = orjson.dumps(fields)
    return (b"".join((head, *raws)), len(head)) if binary else (head, None)
