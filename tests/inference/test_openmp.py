"""LightGBM runs on a machine without libgomp, with one that another wheel brings."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from inference import openmp
from inference.errors import ModelLoadFailed

_TRAIN = """
import ctypes, os, sys
from pathlib import Path
import numpy as np
from inference import openmp

try:
    ctypes.CDLL(openmp.NAME, mode=os.RTLD_NOLOAD)
except OSError:
    print("absent")
openmp.load(Path(sys.argv[1]))
import lightgbm
rows = np.random.default_rng(0).normal(size=(200, 2))
parameters = {"objective": "binary", "num_threads": 2, "verbosity": -1}
booster = lightgbm.train(parameters, lightgbm.Dataset(rows, rows[:, 0] > 0), 3)
print("right" if ((booster.predict(rows) > 0.5) == (rows[:, 0] > 0)).mean() > 0.9 else "wrong")
maps = Path("/proc/self/maps").read_text()
print("own" if f"/memfd:{openmp.NAME}" in maps and f"/{openmp.NAME}\\n" not in maps else "system's")
"""


def wheels(package: str) -> Path:
    """Give the folder that a package is installed in."""
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parents[1]


@pytest.mark.parametrize(
    ("package", "pattern"),
    [("torch", "torch/lib/libgomp.so.1"), ("sklearn", "scikit_learn.libs/*gomp*"), ("xgboost", "xgboost*.libs/*gomp*")],
)
def test_lightgbm_runs_with_the_library_of_another_wheel(package: str, pattern: str) -> None:
    """Whichever wheel brings it, under whatever name: LightGBM trains with that one and never asks the system."""
    (path,) = wheels(package).glob(pattern)
    run = subprocess.run((sys.executable, "-c", _TRAIN, str(path)), capture_output=True, text=True, check=False)

    assert run.stdout.split() == ["absent", "right", "own"], run.stderr


def test_torch_s_library_comes_first() -> None:
    """What torch links against is taken where it is installed, so that torch later finds the one that it needs."""
    assert openmp.find([str(wheels("sklearn"))]) == wheels("torch") / "torch" / "lib" / "libgomp.so.1"


def test_without_any_library_the_package_to_install_is_named(tmp_path: Path) -> None:
    """A machine that has none gets the one command that helps."""
    with pytest.raises(ModelLoadFailed, match=r"libgomp\.so\.1: apt-get install libgomp1"):
        openmp.find([str(tmp_path)])
