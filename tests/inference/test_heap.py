"""What calls free stays for the next ones."""

from __future__ import annotations

import subprocess
import sys

import pytest

_SCRIPT = """
import resource
from inference.heap import keep_freed

keep_freed()

def faults():
    bodies = [bytes(80_000) for _ in range(40)]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        bodies.clear()
        bodies.extend(bytearray(80_000) for _ in range(40))
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(faults())
"""
_PAGES = 20 * 40 * 80_000 // 4_096


@pytest.mark.skipif(sys.platform != "linux", reason="it is glibc's heap")
def test_what_is_freed_is_used_again() -> None:
    """Bodies of some megabytes, freed and asked for again, are hardly ever the system's affair."""
    done = subprocess.run([sys.executable, "-c", _SCRIPT], capture_output=True, text=True, check=True)

    assert int(done.stdout) < _PAGES / 10
