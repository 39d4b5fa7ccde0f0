"""Decides which loaded models stay in memory: the least recently used go first, within a bound on the whole process.

What a model weighs is an estimate; what the process holds is measured. So the estimates decide who goes, and the
measure decides how much the estimates may add up to. A GPU's memory has a bound and an order of its own, and there the
weights are exact. Thread-safe. Used by `inference/stock.py`.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from functools import cache, partial
from pathlib import Path
from typing import Final, Generic, TypeAlias, TypeVar

log = logging.getLogger(__name__)

K = TypeVar("K")

Measure: TypeAlias = Callable[[], int]
"""Gives the bytes of memory that the process holds now."""
Unload: TypeAlias = Callable[[], Future[None] | None]
"""Lets go of a model that gives no leases any more. Called once, with no lock held: it may take its time. Never raises.
Gives None when the model has gone; otherwise it was waited for long enough, and this is done when it has after all."""

_PAGE: Final = 4096
_CGROUPS: Final = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
_NO_LIMIT: Final = 1 << 60
MARGIN: Final = 0.03
"""Share of the bound that is kept free, so that a load that weighs more than was thought stays within it."""
_STEER_S: Final = 0.5
_GROWTH: Final = 1.01
_WAIT_S: Final = 0.25


def resident_bytes() -> int:
    """Measure the process's resident set; 0 where the system does not say."""
    # Asked several times for each load: a Path takes three times as long, and each step in between lets others have
    # Python's lock, for which a load then waits again.
    try:
        return int(os.pread(_statm(os.getpid()), 256, 0).split()[1]) * _PAGE
    except (OSError, IndexError, ValueError):
        return 0


@cache
def _statm(pid: int) -> int:
    """Open what the system says of this process; a fork's is another."""
    return os.open(f"/proc/{pid}/statm", os.O_RDONLY | os.O_CLOEXEC)


def container_limit() -> int:
    """Give the memory that the container may use; 0 where there is no limit, or none that can be seen."""
    for path in _CGROUPS:
        try:
            given = int(path.read_text())
        except (OSError, ValueError):
            continue
        # The first version of control groups says a huge number where there is no limit.
        return given if given < _NO_LIMIT else 0
    return 0


