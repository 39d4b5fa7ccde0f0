"""One tensor: its checks, its raw little-endian bytes and its JSON data.

Sources: Open Inference Protocol "Tensor Data"; the binary tensor data extension for the raw form.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, TypeVar

import numpy as np

from inference.protocol.datatypes import BF16, BYTES, RAW_ONLY, WIDTH, datatype_of, numpy_dtype
from inference.protocol.errors import BadTensor

Array = np.ndarray[Any, Any]
Parameters = Mapping[str, Any]
Counted = TypeVar("Counted", list[Any], Array)

_LENGTH: Final = struct.Struct("<I")
_MAX_RANK: Final = 32
MAX_ELEMENTS: Final = 1 << 31
"""Most elements that a shape may speak of, sizes of 0 counted as 1: a body of 64 MiB cannot hold more."""
_JSON_TYPES: Final[Mapping[str, set[type]]] = MappingProxyType({"b": {bool}, "f": {int, float}})
_NOTHING: Final[Parameters] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """A named tensor. `data` has `shape`; its dtype follows the datatype, BYTES being an object array of bytes."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: Array
    parameters: Parameters = field(default_factory=lambda: _NOTHING)

    @classmethod
    def of(cls, name: str, array: Array, parameters: Parameters = _NOTHING) -> Tensor:
        """Wrap an array; text becomes UTF-8 BYTES."""
        datatype = datatype_of(array)
        data = _as_bytes(array) if datatype == BYTES else array
        return cls(name=name, datatype=datatype, shape=array.shape, data=data, parameters=parameters)


def check_shape(shape: object, where: str) -> tuple[int, ...]:
    """Give a shape as a tuple.

    Raises:
        BadTensor: no list of sizes from 0 up, too many of them, or more elements than any body holds.
    """
    if not isinstance(shape, list) or len(shape) > _MAX_RANK:
        raise BadTensor(where, f"shape: expected a list of at most {_MAX_RANK} sizes, got {_short(shape)}")
    for size in shape:
        if not isinstance(size, int) or isinstance(size, bool) or size < 0:
            raise BadTensor(where, f"shape {_short(shape)}: expected sizes from 0 up, got {_short(size)}")
    if math.prod([size or 1 for size in shape]) > MAX_ELEMENTS:
        raise BadTensor(where, f"shape {_short(shape)}: expected at most {MAX_ELEMENTS} elements")
    return tuple(shape)


def from_raw(datatype: object, shape: tuple[int, ...], raw: bytes | memoryview, where: str) -> Array:
    """Read raw little-endian bytes, row-major. NaN and infinities are values like any other here.

    Raises:
        BadTensor: not exactly as many bytes as datatype and shape need, or a BOOL that is neither 0 nor 1.
    """
    dtype = numpy_dtype(datatype, where)
    count = math.prod(shape)
    if datatype == BYTES:
        return _from_raw_bytes(shape, count, memoryview(raw), where)
    width = WIDTH[str(datatype)]
    if len(raw) != count * width:
        raise BadTensor(where, f"shape {list(shape)} of {datatype} needs {count * width} bytes, got {len(raw)}")
    if datatype == BF16:
        return (np.frombuffer(raw, "<u2").astype("<u4") << 16).view("<f4").reshape(shape)
    if datatype == "BOOL" and count and np.frombuffer(raw, "u1").max() > 1:
        raise BadTensor(where, "BOOL: expected bytes 0 or 1")
    # Tensors lie in the body back to back; what computes on them wants its numbers aligned.
    array = np.frombuffer(raw, dtype)
    return (array if array.flags.aligned else array.copy()).reshape(shape)


def to_raw(tensor: Tensor) -> bytes:
    """Write raw little-endian bytes, row-major; BF16 is rounded to the nearest, ties to even.

    Raises:
        BadTensor: data and shape differ in their number of elements.
    """
    _check_size(tensor)
    if tensor.datatype == BYTES:
        return b"".join(_LENGTH.pack(len(item)) + item for item in tensor.data.ravel())
    if tensor.datatype == BF16:
        return _bf16(np.ascontiguousarray(tensor.data, "<f4"))
    return np.ascontiguousarray(tensor.data, numpy_dtype(tensor.datatype, tensor.name)).tobytes()


