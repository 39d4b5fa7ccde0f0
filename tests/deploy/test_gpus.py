"""Which GPU each of several processes takes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from deploy.gpus import present, share, visible


@pytest.mark.parametrize(
    ("variable", "seen"),
    [
        (None, 8), ("", 0), ("2", 1), ("0,2, 5", 3), ("GPU-8f3e,GPU-17ac", 2), ("MIG-1a", 1), ("-1", 0), ("3,-1,4", 1),
        ("1,,2", 1),
    ],
)  # fmt: skip
def test_cuda_shows_what_its_variable_names(variable: str | None, seen: int) -> None:
    """All, where it is not set; else up to the first word that names none, by number or by name."""
    assert visible(variable, 8) == seen


def test_processes_share_the_gpus_out() -> None:
    """Each in turn takes the next one, and none has more than one process more than another."""
    taken = Counter(share(process, 3) for process in range(8))

    assert [share(process, 3) for process in range(4)] == [0, 1, 2, 0]
    assert sorted(taken.values()) == [2, 3, 3]
    assert share(5, 0) == 0


def test_a_machines_gpus_are_counted_by_their_files(tmp_path: Path) -> None:
    """Not what else belongs to the driver."""
    for name in ("nvidia0", "nvidia3", "nvidia12", "nvidiactl", "nvidia-uvm", "nvidia-caps", "null"):
        (tmp_path / name).touch()

    assert present(tmp_path) == 3
    assert present(tmp_path / "nowhere") == 0
