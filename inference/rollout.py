"""Which version of a model answers a request: aliases, a canary's share, shadow copies. Pure.

Used by `inference/repository.py`, which knows the versions; `inference/dataplane.py` asks for every request.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Choice:
    """What becomes of one request."""

    version: str | None
    """The version that answers; None: the only one there is."""
    shadows: tuple[str, ...] = ()
    """Versions that get a copy of the request; their answers go nowhere."""