def from_json(datatype: object, shape: tuple[int, ...], data: object, where: str) -> Array:
    """Read JSON data, flat or nested, whose element count must fit the shape; also as `bodies.read` gives them.

    Raises:
        BadTensor: another count, ragged nesting, or elements of another type or range than the datatype's.
    """
    dtype = numpy_dtype(datatype, where)
    if datatype in RAW_ONLY:
        raise BadTensor(where, f"{datatype} has no JSON form; send it as a binary tensor")
    count = math.prod(shape)
    if isinstance(data, np.ndarray):
        return _converted(_counted(data, count, shape, where), dtype, str(datatype), where).reshape(shape)
    flat, nesting = flatten(data, where)
    _counted(flat, count, shape, where)
    if len(nesting) > 1 and nesting != shape:
        raise BadTensor(where, f"shape {list(shape)}: the data is nested as {list(nesting)}")
    if datatype == BYTES:
        return _objects([_json_bytes(item, where) for item in flat], shape)
    return _numbers(flat, dtype, str(datatype), where).reshape(shape)


def flatten(data: object, where: str) -> tuple[list[Any], tuple[int, ...]]:
    """Give the elements of nested lists, row-major, and the sizes of the lists that they lay in.

    Raises:
        BadTensor: no list, ragged, or nested deeper than NumPy's 32 dimensions.
    """
    if not isinstance(data, list):
        raise BadTensor(where, f"data: expected a list, got {_short(data)}")
    level: list[Any] = data
    nesting: tuple[int, ...] = (len(level),)
    while level and isinstance(level[0], list):
        if len(nesting) == _MAX_RANK:
            raise BadTensor(where, f"data: nested deeper than {_MAX_RANK}")
        widths = {len(item) if isinstance(item, list) else -1 for item in level}
        if len(widths) != 1:
            raise BadTensor(where, "data: nested lists are ragged")
        nesting = (*nesting, *widths)
        level = [item for inner in level for item in inner]
    return level, nesting


def to_json(tensor: Tensor) -> list[Any]:
    """Give flat, row-major JSON data. NaN and infinities have no JSON form.

    Raises:
        BadTensor: the tensor holds NaN or infinities, or BYTES that are no UTF-8, or has another size than its shape.
    """
    _check_size(tensor)
    if tensor.datatype == BYTES:
        try:
            return [item.decode() for item in tensor.data.ravel()]
        except UnicodeDecodeError as exc:
            index = tensor.data.ravel().tolist().index(exc.object)
            text = f"BYTES element {index} is no UTF-8, so it has no JSON form; ask for binary data"
            raise BadTensor(f"tensor {tensor.name!r}", text) from exc
    if tensor.data.dtype.kind == "f" and not _all_finite(tensor.data):
        raise BadTensor(f"tensor {tensor.name!r}", "NaN and infinities have no JSON form; ask for binary data")
    values: list[Any] = tensor.data.ravel().tolist()
    return values


def _numbers(flat: list[Any], dtype: np.dtype[Any], datatype: str, where: str) -> Array:
    allowed = _JSON_TYPES.get(dtype.kind, {int})
    if not set(map(type, flat)) <= allowed:
        wrong = next(item for item in flat if type(item) not in allowed)
        expected = " or ".join(sorted(kind.__name__ for kind in allowed))
        raise BadTensor(where, f"{datatype}: expected {expected}, got {_short(wrong)}")
    if dtype.kind in "iu" and flat:
        _check_bounds(min(flat), max(flat), dtype, datatype, where)
    if dtype == np.float32:
        # Past the range of FP32 lies infinity, and a warning that nobody sees.
        with np.errstate(over="ignore"):
            array = np.array(flat, dtype)
    else:
        array = np.array(flat, dtype)
    return _finite(array, datatype, where) if dtype.kind == "f" else array


