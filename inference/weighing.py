"""What models weigh and how long they take to load: guessed before the first load, measured by it where it can be.

Used by `inference/stock.py`; who goes by these weights is decided in `inference/residency.py`.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from inference.entries import Copy
from inference.folders import Fingerprint, Loaded
from inference.residency import Measure

_FACTOR: Final = 2
_EACH: Final = 16 * 1024
"""What a model weighs before anything is known of it: its files twice, and what an empty one holds."""
_NOTICEABLE: Final = 4 * 1024 * 1024
"""Growth of the process by one load that is taken for the model's own weight."""

LOAD_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)


@dataclass(slots=True)
class Counts:
    """What the repository did so far."""

    loads: int = 0
    failures: int = 0
    evictions: int = 0
    seconds: float = 0.0
    """Spent on the loads that succeeded, together."""
    buckets: list[int] = field(default_factory=lambda: [0] * (len(LOAD_SECONDS) + 1))
    """Those loads by how long they took."""


def estimate(files: Fingerprint) -> int:
    """Guess what a model weighs that was never loaded."""
    return _EACH + _FACTOR * sum(size for _, size, _, _ in files)


class Scales:
    """Loads, and notes what came of it. Thread-safe."""

    def __init__(self, counts: Counts, measure: Measure) -> None:
        """Begin; `counts` is told how long loads take, `measure` gives the bytes that the process holds."""
        self._counts, self._measure = counts, measure
        self._lock = threading.Lock()
        self._begun = self._ended = 0
        self._kinds: set[type] = set()

    def load(self, copy: Copy, load: Callable[[], Loaded]) -> Loaded:
        """Have a version loaded by `load`. Raises whatever that does."""
        start, before = time.monotonic(), self._measure()
        with self._lock:
            self._begun += 1
            number, alone = self._begun, self._ended == self._begun - 1
        try:
            loaded = load()
        finally:
            with self._lock:
                self._ended += 1
                alone = alone and self._begun == number
        taken = time.monotonic() - start
        with self._lock:
            self._counts.seconds += taken
            self._counts.buckets[bisect_left(LOAD_SECONDS, taken)] += 1
        kind, grown = type(loaded.runtime), self._measure() - before
        # Small ones are lost in the noise, and the first of a kind brings its library along.
        if alone and kind in self._kinds and grown > _NOTICEABLE:
            copy.measured = grown
        self._kinds.add(kind)
        return loaded
