"""Threads without work: how they sleep, and which of them is woken when.

Used by `inference/batching/batcher.py`, whose lock guards all of it but the sleep itself.
"""

from __future__ import annotations

import math
import threading
import time

from inference.batching.agenda import Agenda


class Sleeper:
    """A thread without work. Its lock is let go to wake it."""

    __slots__ = ("alarm", "lock")

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.lock.acquire()
        self.alarm = math.inf


class Sleepers:
    """Those that sleep, and the one that is being woken."""

    def __init__(self, lock: threading.Lock, agenda: Agenda) -> None:
        self._lock, self._agenda = lock, agenda
        self.idle: list[Sleeper] = []
        self.waking = 0
        self._alarm = math.inf
        """When the first of the sleepers looks up by itself."""

    def baton(self) -> Sleeper | None:
        """Give a thread to wake, if there is something for it and no other is on its way.

        One at a time: what comes in while it wakes up goes into its batch, and it passes the baton on if it must.
        """
        if self.waking or not self.idle:
            return None
        if any(self._agenda.runnable()) or self._agenda.due < self._alarm:
            self.waking += 1
            # The one that slept last: what it needs is still in the caches.
            return self.idle.pop()
        return None

    def lie_down(self, sleeper: Sleeper) -> None:
        """Make a thread one of those that can be woken; it then goes to `sleep`, without the lock."""
        self.idle.append(sleeper)
        sleeper.alarm = math.inf
        if self._agenda.due < self._alarm:
            sleeper.alarm = self._alarm = self._agenda.due

    def sleep(self, sleeper: Sleeper) -> bool:
        """Wait to be woken, or for the alarm; say whether another woke this thread."""
        timeout = -1 if sleeper.alarm == math.inf else max(0.0, sleeper.alarm - time.monotonic())
        woken = sleeper.lock.acquire(timeout=timeout)
        if sleeper.alarm == math.inf:
            return woken
        with self._lock:
            self._alarm = min((other.alarm for other in self.idle if other is not sleeper), default=math.inf)
            if not woken and sleeper in self.idle:
                self.idle.remove(sleeper)
                return False
        if not woken:
            # Chosen to be woken in the same moment.
            sleeper.lock.acquire()
        return True
