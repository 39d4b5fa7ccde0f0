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
from inference.rollout import Choice
from inference.runtime import Runtime
from inference.settings import ModelSettings

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
    settings: ModelSettings = field(default_factory=ModelSettings)


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """One line of the repository's index; `reason` says why a model is not ready."""

    name: str
    version: str
    state: State
    reason: str


class Lease:
    """One loaded model and its uses in progress; it is unloaded after the last. Each lease given needs one `release`."""

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
    lease: Lease | None = None
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
                lease = Lease(entry.load())
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

    def choose(self, name: str, version: str | None = None, key: bytes = b"") -> Choice:
        """Decide which version answers a request, and which get a copy of it. Does no I/O, never waits.

        Args:
            name: of the model.
            version: what the caller asked for: a version or an alias; None lets the model's rollout decide.
            key: what a canary sticks to: the correlation id, or the header that the rollout names.

        Raises:
            ModelNotFound: no model of this name, or no such version.
        """
        del key
        self._entry(name)
        return Choice(version)

    def lease(self, name: str, version: str | None = None) -> Lease | None:
        """Hold a loaded model; None when it must be loaded first: then `lease_later`. Never waits.

        The caller releases the lease when its prediction has ended, and takes `lease.turn` around each prediction.

        Raises:
            ModelNotFound: no model of this name, or another version of it.
            ModelNotReady: not loaded, and not to be loaded by a request; or loading failed a moment ago.
        """
        entry = self._entry(name)
        while True:
            lease = entry.lease
            if lease is None:
                raise ModelNotReady(name)
            _of_version(name, lease.loaded, version)
            if lease.acquire():
                return lease

    def lease_later(self, name: str, version: str | None, done: Callable[[Lease | Exception], None]) -> None:
        """Load a model for a request, or join its load, and give the lease, or the reason why not, to `done`.

        `done` is called once, on a thread of the repository's (or at once, by this call), and must not wait. Whoever
        has lost interest meanwhile releases the lease all the same.
        """
        try:
            lease = self.lease(name, version)
        except InferenceError as exc:
            done(exc)
            return
        done(lease if lease is not None else ModelNotReady(name))

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
