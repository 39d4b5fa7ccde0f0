"""What is inside a fitted scikit-learn estimator, and whether it only computes. Used by `runtimes/sklearn.py`.

Code that nobody here knows may read files or wait for a network, which an event loop must not.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any, Final

import numpy as np

_PLAIN: Final = frozenset({bool, bytes, complex, float, int, str, type(None), type(...), slice, range})
_LIBRARIES: Final = frozenset({"_loss", "builtins", "collections", "numpy", "pandas", "scipy", "sklearn"})
"""`_loss` is scikit-learn's, too: compiled modules of its may have forgotten their package."""
_CODE: Final = frozenset({"scipy", "sklearn"})
"""Libraries whose functions only compute. NumPy has some that read files; what computes there is mostly no function."""
_READ: Final = ("file", "filename")
"""What a text vectorizer's `input` may say: then it reads files that its caller names."""


def objects(value: Any) -> list[Any]:  # noqa: ANN401 - any estimator
    """Give an estimator and every object inside it, but for plain data and what merely holds others."""
    found: list[Any] = []
    seen: set[int] = set()
    left = [value]
    while left:
        each = left.pop()
        if type(each) in _PLAIN or id(each) in seen:
            continue
        seen.add(id(each))
        inside = _inside(each)
        left += inside
        if type(each) not in {dict, frozenset, list, MethodType, np.ndarray, partial, set, tuple}:
            found.append(each)
    return found


def only_compute(parts: Iterable[Any]) -> bool:
    """Say whether all parts of an estimator are the libraries' own, and none is a user's class or function."""
    return all(map(_known, parts))


def _inside(value: Any) -> Iterable[Any]:  # noqa: ANN401 - any object
    match value:
        case dict():
            return value.values()
        case list() | tuple() | set() | frozenset():
            return value
        case np.ndarray():
            return value.flat if value.dtype == object else ()
        case partial():
            return value.func, value.args, value.keywords
        case MethodType():
            return value.__func__, value.__self__
        case type() | FunctionType() | BuiltinFunctionType():
            return ()
    # What is neither an estimator nor a library's may hold anything, as far as the whole process.
    own = hasattr(value, "get_params") or _known(value)
    return getattr(value, "__dict__", {}).values() if own else ()


def _known(part: Any) -> bool:  # noqa: ANN401 - any object
    source = getattr(part, "input", None)
    if isinstance(part, ModuleType) or (isinstance(source, str) and source in _READ):
        return False
    module = getattr(part, "__module__", None) or type(part).__module__
    library = module.partition(".")[0]
    return library in (_CODE if isinstance(part, FunctionType | BuiltinFunctionType) else _LIBRARIES)
