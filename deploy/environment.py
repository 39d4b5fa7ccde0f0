"""The only place that reads the process's environment. Everything else gets settings as arguments."""

from __future__ import annotations

import os
from pathlib import Path

_environ = os.environ  # noqa: TID251 - this file is the one that may


def text(name: str, default: str = "") -> str:
    """Give a variable's text, or the default."""
    return _environ.get(name, default)


def home() -> Path:
    """Give the folder for what outlives a run (Kafka's jars and data, run files): SIDELIGHT_HOME or ~/.sidelight."""
    return Path(text("SIDELIGHT_HOME") or Path.home() / ".sidelight").absolute()


def inherited() -> dict[str, str]:
    """Give a copy of the whole environment, for a child process."""
    return dict(_environ)
