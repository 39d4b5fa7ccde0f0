"""XGBoost's C interface without its Python package, and a booster behind it.

The package imports pandas and scikit-learn where they are, for those who train: 130 MiB and two seconds that no
prediction needs. A custom class may import it all the same: both have one library then. Used by
`inference/runtimes/xgboost.py`; how trees are asked, in place, is in `inference/xgboost_dense.py`.
"""
# https://xgboost.readthedocs.io/en/stable/c.html

from __future__ import annotations

import ctypes
import importlib.util
import math
import os
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson
from numpy.typing import NDArray

from inference.runtime import library

SIZES: Final = ctypes.POINTER(ctypes.c_uint64)
VALUES: Final = ctypes.POINTER(ctypes.c_float)
_TEXTS: Final = ctypes.POINTER(ctypes.c_char_p)
_HANDLE: Final = ctypes.POINTER(ctypes.c_void_p)
_TEXT, _OBJECT = ctypes.c_char_p, ctypes.c_void_p

_TAKES: Final[dict[str, tuple[Any, ...]]] = {
    "XGBoosterCreate": (_HANDLE, ctypes.c_uint64, _HANDLE),
    "XGBoosterFree": (_OBJECT,),
    "XGBoosterSetParam": (_OBJECT, _TEXT, _TEXT),
    "XGBoosterLoadModel": (_OBJECT, _TEXT),
    "XGBoosterGetNumFeature": (_OBJECT, SIZES),
    "XGBoosterGetStrFeatureInfo": (_OBJECT, _TEXT, SIZES, ctypes.POINTER(_TEXTS)),
    "XGBoosterSaveJsonConfig": (_OBJECT, SIZES, _TEXTS),
    "XGBoosterPredictFromDense": (_OBJECT, _TEXT, _TEXT, _OBJECT, ctypes.POINTER(SIZES), SIZES, ctypes.POINTER(VALUES)),
    "XGBoosterPredictFromDMatrix": (_OBJECT, _OBJECT, _TEXT, ctypes.POINTER(SIZES), SIZES, ctypes.POINTER(VALUES)),
    "XGDMatrixCreateFromDense": (_TEXT, _TEXT, _HANDLE),
    "XGDMatrixFree": (_OBJECT,),
    "XGProxyDMatrixCreate": (_HANDLE,),
}
VALUE, MARGIN = (
    b'{"type": %d, "training": false, "iteration_begin": 0, "iteration_end": 0, "missing": NaN, "strict_shape": false, '
    b'"cache_id": 0}' % kind
    for kind in (0, 1)
)
# https://numpy.org/doc/stable/reference/arrays.interface.html, which is how the library wants to be told of tables.
_TABLE: Final = b'{"data": [%d, true], "shape": [%d, %d], "strides": null, "typestr": "%b", "version": 3}'


class XGBoostRefused(Exception):
    """What the library says went wrong."""


class Booster:
    """A booster that was read from a file; its predictions take one thread each."""

    __slots__ = ("handle",)

    def __init__(self, path: Path) -> None:
        """Read it.

        Raises:
            XGBoostRefused: it is none.
        """
        self.handle: int | None = None
        calls, made = library_calls(), ctypes.c_void_p()
        checked(calls.XGBoosterCreate(None, 0, ctypes.byref(made)))
        self.handle = made.value
        checked(calls.XGBoosterSetParam(self.handle, b"nthread", b"1"))
        checked(calls.XGBoosterLoadModel(self.handle, os.fsencode(path)))

    def __del__(self) -> None:
        if self.handle:
            library_calls().XGBoosterFree(self.handle)

    def num_features(self) -> int:
        """Give how many columns it takes."""
        count = ctypes.c_uint64()
        checked(library_calls().XGBoosterGetNumFeature(self.handle, ctypes.byref(count)))
        return count.value

    def feature_names(self) -> tuple[str, ...]:
        """Name them; nothing where the file does not."""
        count, names = ctypes.c_uint64(), _TEXTS()
        told = ctypes.byref(count), ctypes.byref(names)
        checked(library_calls().XGBoosterGetStrFeatureInfo(self.handle, b"feature_name", *told))
        return tuple((names[at] or b"").decode() for at in range(count.value))

    def kind(self) -> str:
        """Give the name of what it is made of: gbtree, dart or gblinear."""
        length, text = ctypes.c_uint64(), ctypes.c_char_p()
        checked(library_calls().XGBoosterSaveJsonConfig(self.handle, ctypes.byref(length), ctypes.byref(text)))
        return str(orjson.loads(text.value or b"")["learner"]["gradient_booster"]["name"])

    def predict(self, table: NDArray[Any], *, margin: bool = False) -> NDArray[Any]:
        """Predict on a copy of the table that the library makes: the way of those that are no trees.

        Raises:
            XGBoostRefused: the library does not take it.
        """
        table = np.ascontiguousarray(table)
        matrix = _Matrix(table)
        shape, dimensions, values = SIZES(), ctypes.c_uint64(), VALUES()
        checked(
            library_calls().XGBoosterPredictFromDMatrix(
                self.handle, matrix.handle, MARGIN if margin else VALUE,
                ctypes.byref(shape), ctypes.byref(dimensions), ctypes.byref(values),
            )
        )  # fmt: skip
        return copied(values, tuple(shape[: dimensions.value]))


class _Matrix:
    """The library's copy of a table."""

    def __init__(self, table: NDArray[Any]) -> None:
        self.handle = ctypes.c_void_p()
        settings = b'{"missing": NaN, "nthread": 1}'
        checked(library_calls().XGDMatrixCreateFromDense(described(table), settings, ctypes.byref(self.handle)))

    def __del__(self) -> None:
        if self.handle.value:
            library_calls().XGDMatrixFree(self.handle)


def described(table: NDArray[Any]) -> bytes:
    """Tell the library of a table in one piece, which has to be there as long as it is read."""
    return _TABLE % (table.__array_interface__["data"][0], *table.shape, table.dtype.str.encode())


def copied(values: Any, sizes: tuple[int, ...]) -> NDArray[Any]:  # noqa: ANN401 - a pointer
    """Take an answer, whose memory is the library's, and holds that of this thread's next call then."""
    found = np.empty(sizes, np.float32)
    ctypes.memmove(found.__array_interface__["data"][0], values, 4 * math.prod(sizes))
    return found


def checked(failed: int) -> None:
    """Look at what a call gave.

    Raises:
        XGBoostRefused: it failed, with the library's reason.
    """
    if failed:
        said = library_calls().XGBGetLastError().decode(errors="replace")
        raise XGBoostRefused(said.strip().partition("\n")[0])


@cache
def library_calls() -> ctypes.CDLL:
    """Load the library.

    Raises:
        MissingExtra: it is not installed.
    """
    calls = ctypes.CDLL(str(_path()))
    calls.XGBGetLastError.restype = ctypes.c_char_p
    for name, types in _TAKES.items():
        getattr(calls, name).argtypes = types
    return calls


def _path() -> Path | str:
    package = importlib.util.find_spec("xgboost")
    for folder in (package and package.submodule_search_locations) or ():
        if (path := Path(folder, "lib", "libxgboost.so")).exists():
            return path
    # It knows of further places, and its absence is told here.
    library("xgboost")
    return str(library("xgboost.libpath").find_lib_path()[0])
