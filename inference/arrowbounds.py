"""How large the columns of an Arrow IPC stream become as tensors, known before anything is allocated for them. Pure.

Few bytes can say much: a column of nulls has no buffers at all, a list may be of two thousand million nulls, every row
of a dictionary and every view of a text may be the same megabyte. Reading a stream allocates nothing for any of these;
checking and converting would.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from inference.protocol.errors import BadTensor

_NUMBER: Final = 8
"""Bytes of a number that may be missing, which is NaN, or that comes out of something else."""
_OBJECT: Final = 48
"""Bytes of a text's object, and of the place that points to it."""
_VIEW: Final = 4
"""Numbers of 32 bits in a view of a text; the first is the text's length."""


def decoded(field: pa.Field, chunks: list[Any]) -> int:
    """Give how many bytes a column's tensor takes, at most about; the chunks have passed Arrow's short validation.

    Raises:
        BadTensor: a type without a tensor.
        pa.ArrowInvalid, pa.ArrowIndexError: chunks that do not pass its full validation either.
    """
    where = f"column {field.name!r}"
    return sum(_bytes(chunk, where) for chunk in chunks)


def no_tensor(where: str, kind: pa.DataType) -> BadTensor:
    """Make the error for a type that has no tensor."""
    return BadTensor(where, f"expected numbers, booleans, texts or lists of them, got {kind}")


def is_text(kind: pa.DataType) -> bool:
    """Tell whether values are Python's `str`."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def is_raw(kind: pa.DataType) -> bool:
    """Tell whether values are Python's `bytes`."""
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind))


def _bytes(array: Any, where: str) -> int:  # noqa: ANN401 - pyarrow has no types
    kind = array.type
    if isinstance(kind, pa.BaseExtensionType):
        return _bytes(array.storage, where)
    if pa.types.is_dictionary(kind):
        return _dictionary(array, where)
    if pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind):
        # Lists of empty lists take nothing, but there may not be more of them than of bytes.
        return max(len(array.values), _bytes(array.values, where))
    if is_text(kind) or is_raw(kind):
        return _OBJECT * len(array) + _lengths(array)
    return len(array) * _width(array, where)


def _dictionary(array: Any, where: str) -> int:  # noqa: ANN401 - as above
    values = array.dictionary
    if is_text(values.type) or is_raw(values.type):
        each = _each(values).take(array.indices)
        return _OBJECT * len(array) + (pc.sum(each).as_py() or 0)
    return len(array) * max(_NUMBER, _width(values, f"{where}: dictionary"))


def _lengths(texts: Any) -> int:  # noqa: ANN401 - as above
    return pc.sum(_each(texts)).as_py() or 0


def _each(texts: Any) -> Any:  # noqa: ANN401 - as above
    """Give the length of each text."""
    if not pa.types.is_string_view(texts.type):
        return pc.cast(pc.binary_length(texts), pa.int64())
    # Unsigned: what is less than nothing, and refused later, must not make up for what is large.
    views = np.frombuffer(texts.buffers()[1] or b"", np.uint32).reshape(-1, _VIEW)
    return pa.array(views[texts.offset : texts.offset + len(texts), 0].astype(np.int64))


def _width(array: Any, where: str) -> int:  # noqa: ANN401 - as above
    """Give the bytes of one number."""
    kind = array.type
    if pa.types.is_boolean(kind):
        return 1
    if pa.types.is_null(kind) or pa.types.is_decimal(kind):
        return _NUMBER
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        raise no_tensor(where, kind)
    return _NUMBER if array.null_count else int(kind.bit_width) // 8
