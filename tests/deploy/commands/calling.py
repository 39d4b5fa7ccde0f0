"""Calls `sidelight` as people do: in a process of its own, with a home of its own in which nothing runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from deploy import environment


class Sidelight:
    """The command."""

    def __init__(self, home: Path) -> None:
        self.environment = environment.inherited() | {"SIDELIGHT_HOME": str(home)}

    def command(self, *words: str) -> list[str]:
        """Give the command line."""
        return [sys.executable, "-m", "deploy.cli", *words]

    def __call__(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run to the end."""
        return subprocess.run(
            self.command(*words), env=self.environment, capture_output=True, text=True, timeout=60, check=False
        )

    def start(self, *words: str, together: bool = False) -> subprocess.Popen[str]:
        """Run on, with the outputs in pipes: two, or one for both."""
        return subprocess.Popen(
            self.command(*words), env=self.environment, stdout=subprocess.PIPE, text=True, bufsize=1,
            stderr=subprocess.STDOUT if together else subprocess.PIPE,
        )  # fmt: skip


def lines_of(run: subprocess.CompletedProcess[str]) -> list[str]:
    """Give the lines of a good run; only a line feed ends one."""
    assert run.returncode == 0, run.stderr
    return run.stdout.removesuffix("\n").split("\n") if run.stdout else []
