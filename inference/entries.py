"""What is known of a model and of each of its versions, loaded or not. Kept by `inference/repository.py`."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final, Protocol

from inference.adjustments import NONE
from inference.folders import Fingerprint, Loaded
from inference.lease import Done, Lease
from inference.rollout import UNNUMBERED, Rollout, Routes
from inference.statistics import Record


class Source(Protocol):
    """Where a model comes from."""

    def versions(self) -> tuple[str, ...]:
        """List the versions; `UNNUMBERED` alone for a model that has none."""

    def rollout(self) -> Rollout | None:
        """Give the rollout, where there is one."""

    def load(self, version: str, seen: Fingerprint) -> Loaded:
        """Load one version, which looked like `seen` a moment ago."""

    def fingerprint(self, version: str) -> Fingerprint:
        """Describe what `load` would read."""


class Single:
    """A model without numbered versions that a function loads."""

    def __init__(self, load: Callable[[], Loaded]) -> None:
        self._load = load

    def versions(self) -> tuple[str, ...]:
        """Give the one that has no number."""
        return (UNNUMBERED,)

    def rollout(self) -> None:
        """Give none: there is one version."""

    def load(self, version: str, seen: Fingerprint) -> Loaded:
        """Call the function."""
        del version, seen
        return self._load()

    def fingerprint(self, version: str) -> Fingerprint:
        """Give nothing: what the function reads is not known."""
        del version
        return ()


_MADE_ONCE: Final = threading.Lock()


class Model:
    """One model. What lies in its folder is looked up on its first use: thousands are known by name only."""

    __slots__ = (
        "_changing", "adjustments", "awaited", "copies", "failures", "name", "reason", "retry_at", "routes", "seen",
        "source", "stopped", "unsettled",
    )  # fmt: skip

    def __init__(self, name: str, source: Source, *, stopped: bool) -> None:
        self.name, self.source = name, source
        self.routes: Routes | None = None
        self.copies: dict[str, Copy] = {}
        self._changing: threading.Lock | None = None
        self.awaited = False
        """A request waits for its folder to be looked into."""
        self.stopped = stopped
        """Not to be loaded by a request: not loaded yet, or unloaded by a call."""
        self.seen: Fingerprint = ()
        """How the folder looked when it was read."""
        self.unsettled: Fingerprint | None = None
        """How a changed folder looked at the last look."""
        self.adjustments = NONE
        """What the last call that had it loaded said of its settings."""
        self.failures, self.retry_at, self.reason = 0, 0.0, ""
        """Of reading the rollout, or of changing to what the folder holds now."""

    @property
    def changing(self) -> threading.Lock:
        """Held by who loads what its folder holds now: of two calls, the later one's settings are to hold."""
        with _MADE_ONCE:
            if self._changing is None:
                # Only now: thousands of models are known that no call ever has loaded.
                self._changing = threading.Lock()
            return self._changing


class Copy:
    """One version of a model, in memory or not. Changed under the repository's lock."""

    __slots__ = (
        "busy", "device", "devices", "failures", "fingerprint", "known", "lease", "measured", "model", "reason",
        "record", "retry_at", "version", "waiters",
    )  # fmt: skip

    def __init__(self, model: Model, version: str) -> None:
        self.model, self.version = model, version
        self.lease: Lease | None = None
        self.busy = False
        self.reason = ""
        self.waiters: list[Done] = []
        self.failures = 0
        self.retry_at = 0.0
        self.known = version
        """What it calls itself, where it has no number."""
        self.measured = self.device = 0
        """Bytes of memory, and of a GPU's; 0: not known yet, or none worth speaking of."""
        self.devices: tuple[str, ...] = ()
        """The GPUs whose memory it holds, as far as it says."""
        self.fingerprint: Fingerprint = ()
        self.record: Record | None = None
        """What it did; None: it was never loaded."""
