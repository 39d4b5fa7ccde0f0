"""Notices a partition that stands still: records lie in it, nothing is worked on, and nothing moves.

That is a fault, of the host or of Kafka's client, whose cause nobody knows when it happens: the log gets the state, the
probe says so, and whoever runs the process starts it anew. A broker that is away, a stage that waits and a batch that
takes long are none: without the broker's word that there is more, nobody is accused.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from streams.errors import Unavailable

log = logging.getLogger(__name__)

_LOOKS: Final = 4
"""How often it looks while a partition would come to stand still."""
_LEAST: Final = 3
"""How often it must have seen that at least. A process that was itself stopped, or asleep with its machine, finds much
time gone between two looks."""

Ends = Callable[[Sequence[int]], Mapping[int, int]]
"""Asks the broker for the offsets at which partitions end; raises `Unavailable`."""


class State(NamedTuple):
    """Where a partition is."""

    following: int
    """Offset up to which its records have been read."""
    queued: int
    """Records that have been read and wait."""
    position: int | None
    """Offset up to which they are done."""
    idle: bool
    """Whether nothing is worked on, and nothing waited for."""
    paused: bool


@dataclass(slots=True)
class _Mark:
    """What a partition looked like when it last moved."""

    state: State
    behind_since: float | None = None
    """Since when it is known to have something to do."""
    looks: int = 0
    """How often that was seen."""
    told: bool = False


class Watchdog:
    """Looks at the partitions of one host, from a thread of its own. Any thread may ask what it has found.

    Args:
        after_s: how long a partition may stand still.
        states: gives the assigned partitions.
        ends: see `Ends`.
    """

    def __init__(self, after_s: float, states: Callable[[], Mapping[int, State]], ends: Ends) -> None:
        self._after_s, self._states, self._ends = after_s, states, ends
        self._marks: dict[int, _Mark] = {}
        self.found = ""
        """Which partitions stand still; empty when none does."""

    def run(self, ended: threading.Event) -> None:
        """Look again and again."""
        while not ended.wait(self._after_s / _LOOKS):
            self.look(time.monotonic())

    def look(self, now: float) -> None:
        """Look once."""
        states = self._states()
        self._marks = {partition: self._mark(partition, state) for partition, state in states.items()}
        idle = {partition: mark for partition, mark in self._marks.items() if mark.state.idle}
        try:
            ends = self._ends(list(idle)) if idle else {}
        except Unavailable as exc:
            log.debug("ends of the partitions: %s", exc)
            ends = {}
        self.found = "; ".join(filter(None, (self._judged(place, idle[place], ends.get(place), now) for place in idle)))

    def _mark(self, partition: int, state: State) -> _Mark:
        mark = self._marks.get(partition)
        return mark if mark is not None and mark.state == state else _Mark(state)

    def _judged(self, partition: int, mark: _Mark, end: int | None, now: float) -> str:
        state = mark.state
        if not state.queued and (end is None or end <= state.following):
            mark.behind_since, mark.looks = None, 0
            return ""
        mark.looks += 1
        if mark.behind_since is None:
            mark.behind_since = now
        if now - mark.behind_since < self._after_s or mark.looks < _LEAST:
            return ""
        known = "unknown" if end is None else str(end)
        text = (
            f"partition {partition} stands still: its end is {known}, read up to {state.following}, done up to"
            f" {state.position}, {state.queued} wait, {'paused' if state.paused else 'not paused'}"
        )
        if not mark.told:
            mark.told = True
            log.error("%s; start this process anew", text)
        return text
