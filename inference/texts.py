"""V2's BYTES as a model takes them: as text, or as the bytes that were sent. Pure.

Transports hand over bytes, V1 hands over text; which of the two a model gets is said by its runtime (`takes_bytes`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference.errors import InvalidInput
from inference.runtime import Arrays


def fitted(inputs: Arrays, *, as_bytes: bool) -> Arrays:
    """Give the inputs with all of their texts as bytes, or all of their bytes as text. Numbers stay as they are.

    Raises:
        InvalidInput: text is wanted, and an element is no UTF-8.
    """
    objects = {name: array for name, array in inputs.items() if array.dtype == object}
    if not objects:
        return inputs
    if as_bytes:
        return {**inputs, **{name: encoded(array) for name, array in objects.items()}}
    return {**inputs, **{name: decoded(array, f"tensor {name!r}") for name, array in objects.items()}}


def decoded(array: NDArray[Any], where: str) -> NDArray[Any]:
    """Give an array of objects with its bytes as text.

    Raises:
        InvalidInput: an element is no UTF-8; the message has its index.
    """
    items = array.ravel().tolist()
    if bytes not in set(map(type, items)):
        return array
    try:
        return _shaped([item.decode() if isinstance(item, bytes) else item for item in items], array)
    except UnicodeDecodeError as exc:
        index = items.index(exc.object)
        raise InvalidInput(f"{where}: element {index}: expected UTF-8 text: {exc}") from exc


def encoded(array: NDArray[Any]) -> NDArray[Any]:
    """Give an array of objects with its texts as bytes."""
    items = array.ravel().tolist()
    if str not in set(map(type, items)):
        return array
    return _shaped([item.encode() if isinstance(item, str) else item for item in items], array)


def _shaped(items: list[Any], like: NDArray[Any]) -> NDArray[Any]:
    array = np.empty(len(items), object)
    array[:] = items
    return array.reshape(like.shape)
