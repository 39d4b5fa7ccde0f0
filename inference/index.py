"""What the repository's index says of each model: which versions were asked for, and why one is not ready.

Used by `inference/repository.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from inference.entries import Copy, Model

_ON_DEMAND: Final = "not loaded; the next request loads it"


class State(StrEnum):
    """The states of the V2 repository extension."""

    LOADING = "LOADING"
    READY = "READY"
    UNAVAILABLE = "UNAVAILABLE"


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """One line of the repository's index; `reason` says why a model is not ready."""

    name: str
    version: str
    state: State
    reason: str


def lines(model: Model) -> Iterator[IndexEntry]:
    """Describe a model: a line for each version that was ever asked for, or one for all."""
    copies = list(model.copies.values())
    for copy in copies:
        yield _line(model, copy)
    if not copies and model.awaited:
        yield IndexEntry(model.name, "", State.LOADING, "")
    elif not copies:
        yield IndexEntry(model.name, "", State.UNAVAILABLE, _absent(model))


def _absent(model: Model) -> str:
    return model.reason or ("not loaded" if model.stopped else _ON_DEMAND)


def _line(model: Model, copy: Copy) -> IndexEntry:
    lease = copy.lease
    version = copy.known
    if lease is not None:
        return IndexEntry(model.name, version, State.READY, copy.reason or model.reason)
    if copy.busy:
        return IndexEntry(model.name, version, State.LOADING, "")
    return IndexEntry(model.name, version, State.UNAVAILABLE, copy.reason or _absent(model))