def _counted(flat: Counted, count: int, shape: tuple[int, ...], where: str) -> Counted:
    if len(flat) != count:
        raise BadTensor(where, f"shape {list(shape)} needs {count} values, got {len(flat)}")
    return flat


def _converted(numbers: Array, dtype: np.dtype[Any], datatype: str, where: str) -> Array:
    """Give numbers of the widest type of their kind as those of a datatype."""
    if dtype.kind in "iu" and dtype.itemsize < numbers.itemsize and numbers.size:
        _check_bounds(int(numbers.min()), int(numbers.max()), dtype, datatype, where)
    if dtype != np.float32:
        return numbers.astype(dtype, copy=False)
    with np.errstate(over="ignore"):
        array = numbers.astype(dtype)
    return _finite(array, datatype, where)


def _check_bounds(least: int, most: int, dtype: np.dtype[Any], datatype: str, where: str) -> None:
    bounds = np.iinfo(dtype)
    if least < bounds.min or most > bounds.max:
        raise BadTensor(where, f"{datatype}: expected {bounds.min} to {bounds.max}, got {least} to {most}")


def _finite(array: Array, datatype: str, where: str) -> Array:
    if not _all_finite(array):
        raise BadTensor(where, f"{datatype}: a value is out of range")
    return array


def _all_finite(array: Array) -> bool:
    # For some hundred numbers `all` costs more than the rest: it goes by way of Python.
    return bool(np.count_nonzero(np.isfinite(array)) == array.size)


def _check_size(tensor: Tensor) -> None:
    if tensor.data.size != math.prod(tensor.shape):
        text = f"shape {list(tensor.shape)} needs {math.prod(tensor.shape)} values, got {tensor.data.size}"
        raise BadTensor(f"tensor {tensor.name!r}", text)


def _bf16(data: Array) -> bytes:
    bits = data.view("<u4").astype("u8")
    # Adding just under half of what is cut away, plus the last kept bit, rounds ties to even.
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    # A NaN must not round into infinity.
    rounded[np.isnan(data)] = 0x7FC0
    raw: bytes = rounded.astype("<u2").tobytes()
    return raw


def _from_raw_bytes(shape: tuple[int, ...], count: int, raw: memoryview, where: str) -> Array:
    # Each element takes four bytes at least, so a huge shape is refused before anything is allocated.
    if count * _LENGTH.size > len(raw):
        raise BadTensor(where, f"shape {list(shape)} of BYTES needs at least {count * 4} bytes, got {len(raw)}")
    items: list[bytes] = []
    at = 0
    for index in range(count):
        if at + _LENGTH.size > len(raw):
            raise BadTensor(where, f"BYTES element {index}: its length is cut off at byte {at} of {len(raw)}")
        (length,) = _LENGTH.unpack_from(raw, at)
        at += _LENGTH.size + length
        if at > len(raw):
            raise BadTensor(where, f"BYTES element {index}: needs {length} bytes, {length - at + len(raw)} are there")
        items.append(bytes(raw[at - length : at]))
    if at != len(raw):
        raise BadTensor(where, f"{len(raw) - at} bytes follow the last of {count} BYTES elements")
    return _objects(items, shape)


def _objects(items: Sequence[bytes], shape: tuple[int, ...]) -> Array:
    array = np.empty(len(items), object)
    array[:] = items
    return array.reshape(shape)


def _as_bytes(array: Array) -> Array:
    return _objects([_text_bytes(item) for item in array.ravel()], array.shape)


def _text_bytes(item: object) -> bytes:
    if isinstance(item, str):
        return item.encode()
    if isinstance(item, (bytes, bytearray, memoryview)):
        return bytes(item)
    # A number would give so many zeros.
    raise TypeError(f"expected text, got {_short(item)}")


def _json_bytes(item: object, where: str) -> bytes:
    if not isinstance(item, str):
        raise BadTensor(where, f"BYTES: expected text, got {_short(item)}")
    return item.encode()


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."  # noqa: PLR2004 - the length of an excerpt
