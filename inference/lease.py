"""Holds one loaded model for the predictions that use it. Given by `inference/stock.py`, ended by who predicts."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Final, Protocol, TypeAlias

from inference.errors import ModelNotReady
from inference.farewell import Farewells
from inference.folders import Loaded
from inference.statistics import Record

_NO_TURN: Final = contextlib.nullcontext()


class Freed(Protocol):
    """Who waits for models that are no longer in use."""

    short: int

    def idle(self) -> None:
        """Take note that a model is."""


class Lease:
    """One loaded model and its uses in progress, unloaded after the last. Each `acquire` needs one `release`."""

    __slots__ = ("_farewells", "_freed", "_lock", "_model", "_retired", "_users", "loaded", "record", "turn")

    def __init__(self, model: str, loaded: Loaded, freed: Freed, record: Record, farewells: Farewells) -> None:
        self._model, self.loaded = model, loaded
        self.record = record
        """Of its version, loaded now or at other times."""
        self.turn = _NO_TURN if loaded.runtime.thread_safe else threading.Lock()
        """To be held around each prediction."""
        self._freed, self._farewells = freed, farewells
        self._lock = threading.Lock()
        self._users = 0
        self._retired = False

    def acquire(self, times: int = 1) -> bool:
        """Keep the model from being unloaded; False when it was replaced meanwhile."""
        with self._lock:
            if self._retired:
                return False
            self._users += times
            return True

    def release(self) -> None:
        """End one use."""
        with self._lock:
            self._users -= 1
            idle = self._users == 0
            last = idle and self._retired
        if last:
            self._farewells.soon(self._model, self.loaded.runtime)
        if idle and self._freed.short:
            self._freed.idle()

    def retire(self) -> None:
        """Unload the model when its last use has ended; now, if none is in progress."""
        with self._lock:
            self._retired = True
            last = self._users == 0
        if last:
            self.unload()

    def retire_if_idle(self) -> bool:
        """Give no more leases unless there are some; the caller unloads the model then, with `unload`."""
        with self._lock:
            if self._users or self._retired:
                return False
            self._retired = True
        return True

    def unload(self) -> Future[None] | None:
        """Have the model let go of what it holds; see `Farewells.unload`."""
        return self._farewells.unload(self._model, self.loaded.runtime)


Done: TypeAlias = Callable[[Lease | Exception], None]


class Wait:
    """Turns `done` into a call that waits; who gives up in time releases what comes too late."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._settled = threading.Event()
        self._outcome: Lease | Exception | None = None
        self._given_up = False

    def done(self, outcome: Lease | Exception) -> None:
        """Take the outcome."""
        with self._lock:
            late = self._given_up
            self._outcome = outcome
            self._settled.set()
        if late and isinstance(outcome, Lease):
            outcome.release()

    def result(self, name: str, seconds: float) -> Lease:
        """Wait for the outcome.

        Raises:
            ModelNotReady: none in time; or whatever the outcome is.
        """
        self._settled.wait(seconds)
        with self._lock:
            outcome = self._outcome
            self._given_up = outcome is None
        if isinstance(outcome, Lease):
            return outcome
        raise outcome or ModelNotReady(name, f"not loaded within {seconds:g} s")
