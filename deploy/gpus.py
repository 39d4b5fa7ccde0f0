"""Which of its GPUs a process takes where models name none: the processes of one predictor share them out.

Knows no CUDA: the libraries that do are imported only when a model needs them. Used by `deploy/commands/predictor.py`.
"""

from __future__ import annotations

import re
from itertools import takewhile
from pathlib import Path
from typing import Final

_DEVICE: Final = re.compile(r"nvidia\d+")


def share(process: int, count: int) -> int:
    """Give the number of the GPU that a process takes, of those that it sees; where it sees none, 0."""
    return process % count if count else 0


def visible(variable: str | None, present: int) -> int:
    """Count the GPUs that CUDA lets a process see.

    Args:
        variable: `CUDA_VISIBLE_DEVICES`; None: it is not set.
        present: how many the machine or the container has.
    """
    if variable is None:
        return present
    # CUDA reads it up to the first that is none.
    return sum(1 for _ in takewhile(_names_one, variable.split(",")))


def present(folder: Path = Path("/dev")) -> int:
    """Count the GPUs of NVIDIA's that the machine has files for, or the container, which has those of its own."""
    return sum(_DEVICE.fullmatch(path.name) is not None for path in folder.glob("nvidia*"))


def _names_one(word: str) -> bool:
    word = word.strip()
    return word != "" and not word.startswith("-")
