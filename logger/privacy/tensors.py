"""V2 tensors, JSON and binary, without NumPy: find cells, change them, write the tensor again so that it still decodes.

A tensor says nothing is missing: a masked number is 0, in JSON as in binary, so that a column is the same whichever way
it came; a masked BOOL is false. Sources: Open Inference Protocol; its binary tensor data extension.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Any, Final

from logger.privacy.actions import BUCKET, MASKED, PSEUDONYM, Action, canonical
from logger.privacy.errors import Unreadable

SIZE: Final = "binary_data_size"
_BYTES: Final = "BYTES"
_BF16: Final = "BF16"
# BF16 is the upper half of a binary32.
_FORMATS: Final = {
    "BOOL": "B", "UINT8": "B", "UINT16": "H", "UINT32": "I", "UINT64": "Q", "INT8": "b", "INT16": "h", "INT32": "i",
    "INT64": "q", "FP16": "e", _BF16: "H", "FP32": "f", "FP64": "d",
}  # fmt: skip
_LENGTH: Final = struct.Struct("<I")
_SINGLE: Final = struct.Struct("<f")
_MOST_SIZES: Final = 32


class Tensor:
    """One tensor of a body. Changing it changes the JSON item that it is made of."""

    def __init__(self, item: Any, rest: memoryview) -> None:  # noqa: ANN401 - whatever JSON holds
        """Read a tensor; `rest` is what no tensor before it took of the binary part.

        Raises:
            Unreadable: shape, datatype and data do not fit together.
        """
        if not isinstance(item, dict) or not isinstance(item.get("name"), str):
            raise Unreadable("tensor")
        self.item: dict[str, Any] = item
        self.name: str = item["name"]
        self._shape = _shape(item.get("shape"))
        self._datatype = item.get("datatype")
        if self._datatype not in _FORMATS and self._datatype != _BYTES:
            raise Unreadable("tensor")
        self.count = math.prod(self._shape)
        size = _size(item)
        self._raw: bytearray | None = None
        self._items: list[bytes] | None = None
        self._leaves: list[list[Any]] = []
        if size is None:
            self._leaves = self._nested(item.get("data"))
        elif size > len(rest) or "data" in item:
            raise Unreadable("tensor")
        else:
            self._read(rest[:size])
        self.taken = size or 0

    @property
    def binary(self) -> bool:
        """Tell whether its values lie behind the JSON."""
        return SIZE in (self.item.get("parameters") or ())

    def change(self, column: int | None, action: Action) -> None:
        """Do an action to one column (the second dimension), or to all values; dropping is the caller's.

        Raises:
            Unreadable: there is no such column, so the tensor is another than was meant.
        """
        width = self._shape[1] if len(self._shape) > 1 else 1
        if column is not None and column >= width:
            raise Unreadable("column")
        if not self.count:
            return
        inner = math.prod(self._shape[2:])
        whole = column is None or width == 1
        if self._datatype != _BYTES and action.kind == PSEUDONYM and whole:
            self._become_text(action)
            return
        cells: Sequence[int] = range(self.count)
        if not whole and column is not None:
            step = width * inner
            cells = [at for row in range(column * inner, self.count, step) for at in range(row, row + inner)]
        if self._raw is not None:
            self._change_raw(cells, action)
        elif self._items is not None:
            for at in cells:
                self._items[at] = action.raw(self._items[at])
        else:
            self._change_json(cells, action)

    def cell(self, value: Any, action: Action) -> Any:  # noqa: ANN401 - as above
        """Give what stands for one value of its JSON data; lists of them keep their length."""
        if isinstance(value, list):
            return [self.cell(item, action) for item in value]
        if self._datatype == _BYTES:
            return action.text(value) if isinstance(value, str) else MASKED
        return self._number(value, action)

    def close(self) -> bytes:
        """Give its part of the binary data, once all changes are made."""
        if self._items is not None:
            raw = b"".join(_LENGTH.pack(len(item)) + item for item in self._items)
        elif self._raw is not None:
            raw = bytes(self._raw)
        else:
            return b""
        self.item["parameters"][SIZE] = len(raw)
        return raw

    def _read(self, raw: memoryview) -> None:
        if self._datatype == _BYTES:
            self._items = _split(raw, self.count)
        elif len(raw) != self.count * struct.calcsize(_FORMATS[str(self._datatype)]):
            raise Unreadable("tensor")
        else:
            self._raw = bytearray(raw)

    def _nested(self, data: Any) -> list[list[Any]]:  # noqa: ANN401 - as above
        """Give the innermost lists of JSON data, in order, all of one length."""
        if not isinstance(data, list):
            raise Unreadable("tensor")
        level = [data]
        while level[0] and isinstance(level[0][0], list):
            level = [inner for outer in level for inner in outer]
            if not all(isinstance(inner, list) for inner in level):
                raise Unreadable("tensor")
        if len({len(leaf) for leaf in level}) > 1 or sum(map(len, level)) != self.count:
            raise Unreadable("tensor")
        if any(kind in {list, dict} for leaf in level for kind in set(map(type, leaf))):
            raise Unreadable("tensor")
        return level

    def _change_raw(self, cells: Sequence[int], action: Action) -> None:
        raw, code = self._raw or bytearray(), "<" + _FORMATS[str(self._datatype)]
        width = struct.calcsize(code)
        if action.kind != BUCKET or self._datatype == "BOOL":
            # Nothing stays of the values, so nobody needs to read them.
            if isinstance(cells, range):
                raw[:] = bytes(len(raw))
            for at in cells if not isinstance(cells, range) else ():
                raw[at * width : at * width + width] = bytes(width)
            return
        form, whole = struct.Struct(code), code[1] not in "efd" and self._datatype != _BF16
        for at in cells:
            number = action.number(self._decoded(form.unpack_from(raw, at * width)[0]))
            try:
                lowest = 0 if number is None else math.floor(number) if whole else self._encoded(number)
                form.pack_into(raw, at * width, lowest)
            except (struct.error, OverflowError):
                # The bucket of the smallest numbers may begin below what the datatype holds.
                form.pack_into(raw, at * width, 0)

    def _change_json(self, cells: Sequence[int], action: Action) -> None:
        length = len(self._leaves[0])
        for at in cells:
            leaf, place = self._leaves[at // length], at % length
            leaf[place] = self.cell(leaf[place], action)

    def _become_text(self, action: Action) -> None:
        """Give each number its pseudonym, which is text: the column is one of texts from then on."""
        if self._raw is not None:
            code = "<" + _FORMATS[str(self._datatype)]
            numbers = (self._decoded(value) for (value,) in struct.iter_unpack(code, self._raw))
            self._items = [action.pseudonym(self._canonical(value)).encode() for value in numbers]
            self._raw = None
        else:
            for leaf in self._leaves:
                leaf[:] = [self._pseudonym(value, action) for value in leaf]
        self._datatype = self.item["datatype"] = _BYTES

    def _pseudonym(self, value: Any, action: Action) -> str:  # noqa: ANN401 - as above
        return action.pseudonym(self._canonical(value)) if isinstance(value, int | float) else MASKED

    def _canonical(self, value: float) -> bytes:
        if isinstance(value, float):
            if not math.isfinite(value):
                return repr(value).encode()
            if self._datatype == "FP32":
                # As JSON a number may have more digits than the datatype holds, and is the same all the same.
                value = _SINGLE.unpack(_SINGLE.pack(value))[0] if abs(value) <= _SINGLE_MOST else value
        return canonical(value)

    def _number(self, value: Any, action: Action) -> Any:  # noqa: ANN401 - as above
        if self._datatype == "BOOL":
            return False
        if isinstance(value, bool) or not isinstance(value, int | float):
            return 0
        number = action.number(value)
        if number is None:
            return 0
        if self._datatype in {_BF16, "FP16", "FP32", "FP64"}:
            return number if self._fits(number) else 0
        number = math.floor(number)
        return number if self._fits(number) else 0

    def _fits(self, number: float) -> bool:
        try:
            struct.pack("<f" if self._datatype == _BF16 else "<" + _FORMATS[str(self._datatype)], number)
        except (struct.error, OverflowError):
            return False
        return True

    def _decoded(self, value: float | bool) -> float:  # noqa: FBT001 - a value, not a switch
        if self._datatype == _BF16:
            single: float = _SINGLE.unpack(_LENGTH.pack(int(value) << 16))[0]
            return single
        return bool(value) if self._datatype == "BOOL" else value

    def _encoded(self, number: float) -> float:
        return _LENGTH.unpack(_SINGLE.pack(number))[0] >> 16 if self._datatype == _BF16 else number


_SINGLE_MOST: Final[float] = _SINGLE.unpack(b"\xff\xff\x7f\x7f")[0]


def read(fields: Any, key: str, tail: bytes) -> list[Tensor]:  # noqa: ANN401 - as above
    """Read the tensors of a body: `inputs` or `outputs`, and what lies behind the JSON.

    Raises:
        Unreadable: the body does not follow the protocol.
    """
    items = fields.get(key) if isinstance(fields, dict) else None
    if not isinstance(items, list):
        raise Unreadable("tensor")
    rest, found = memoryview(tail), []
    for item in items:
        tensor = Tensor(item, rest)
        rest = rest[tensor.taken :]
        found.append(tensor)
    if len(rest):
        raise Unreadable("tensor")
    return found


def _shape(shape: object) -> tuple[int, ...]:
    if not isinstance(shape, list) or len(shape) > _MOST_SIZES:
        raise Unreadable("tensor")
    if not all(isinstance(size, int) and not isinstance(size, bool) and size >= 0 for size in shape):
        raise Unreadable("tensor")
    return tuple(shape)


def _size(item: dict[str, Any]) -> int | None:
    parameters = item.get("parameters")
    if parameters is None:
        return None
    if not isinstance(parameters, dict):
        raise Unreadable("tensor")
    size = parameters.get(SIZE)
    if size is not None and (not isinstance(size, int) or isinstance(size, bool) or size < 0):
        raise Unreadable("tensor")
    return size


def _split(raw: memoryview, count: int) -> list[bytes]:
    """Give the elements of a BYTES tensor: each is its length in four bytes, then its bytes."""
    items, at = [], 0
    if count * _LENGTH.size > len(raw):
        raise Unreadable("tensor")
    for _ in range(count):
        if at + _LENGTH.size > len(raw):
            raise Unreadable("tensor")
        (length,) = _LENGTH.unpack_from(raw, at)
        at += _LENGTH.size + length
        if at > len(raw):
            raise Unreadable("tensor")
        items.append(bytes(raw[at - length : at]))
    if at != len(raw):
        raise Unreadable("tensor")
    return items
