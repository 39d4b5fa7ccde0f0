"""Predicts with an XGBoost booster through the library's C interface, on a whole table at once.

The Python interface's own way to the same function takes much longer for a row: it looks at what kind of table it was
given and writes JSON anew each time, and has the library make a new holder for the table, which then reads the
container's CPU limit from files. Each thread has one holder here. Used by `inference/runtimes/xgboost.py`.
"""

from __future__ import annotations

import ctypes
import threading
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from inference.xgboost_library import MARGIN, SIZES, VALUE, VALUES, checked, copied, described, library_calls


class Handled(Protocol):
    """A booster of ours, or of the library's Python package."""

    @property
    def handle(self) -> ctypes.c_void_p | int | None:
        """What the library knows it by."""


def predict(booster: Handled, table: NDArray[Any], *, margin: bool = False) -> NDArray[Any]:
    """Give the booster's values, or its margins; one entry for each row. Safe from several threads, as in Python.

    Raises:
        XGBoostRefused: the library does not take it.
    """
    table = np.ascontiguousarray(table)
    shape, dimensions, values = SIZES(), ctypes.c_uint64(), VALUES()
    checked(
        library_calls().XGBoosterPredictFromDense(
            booster.handle, described(table), MARGIN if margin else VALUE, _holder(),
            ctypes.byref(shape), ctypes.byref(dimensions), ctypes.byref(values),
        )
    )  # fmt: skip
    return copied(values, tuple(shape[: dimensions.value]))


class _Holder:
    """What the library keeps a table in while it predicts: a proxy matrix. It ends with its thread."""

    def __init__(self) -> None:
        self._calls = library_calls()
        self.handle = ctypes.c_void_p()
        checked(self._calls.XGProxyDMatrixCreate(ctypes.byref(self.handle)))

    def __del__(self) -> None:
        if self.handle.value:
            self._calls.XGDMatrixFree(self.handle)


_threads = threading.local()


def _holder() -> ctypes.c_void_p:
    try:
        handle: ctypes.c_void_p = _threads.holder.handle
    except AttributeError:
        _threads.holder = made = _Holder()
        return made.handle
    return handle
