"""What the processes of one predictor were told last of each model, for one that is started again. Files, atomically.

Only what differs from what the command line and the folders say: a model that was unloaded, or loaded with settings.
They go with the predictor. Written and read by way of `inference/siblings.py`.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

log = logging.getLogger(__name__)

_ENDING: Final = ".told"


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """One model's last call."""

    model: str
    unloaded: bool
    """Otherwise it was loaded."""
    parameters: Mapping[str, Any]
    """Of the load."""


class Notes:
    """Those of one predictor, in a folder that all of its processes have."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def keep(self, note: Note) -> None:
        """Keep a model's last call in place of the one before. Never raises."""
        path = self._folder / (hashlib.sha256(note.model.encode()).hexdigest() + _ENDING)
        try:
            if note.unloaded or note.parameters:
                # Another process may write of the same model at the same time.
                draft = path.with_suffix(f".{os.getpid()}")
                said = {"model": note.model, "unloaded": note.unloaded, "parameters": dict(note.parameters)}
                draft.write_bytes(orjson.dumps(said))
                draft.replace(path)
            else:
                path.unlink(missing_ok=True)
        except OSError as exc:
            log.warning("model %s: a process that is started again will not know what was said: %s", note.model, exc)

    def all(self) -> list[Note]:
        """Give them."""
        found = []
        for path in self._folder.glob(f"*{_ENDING}"):
            # It may go at this moment.
            with contextlib.suppress(FileNotFoundError):
                try:
                    found.append(Note(**orjson.loads(path.read_bytes())))
                except (ValueError, TypeError) as exc:
                    # Without it the process serves what the folder says; by its error, it would serve nothing.
                    log.warning("%s: what was said of a model cannot be read: %s", path, exc)
        return found
