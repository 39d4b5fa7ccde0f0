"""Compares a folder of models with those that are known: new ones come in, gone ones go. Thread-safe.

Used by `inference/repository.py`; what changes within a model's own folder is `inference/upkeep.py`'s affair.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from inference.entries import Model
from inference.folders import Fingerprint, ModelFolder, Shelf

log = logging.getLogger(__name__)


class Stocktaking:
    """What came from a shelf, and what is on its way there."""

    def __init__(
        self, shelf: Shelf | None, models: dict[str, Model], add: Callable[[str, ModelFolder], Model],
        drop: Callable[[Model], None],
    ) -> None:  # fmt: skip
        """Begin with an empty shelf.

        Args:
            shelf: None: there is none, and nothing ever comes.
            models: all that are known, by name; those of the shelf are added by `add`, and taken out here.
            add: makes a folder a model.
            drop: unloads a model that is gone.
        """
        self._shelf, self._models = shelf, models
        self._add, self._drop = add, drop
        self._shelved: set[str] = set()
        self._arriving: dict[str, Fingerprint] = {}

    def fill(self) -> None:
        """Take everything in that lies there."""
        for name in self._shelf.names() if self._shelf else ():
            self.take(name)

    def take(self, name: str) -> Model | None:
        """Take a model in; None where there is none of this name."""
        folder = self._shelf.folder(name) if self._shelf else None
        if folder is None:
            return None
        self._shelved.add(name)
        return self._add(name, folder)

    def look(self) -> None:
        """Take in what is new and looks the same as at the last look, so that nothing half-copied is loaded."""
        if self._shelf is None:
            return
        names = set(self._shelf.names())
        for name in self._shelved - names:
            self._shelved.discard(name)
            self._drop(self._models.pop(name))
            log.info("model %s is gone", name)
        for name in names - self._models.keys():
            folder = self._shelf.folder(name)
            looks = folder.whole() if folder else ()
            if looks and self._arriving.get(name) == looks:
                del self._arriving[name]
                self.take(name)
                log.info("model %s is new", name)
            else:
                self._arriving[name] = looks
