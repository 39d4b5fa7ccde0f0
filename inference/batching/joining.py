"""Joins the inputs of calls along their rows, and splits the outputs again. Values in, values out.

Calls can be joined when names, trailing shapes and dtypes agree. Next: `inference/batching/batcher.py`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Arrays: TypeAlias = Mapping[str, NDArray[Any]]
Shape: TypeAlias = tuple[tuple[str, np.dtype[Any], tuple[int, ...]], ...]
"""Name, dtype and trailing shape of every input, in the caller's order."""


class NotByRows(Exception):
    """An output has another first dimension than there were rows: nobody knows whose is whose."""


def rows_of(inputs: Arrays) -> int:
    """Count a call's rows; 0 when its inputs do not agree on them, or have none: such a call stays alone."""
    if len(inputs) == 1:
        (only,) = inputs.values()
        return len(only) if only.ndim else 0
    lengths = {len(array) if array.ndim else 0 for array in inputs.values()}
    return lengths.pop() if len(lengths) == 1 else 0


def shape_of(inputs: Arrays) -> Shape:
    """Give what must be equal for two calls to be joined."""
    return tuple([(name, array.dtype, array.shape[1:]) for name, array in inputs.items()])


def join(parts: Sequence[Arrays]) -> dict[str, NDArray[Any]]:
    """Put the rows of calls of one shape one after the other."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def split(outputs: Arrays, counts: Sequence[int]) -> list[dict[str, NDArray[Any]]]:
    """Give each call its rows back.

    Raises:
        NotByRows: an output whose first dimension is not the rows.
    """
    check_rows(outputs, sum(counts))
    bounds = list(pairwise(accumulate(counts, initial=0)))
    return [{name: array[start:end] for name, array in outputs.items()} for start, end in bounds]


def check_rows(outputs: Arrays, rows: int) -> None:
    """Refuse outputs whose first dimension is not the rows.

    Raises:
        NotByRows: at least one of them.
    """
    for name, array in outputs.items():
        if not array.ndim or len(array) != rows:
            raise NotByRows(f"output {name!r}: {list(array.shape)} for {rows} rows")


def padded_size(rows: int, sizes: Sequence[int]) -> int:
    """Give the smallest of the ascending sizes that holds the rows; the rows themselves when none does."""
    at = bisect_left(sizes, rows)
    return sizes[at] if at < len(sizes) else rows


def pad(inputs: Arrays, rows: int, size: int) -> dict[str, NDArray[Any]]:
    """Fill inputs up to a number of rows, with copies of the last: a row that the model takes for certain."""
    return {name: np.concatenate([array, np.repeat(array[-1:], size - rows, axis=0)]) for name, array in inputs.items()}


def cut(outputs: Arrays, rows: int) -> dict[str, NDArray[Any]]:
    """Drop what padding added."""
    return {name: array[:rows] for name, array in outputs.items()}
