"""Which lane is served next: the lanes with something to do, in turn, users' calls before those that yield.

Lanes whose batches wait for company come later. Not thread-safe: the batcher's lock guards it. Used by
`inference/batching/batcher.py`.
"""

from __future__ import annotations

import heapq
import math
from collections import deque

from inference.batching.call import Urgency
from inference.batching.lane import Lane


class Agenda:
    """What `threads` threads have before them; every so many turns one is of calls that yield."""

    __slots__ = ("_delayed", "_delays", "_every", "_ready", "_threads", "_turns", "yielding")

    def __init__(self, threads: int, every: int) -> None:
        self._threads, self._every = threads, every
        self._ready: tuple[deque[Lane], deque[Lane]] = (deque(), deque())
        self._delayed: list[tuple[float, int, Lane, Urgency]] = []
        self._delays = self._turns = 0
        self.yielding = 0
        """Batches that run and yield; counted by the batcher."""

    @property
    def due(self) -> float:
        """When the first of the batches that wait for company goes without it."""
        return self._delayed[0][0] if self._delayed else math.inf

    def next(self, now: float) -> tuple[Lane, Urgency] | None:
        """Take the next lane; it is to be put back if there is more."""
        if self._delayed:
            self._ripen(now)
        while (urgency := self._next_urgency()) is not None:
            lane = self._ready[urgency].popleft()
            lane.listed[urgency] = False
            # Else withdrawn meanwhile, or as many batches run as may: it comes back when one of them ends.
            if lane.waiting(urgency) and lane.open():
                return lane, urgency
        return None

    def quick(self, now: float) -> Lane | None:
        """Find the next lane of users' calls, the first of which an event loop may run; it stays where it is."""
        lanes = self._ready[Urgency.USER]
        return next((lane for lane in lanes if lane.quick(now) and lane.led_lightly() and lane.open()), None)

    def remove(self, lane: Lane) -> None:
        """Take out a lane that `quick` found; it is to be put back if there is more."""
        self._ready[Urgency.USER].remove(lane)
        lane.listed[Urgency.USER] = False

    def put(self, lane: Lane, urgency: Urgency) -> None:
        """Have a lane served, now or when it has waited for company long enough."""
        if lane.listed[urgency] or not lane.open() or not lane.waiting(urgency):
            return
        if not lane.wait_s or lane.full(urgency):
            lane.listed[urgency], lane.due[urgency] = True, math.inf
            self._ready[urgency].append(lane)
        elif lane.due[urgency] == math.inf:
            lane.due[urgency] = lane.since(urgency) + lane.wait_s
            self._delays += 1
            heapq.heappush(self._delayed, (lane.due[urgency], self._delays, lane, urgency))

    def _ripen(self, now: float) -> None:
        while self._delayed and self._delayed[0][0] <= now:
            due, _, lane, urgency = heapq.heappop(self._delayed)
            if lane.due[urgency] != due:
                # It went earlier, as a full batch.
                continue
            lane.due[urgency] = math.inf
            if lane.open() and lane.waiting(urgency) and not lane.listed[urgency]:
                lane.listed[urgency] = True
                self._ready[urgency].append(lane)

    def runnable(self) -> tuple[bool, bool]:
        """Say whether a thread could take something now: of users', and of what yields."""
        # One thread stays free of what yields, where there are several: it may take long.
        yielding = bool(self._ready[Urgency.YIELDING]) and self.yielding < max(1, self._threads - 1)
        return bool(self._ready[Urgency.USER]), yielding

    def _next_urgency(self) -> Urgency | None:
        users, yielding = self.runnable()
        if users and yielding:
            self._turns += 1
            return Urgency.USER if self._turns % self._every else Urgency.YIELDING
        return Urgency.USER if users else Urgency.YIELDING if yielding else None
