"""V2's datatypes and their NumPy counterparts (Open Inference Protocol, "Tensor Data Types")."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any, Final

import numpy as np

from inference.protocol.errors import UnknownDatatype

DType = np.dtype[Any]

BYTES: Final = "BYTES"
BF16: Final = "BF16"
RAW_ONLY: Final = frozenset({"FP16", BF16})
"""Those without a JSON form."""

# BF16 is carried as float32, which holds every BF16 value; its raw form is the upper half of each float32.
NUMPY: Final = MappingProxyType({
    "BOOL": np.dtype("?"),
    "UINT8": np.dtype("u1"), "UINT16": np.dtype("<u2"), "UINT32": np.dtype("<u4"), "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("i1"), "INT16": np.dtype("<i2"), "INT32": np.dtype("<i4"), "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"), BF16: np.dtype("<f4"), "FP32": np.dtype("<f4"), "FP64": np.dtype("<f8"),
    BYTES: np.dtype(object),
})  # fmt: skip

# Raw bytes of one element; BYTES has no fixed size.
WIDTH: Final = MappingProxyType({name: 2 if name == BF16 else dtype.itemsize for name, dtype in NUMPY.items()})

_NAMES: Final = {dtype.newbyteorder("<"): name for name, dtype in NUMPY.items() if name not in {BF16, BYTES}}


def numpy_dtype(datatype: object, where: str) -> DType:
    """Give the dtype that carries a V2 datatype.

    Raises:
        UnknownDatatype: V2 defines no such type; the message lists those that it does.
    """
    if not isinstance(datatype, str) or datatype not in NUMPY:
        raise UnknownDatatype(where, f"datatype {datatype!r}: expected one of {', '.join(NUMPY)}")
    return NUMPY[datatype]


def datatype_of(array: np.ndarray[Any, Any]) -> str:
    """Give the V2 datatype of an array; text and objects are BYTES.

    Raises:
        UnknownDatatype: the array's dtype has no V2 name (complex numbers, dates).
    """
    if array.dtype.kind in "OSU":
        return BYTES
    name = _NAMES.get(array.dtype.newbyteorder("<"))
    if name is None:
        raise UnknownDatatype("array", f"dtype {array.dtype}: has no V2 datatype")
    return name
