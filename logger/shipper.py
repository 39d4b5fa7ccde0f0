"""The process beside the proxies that takes exchanges out of the lanes, makes events of them and sends them.

It is a process of its own so that a proxy's event loop never waits for the interpreter, and so that whatever goes wrong
here leaves the model's answers alone: when it dies, its successor reads again what was not settled, and equal ids tell.
`logger/outbox.py` → here → `logger/courier.py` → Kafka.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from logger.courier import Courier, Fate
from logger.lane import Lane
from logger.record import decode
from logger.ring import RingReader, Settled
from logger.settings import OutboxSettings
from logger.tap import Tap

log = logging.getLogger(__name__)

_SLICE: Final = 64
_IDLE_S: Final = 0.005
_MOST_PENDING: Final = 8_192
"""Letters in the Kafka client. The ring holds the others: there each exists once, and survives this process."""


@dataclass(slots=True)
class _Entry:
    """One exchange that is being sent: where it ends in the ring, and what became of its events so far."""

    position: int
    fates: list[Fate] = field(default_factory=list)


class _Intake:
    """The reading side of one lane, and the order in which its exchanges become settled."""

    def __init__(self, lane: Lane, events_each: int) -> None:
        self._reader = RingReader(lane.memory)
        settled = self._reader.settled()
        self._position, self._records, self._counts = settled.position, settled.records, list(settled.counts)
        self._open: deque[_Entry] = deque()
        self._each = events_each
        self._dirty = False

    def take(self, most: int) -> list[tuple[_Entry, bytes]]:
        found = [(_Entry(position), record) for position, record in self._reader.take(most)]
        self._open.extend(entry for entry, _ in found)
        return found

    def settle(self, entry: _Entry, fate: Fate) -> None:
        entry.fates.append(fate)
        self._dirty = True

    def settle_whole(self, entry: _Entry, fate: Fate) -> None:
        entry.fates = [fate] * self._each
        self._dirty = True

    def publish(self) -> None:
        """Release what is settled, in order: an exchange behind an open one stays, and is sent again after a crash.

        Counted is what is released, so nothing is counted again when it is sent again.
        """
        if not self._dirty:
            return
        self._dirty = False
        while self._open and len(self._open[0].fates) == self._each:
            entry = self._open.popleft()
            self._position = entry.position
            self._records += 1
            for fate in entry.fates:
                self._counts[fate] += 1
        self._reader.release(Settled(self._position, self._records, tuple(self._counts)))

    def busy(self) -> bool:
        return bool(self._open) or self._reader.behind()


class Shipper:
    """Sends what the lanes hold. `run` belongs to one thread."""

    def __init__(self, lanes: Sequence[Lane], tap: Tap, courier: Courier, settings: OutboxSettings) -> None:
        self._intakes = [_Intake(lane, tap.events_each) for lane in lanes]
        self._tap, self._courier, self._settings = tap, courier, settings

    def run(self, stopping: threading.Event) -> None:
        """Work until `stopping`; then send what is left within the deadline, and count what is not."""
        while not stopping.is_set():
            self.turn()
        deadline = time.monotonic() + self._settings.flush_s
        while any(intake.busy() for intake in self._intakes) and time.monotonic() < deadline:
            self.turn()
        self._give_up()

    def turn(self) -> None:
        """Take a slice of every lane, send it, and publish what is settled."""
        taken = 0
        for intake in self._intakes:
            if self._courier.pending() < _MOST_PENDING:
                for entry, record in intake.take(_SLICE):
                    taken += 1
                    self._send(intake, entry, record)
        self._courier.work(0 if taken else _IDLE_S)
        for intake in self._intakes:
            intake.publish()

    def _send(self, intake: _Intake, entry: _Entry, record: bytes) -> None:
        try:
            letters = self._tap.letters(decode(record), time.time_ns() // 1000)
        except Exception:
            # One exchange that cannot be read must not stop all others; it is counted, and the log says why.
            log.exception("an exchange could not be made into events")
            intake.settle_whole(entry, Fate.UNREADABLE)
            return
        for letter in letters:
            self._courier.send(letter, lambda fate: intake.settle(entry, fate))

    def _give_up(self) -> None:
        self._courier.give_up()
        for intake in self._intakes:
            while found := intake.take(_SLICE):
                for entry, _ in found:
                    intake.settle_whole(entry, Fate.SHUTDOWN)
            intake.publish()
