"""Provides the GNU OpenMP library to wheels that expect the system's: LightGBM's link to `libgomp.so.1` and bring none.

A bare Debian has none either, but other wheels bring theirs: torch under that very name, scikit-learn and XGBoost under
names of their own. One of those is loaded ahead, and the linker takes it. Next: `inference/runtimes/lightgbm.py`.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from inference.errors import ModelLoadFailed

NAME: Final = "libgomp.so.1"
# torch's first: were an older one loaded under this name, torch would get that one, and may need a newer.
_BROUGHT: Final = (f"torch/lib/{NAME}", "scikit_learn.libs/libgomp-*.so.1*", "xgboost_cpu.libs/libgomp-*.so.1*")


def provide() -> None:
    """Make `libgomp.so.1` loadable in this process.

    Raises:
        ModelLoadFailed: neither the system nor an installed wheel has one.
    """
    try:
        ctypes.CDLL(NAME)
    except OSError:
        load(find(sys.path))


def find(folders: Iterable[str]) -> Path:
    """Give the one that an installed wheel brings.

    Raises:
        ModelLoadFailed: none does.
    """
    searched = [Path(folder) for folder in folders]
    for pattern in _BROUGHT:
        for folder in searched:
            if found := sorted(folder.glob(pattern)):
                return found[0]
    raise ModelLoadFailed(f"LightGBM needs the system library {NAME}: apt-get install libgomp1")


def load(path: Path) -> None:
    """Load a library as `libgomp.so.1`, whatever its file is called."""
    own = path.name.encode()
    # The linker goes by the name inside the file, which a wheel's build tool changed together with the file's.
    content = path.read_bytes().replace(own + b"\0", NAME.encode().ljust(len(own), b"\0") + b"\0")
    file = os.memfd_create(NAME)
    try:
        with open(file, "wb", closefd=False) as copy:
            copy.write(content)
        ctypes.CDLL(f"/proc/self/fd/{file}", mode=ctypes.RTLD_GLOBAL)
    finally:
        os.close(file)
