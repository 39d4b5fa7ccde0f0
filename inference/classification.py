"""Triton's classification extension: instead of a tensor of scores, the highest of each row as texts. Pure.

An output that is asked for with the parameter `classification` comes as BYTES, `"score:index"` for each of so many
classes, the highest first, and `"score:index:label"` where the model's settings have labels. Used by
`inference/work.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from inference.errors import InvalidInput

PARAMETER: Final = "classification"


def asked(name: str, parameters: Mapping[str, Any]) -> int:
    """Give how many classes of an output are asked for; 0: its tensor.

    Raises:
        InvalidInput: no such number.
    """
    count = parameters.get(PARAMETER, 0)
    if isinstance(count, bool) or not isinstance(count, int) or count < 0:
        raise InvalidInput(f"output {name!r}: {PARAMETER}: expected a number of classes, got {count!r}")
    return count


def classified(name: str, scores: NDArray[Any], count: int, labels: Sequence[str] = ()) -> NDArray[Any]:
    """Give each row's highest scores with their indices, the lower index first where they are equal.

    An index that has a label comes with it.

    Raises:
        InvalidInput: the output holds no numbers.
    """
    if scores.dtype.kind not in "biuf" or not scores.ndim:
        raise InvalidInput(f"output {name!r}: {PARAMETER}: expected numbers, the model gives {scores.dtype}")
    rows = scores.reshape(len(scores), -1) if scores.size else scores.reshape(len(scores), 0)
    # What is no number is no high score.
    ranked = -rows.astype(np.float64)
    order = np.argsort(ranked, axis=1, kind="stable")[:, :count]
    texts = np.empty(order.shape, object)
    for at, index in np.ndenumerate(order):
        label = f":{labels[int(index)]}" if index < len(labels) else ""
        texts[at] = f"{float(rows[at[0], index]):f}:{index}{label}"
    return texts
