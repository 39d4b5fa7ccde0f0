"""Predicts with an XGBoost booster through the library's C interface, on a whole table at once.

The Python interface's own way to the same function takes much longer for a row: it looks at what kind of table it was
given and writes JSON anew each time, and has the library make a new holder for the table, which then reads the
container's CPU limit from files. Each thread has one holder here. Used by `inference/runtimes/xgboost.py`.
"""

from __future__ import annotations

import ctypes
import math
import threading
from functools import cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from inference.runtime import library

_SIZES: Final = ctypes.POINTER(ctypes.c_uint64)
_VALUES: Final = ctypes.POINTER(ctypes.c_float)
_VALUE, _MARGIN = (
    b'{"type": %d, "training": false, "iteration_begin": 0, "iteration_end": 0, "missing": NaN, "strict_shape": false, '
    b'"cache_id": 0}' % kind
    for kind in (0, 1)
)
# https://numpy.org/doc/stable/reference/arrays.interface.html, which is how the library wants to be told of tables.
_TABLE: Final = b'{"data": [%d, true], "shape": [%d, %d], "strides": null, "typestr": "%b", "version": 3}'


class DenseError(Exception):
    """What the library says went wrong."""


def predict(booster: Any, table: NDArray[Any], *, margin: bool = False) -> NDArray[Any]:  # noqa: ANN401 - of the library
    """Give the booster's values, or its margins; one entry for each row. Safe from several threads, as in Python.

    Raises:
        DenseError: the library refuses.
    """
    table = np.ascontiguousarray(table)
    told = _TABLE % (table.__array_interface__["data"][0], *table.shape, table.dtype.str.encode())
    shape, dimensions, values = _SIZES(), ctypes.c_uint64(), _VALUES()
    calls = _calls()
    if calls.XGBoosterPredictFromDense(
        booster.handle, told, _MARGIN if margin else _VALUE, _holder(calls),
        ctypes.byref(shape), ctypes.byref(dimensions), ctypes.byref(values),
    ):  # fmt: skip
        raise _error(calls)
    sizes = tuple(shape[: dimensions.value])
    # The memory is the library's, and holds the answer of this thread's next call then.
    found = np.empty(sizes, np.float32)
    ctypes.memmove(found.__array_interface__["data"][0], values, 4 * math.prod(sizes))
    return found


class _Holder:
    """What the library keeps a table in while it predicts: a proxy matrix. It ends with its thread."""

    def __init__(self, calls: ctypes.CDLL) -> None:
        self._calls = calls
        self.handle = ctypes.c_void_p()
        if calls.XGProxyDMatrixCreate(ctypes.byref(self.handle)):
            raise _error(calls)

    def __del__(self) -> None:
        if self.handle.value:
            self._calls.XGDMatrixFree(self.handle)


_threads = threading.local()


def _holder(calls: ctypes.CDLL) -> ctypes.c_void_p:
    try:
        handle: ctypes.c_void_p = _threads.holder.handle
    except AttributeError:
        _threads.holder = made = _Holder(calls)
        return made.handle
    return handle


def _error(calls: ctypes.CDLL) -> DenseError:
    return DenseError(calls.XGBGetLastError().decode(errors="replace").strip().partition("\n")[0])


@cache
def _calls() -> ctypes.CDLL:
    library("xgboost")
    calls = ctypes.CDLL(library("xgboost.libpath").find_lib_path()[0])
    calls.XGBGetLastError.restype = ctypes.c_char_p
    calls.XGProxyDMatrixCreate.argtypes = (ctypes.POINTER(ctypes.c_void_p),)
    calls.XGDMatrixFree.argtypes = (ctypes.c_void_p,)
    calls.XGBoosterPredictFromDense.argtypes = (
        ctypes.c_void_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p,
        ctypes.POINTER(_SIZES), _SIZES, ctypes.POINTER(_VALUES),
    )  # fmt: skip
    return calls
