"""Keeps the models by name: loads, reloads and unloads them while predictions go on. Thread-safe.

A reload serves the old model until the new one is ready; a model is unloaded when its last prediction has ended. One
load of a name runs at a time. Used by `inference/dataplane.py`.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from inference.errors import InferenceError, ModelNotFound, ModelNotReady
from inference.runtime import Runtime

log = logging.getLogger(__name__)


class State(StrEnum):
    """The states of the V2 repository extension."""

    LOADING = "LOADING"
    READY = "READY"
    UNAVAILABLE = "UNAVAILABLE"


@dataclass(frozen=True, slots=True)
class Loaded:
    """What loading a model gives."""

    runtime: Runtime
    version: str


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """One line of the repository's index; `reason` says why a model is not ready."""

    name: str
    version: str
    state: State
    reason: str


class _Lease:
    """Counts the predictions in progress on one loaded model and unloads it after the last."""

    def __init__(self, loaded: Loaded) -> None:
        self.loaded = loaded
        self.turn = contextlib.nullcontext() if loaded.runtime.thread_safe else threading.Lock()
        self._lock = threading.Lock()
        self._users = 0
        self._retired = False

    def acquire(self) -> bool:
        """Keep the model from being unloaded; False when it was replaced meanwhile."""
        with self._lock:
            if self._retired:
                return False
            self._users += 1
            return True

    def release(self) -> None:
        with self._lock:
            self._users -= 1
            last = self._retired and self._users == 0
        if last:
            self.loaded.runtime.unload()

    def retire(self) -> None:
        with self._lock:
            self._retired = True
            last = self._users == 0
        if last:
            self.loaded.runtime.unload()


@dataclass(slots=True)
class _Entry:
    load: Callable[[], Loaded]
    lock: threading.Lock = field(default_factory=threading.Lock)
    """Held while loading or unloading."""
    lease: _Lease | None = None
    state: State = State.UNAVAILABLE
    reason: str = "not loaded"
    version: str = ""


class Repository:
    """The models that this process may serve, fixed at start; which of them are loaded changes."""

    def __init__(self, loaders: Mapping[str, Callable[[], Loaded]]) -> None:
        self._entries = {name: _Entry(load) for name, load in loaders.items()}

    def names(self) -> list[str]:
        """List every model, loaded or not."""
        return list(self._entries)

    def loaded(self, name: str, version: str | None = None) -> Loaded:
        """Give a model to describe, not to predict with: it may be unloaded meanwhile.

        Raises:
            ModelNotFound: no model of this name, or another version of it.
            ModelNotReady: not loaded.
        """
        lease = self._entry(name).lease
        if lease is None:
            raise ModelNotReady(name)
        return _of_version(name, lease.loaded, version)

    def load(self, name: str) -> None:
        """Load a model, or load it anew. When that fails, a model that was ready goes on serving.

        Raises:
            ModelNotFound: no model of this name.
            ModelLoadFailed, MissingExtra: see `inference/directory.py`.
        """
        entry = self._entry(name)
        with entry.lock:
            if entry.lease is None:
                entry.state, entry.reason = State.LOADING, ""
            try:
                lease = _Lease(entry.load())
            except Exception as exc:
                entry.reason = f"{type(exc).__name__}: {exc}"
                entry.state = State.UNAVAILABLE if entry.lease is None else State.READY
                raise
            old, entry.lease = entry.lease, lease
            entry.state, entry.reason, entry.version = State.READY, "", lease.loaded.version
        if old is not None:
            old.retire()
        log.info("model %s version %s is ready", name, lease.loaded.version)

    def unload(self, name: str) -> None:
        """Unload a model; it stays in the index and may be loaded again.

        Raises:
            ModelNotFound: no model of this name.
        """
        entry = self._entry(name)
        with entry.lock:
            old, entry.lease = entry.lease, None
            entry.state, entry.reason = State.UNAVAILABLE, "unloaded"
        if old is not None:
            old.retire()
            log.info("model %s is unloaded", name)

    def close(self) -> None:
        """Unload everything."""
        for name in self._entries:
            with contextlib.suppress(InferenceError):
                self.unload(name)

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def index(self) -> list[IndexEntry]:
        """Describe every model."""
        return [IndexEntry(name, entry.version, entry.state, entry.reason) for name, entry in self._entries.items()]

    @contextlib.contextmanager
    def using(self, name: str, version: str | None = None) -> Iterator[Loaded]:
        """Hold a model for one prediction; waits for its turn when the model takes one thread at a time.

        Raises:
            ModelNotFound: no model of this name, or another version of it.
            ModelNotReady: not loaded.
        """
        entry = self._entry(name)
        while True:
            lease = entry.lease
            if lease is None:
                raise ModelNotReady(name)
            loaded = _of_version(name, lease.loaded, version)
            if lease.acquire():
                break
        try:
            with lease.turn:
                yield loaded
        finally:
            lease.release()

    def _entry(self, name: str) -> _Entry:
        try:
            return self._entries[name]
        except KeyError:
            raise ModelNotFound(name) from None


def _of_version(name: str, loaded: Loaded, version: str | None) -> Loaded:
    if version is not None and version != loaded.version:
        raise ModelNotFound(name, version)
    return loaded