def give_back() -> None:
    """Hand freed memory back to the system, where the C library can."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


class Shortage:
    """Loads that wait until a model is no longer in use, whichever memory they lack."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        """One lock for all bounds: who makes room in one of them makes it in the others, too."""
        self.short = 0
        """How many wait; who ends a use looks here and calls `idle`."""

    def idle(self) -> None:
        """Wake them."""
        with self.changed:
            self.changed.notify_all()


class Residents(Generic[K]):
    """The models in memory, by when they were last used."""

    def __init__(
        self, limit: int, evict: Callable[[K], Unload | None], *,
        measure: Measure = resident_bytes, trim: Callable[[], None] = give_back,
        clock: Callable[[], float] = time.monotonic, shortage: Shortage | None = None,
    ) -> None:  # fmt: skip
        """Keep the process within `limit` bytes; 0 keeps everything.

        `evict` takes a model away from whoever comes next, and gives what unloads it; None: it is in use. It is called
        with our lock held, and must not wait.
        """
        self._limit = int(limit * (1 - MARGIN))
        self._evict, self._measure, self._trim, self._clock = evict, measure, trim, clock
        self._order: OrderedDict[K, int] = OrderedDict()
        self.shortage = shortage or Shortage()
        self._changed = self.shortage.changed
        self._total = 0
        self._coming = self._leaving = 0
        self._ceiling: int | None = None
        self._steered = 0.0
        self.evictions = 0

    @property
    def bounded(self) -> bool:
        """Tell whether there is a bound."""
        return self._limit > 0

    @property
    def total(self) -> int:
        """Give what the resident models weigh, by estimate."""
        return self._total

    def __len__(self) -> int:
        return len(self._order)

    def held(self) -> list[K]:
        """List the models. Takes no lock."""
        return list(self._order)

    def used(self, key: K) -> None:
        """Note a use. Called for every prediction: no lock."""
        if self._limit:
            with contextlib.suppress(KeyError):
                self._order.move_to_end(key)

    def reserve(self, weight: int, give_up: float) -> bool:
        """Make room for a model that is about to be loaded; False when there is none by `give_up`.

        Idle models go, the least recently used first; a model in use never does.
        """
        if not self._limit:
            return True
        while True:
            with self._changed:
                if self._fits(weight):
                    self._coming += weight
                    return True
                # What is on its way out may make room enough.
                unload = None if self._fits(weight - self._leaving) else self._evict_one()
                if unload is None and not self._wait(give_up):
                    return False
            if unload is not None:
                unload()

    def settle(self, key: K, reserved: int, weight: int) -> None:
        """Turn a reservation into a resident."""
        with self._changed:
            if self._limit:
                self._coming -= reserved
            self._total += weight - self._order.pop(key, 0)
            self._order[key] = weight
            self._changed.notify_all()

    def cancel(self, reserved: int) -> None:
        """Give a reservation up."""
        if self._limit:
            with self._changed:
                self._coming -= reserved
                self._changed.notify_all()

    def gone(self, key: K) -> None:
        """Forget a model that was unloaded."""
        with self._changed:
            self._total -= self._order.pop(key, 0)
            self._changed.notify_all()

    def leaving(self, key: K, unload: Unload) -> Unload:
        """Take out a model that goes for another memory's sake; what it weighs here counts until it is unloaded.

        Called with our lock held, by `evict`; gives what unloads it.
        """
        weight = self._order.pop(key, 0)
        return self._until_gone(unload, weight) if weight else unload

    def steer(self) -> None:
        """Compare the estimates with what the process really holds. Called after loads; acts a few times a second."""
        now = self._clock()
        if not self._limit or now - self._steered < _STEER_S:
            return
        with self._changed:
            if now - self._steered < _STEER_S:
                return
            self._steered = now
            over = self._measure() - self._limit
            if over <= 0:
                if self._ceiling is not None and -over > self._limit * MARGIN:
                    self._ceiling = int(self._ceiling * _GROWTH) + 1
                return
            # What is on its way out is measured yet.
            over -= self._leaving
            if over <= 0:
                return
            # What is freed may stay with the C library for a while, so the measure lags: a small step at a time.
            target = self._staying - max(1, min(over, self._staying // 20))
        self._shrink(target)

    @property
    def _staying(self) -> int:
        return self._total - self._leaving

    def _fits(self, weight: int) -> bool:
        wanted = self._total + self._coming + weight
        if self._ceiling is None:
            if self._measure() + self._coming + weight <= self._limit:
                return True
            self._ceiling = max(self._staying + self._coming, 1)
        # Less than one model would serve nobody: it is tried as long as the process has room by measure.
        alone = not self._order and not self._coming
        return wanted <= self._ceiling or (alone and self._measure() + weight <= self._limit)

    def _wait(self, give_up: float) -> bool:
        """Wait for a model that is no longer in use; False: there is none to wait for, or no time left."""
        left = give_up - self._clock()
        if left <= 0 or not (self._order or self._coming or self._leaving):
            return False
        self.shortage.short += 1
        try:
            self._changed.wait(min(left, _WAIT_S))
        finally:
            self.shortage.short -= 1
        return True

    def _evict_one(self) -> Unload | None:
        """Take away the model that was not used for longest; None: all are in use."""
        for _ in range(len(self._order)):
            # At once: uses are noted without the lock.
            unload = self._take_away(*self._order.popitem(last=False))
            if unload is not None:
                return unload
        return None

    def _take_away(self, key: K, weight: int) -> Unload | None:
        """Take away a model that was taken out of the order; back it goes when it is in use."""
        unload = self._evict(key)
        if unload is None:
            # In use, so it was used last.
            self._order[key] = weight
            return None
        self.evictions += 1
        return self._until_gone(unload, weight)

    def _until_gone(self, unload: Unload, weight: int) -> Unload:
        self._leaving += weight
        return partial(self._let_go, unload, weight)

    def _let_go(self, unload: Unload, weight: int) -> Future[None] | None:
        late = unload()
        with self._changed:
            self._leaving -= weight
            # Nobody is to wait for room that may never come: what is late counts with what stays.
            self._total -= weight if late is None else 0
            self._changed.notify_all()
        if late is not None:
            late.add_done_callback(lambda _over: self._gone_after_all(weight))
        return late

    def _gone_after_all(self, weight: int) -> None:
        with self._changed:
            self._total -= weight
            self._changed.notify_all()

    def _shrink(self, target: int) -> None:
        while True:
            with self._changed:
                unload = self._evict_one() if self._staying > target else None
                if unload is None:
                    self._ceiling = max(self._staying + self._coming, 1)
                    break
            unload()
        self._trim()
