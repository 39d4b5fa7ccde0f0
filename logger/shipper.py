"""The process beside the proxies that takes exchanges out of the lanes, makes events of them and sends them.

It is a process of its own so that a proxy's event loop never waits for the interpreter, and so that whatever goes wrong
here leaves the model's answers alone: when it dies, its successor reads again what was not settled, and equal ids tell.
`logger/outbox.py` → here → `logger/courier.py` or `logger/spool/way.py` → Kafka.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from logger.account import MOST_WAYS, place, way_of, write_spooled
from logger.lane import Lane
from logger.record import decode
from logger.ring import RingReader, Settled
from logger.settings import OutboxSettings
from logger.tap import Tap
from logger.way import Fate, Origin, Settle, Spooled, Way

log = logging.getLogger(__name__)

_SLICE: Final = 128
_IDLE_S: Final = 0.005
_GATHER_S: Final = 0.002
_SHED: Final = 512


@dataclass(slots=True)
class _Entry:
    """One exchange that is being sent: where it ends in the ring, and where what became of its events is counted."""

    position: int
    settled: list[int] = field(default_factory=list)


class _Intake:
    """The reading side of one lane, and the order in which its exchanges become settled."""

    def __init__(self, lane: Lane, number: int, events_each: int, ways: int) -> None:
        self._reader = RingReader(lane.memory)
        self.number = number
        settled = self._reader.settled()
        self._position, self._records, self.counts = settled.position, settled.records, list(settled.counts)
        self._open: deque[_Entry] = deque()
        self._each, self._ways = events_each, ways
        self._whole = events_each * ways
        self.dirty = False

    def take(self, most: int) -> list[tuple[_Entry, bytes]]:
        found = [(_Entry(position), record) for position, record in self._reader.take(most)]
        self._open.extend(entry for entry, _ in found)
        return found

    def settle(self, entry: _Entry, at: int) -> None:
        entry.settled.append(at)
        self.dirty = True

    def publish(self) -> None:
        """Release what is settled, in order: an exchange behind an open one stays, and is sent again after a crash.

        Counted is what is released, so nothing is counted again when it is sent again.
        """
        if not self.dirty:
            return
        self.dirty = False
        while self._open and len(self._open[0].settled) == self._whole:
            entry = self._open.popleft()
            self._position = entry.position
            self._records += 1
            for at in entry.settled:
                self.counts[at] += 1
        self._reader.release(Settled(self._position, self._records, tuple(self.counts)))

    def busy(self) -> bool:
        return bool(self._open) or self._reader.behind()

    def lagging(self) -> set[int]:
        """Give the ways that keep the oldest exchange, once half of the ring waits behind it."""
        if not self._open or self._reader.used() * 2 < self._reader.capacity:
            return set()
        settled = Counter(way_of(at) for at in self._open[0].settled)
        return {number for number in range(self._ways) if settled[number] < self._each}


class Shipper:
    """Sends what the lanes hold, by every way. `run` belongs to one thread.

    Args:
        boot: a number that no other run of the program has.
    """

    def __init__(
        self, lanes: Sequence[Lane], tap: Tap, ways: Sequence[Way], settings: OutboxSettings, boot: int
    ) -> None:
        if not 0 < len(ways) <= MOST_WAYS:
            raise ValueError(f"expected 1 to {MOST_WAYS} ways, got {len(ways)}")
        self._intakes = [_Intake(lane, number, tap.events_each, len(ways)) for number, lane in enumerate(lanes)]
        self._tap, self._ways, self._settings, self._boot = tap, ways, settings, boot
        self._spooled = [Spooled() for _ in ways]
        # What lay on disk before the first exchange, noted before there can be a death.
        self._publish()

    def run(self, stopping: threading.Event) -> None:
        """Work until `stopping`; then send what is left within the deadline, and count what is not."""
        while not stopping.is_set():
            self.turn()
        deadline = time.monotonic() + self._settings.flush_s
        while self._busy() and time.monotonic() < deadline:
            self.turn()
        self._give_up()

    def turn(self) -> None:
        """Take a slice of every lane, send it, and publish what is settled."""
        taken = 0
        for intake in self._intakes:
            if any(way.room() for way in self._ways):
                for entry, record in intake.take(_SLICE):
                    taken += 1
                    self._send(intake, entry, record)
        for way in self._ways:
            way.work(0 if taken else _IDLE_S / len(self._ways))
        if 0 < taken < _SLICE and not self._settings.hold_s:
            # Company for the next: a turn for each exchange costs more than the exchange. Audited answers wait for it.
            time.sleep(_GATHER_S)
        if len(self._ways) > 1:
            self._relieve()
        self._publish()

    def _send(self, intake: _Intake, entry: _Entry, record: bytes) -> None:
        try:
            letters = self._tap.letters(decode(record), time.time_ns() // 1000)
        except Exception:
            # One exchange that cannot be read must not stop all others; it is counted, and the log says why.
            log.exception("an exchange could not be made into events")
            self._settle_whole(intake, entry, Fate.UNREADABLE)
            return
        origin = Origin(self._boot, intake.number, entry.position)
        for number, way in enumerate(self._ways):
            settle = _settler(intake, entry, number)
            # A sink alone may let shared memory fill; several must not wait for the slowest.
            if len(self._ways) == 1 or way.room():
                way.take(origin, letters, settle)
            else:
                for letter in letters:
                    settle(Fate.SINK_FULL if letter.headers else Fate.UNWANTED)

    def _relieve(self) -> None:
        """Where shared memory fills up behind an exchange that one sink does not take, let that sink lose it."""
        for intake in self._intakes:
            for number in intake.lagging():
                self._ways[number].shed(_SHED)

    def _settle_whole(self, intake: _Intake, entry: _Entry, fate: Fate) -> None:
        for number in range(len(self._ways)):
            for _ in range(self._tap.events_each):
                intake.settle(entry, place(number, fate))

    def _publish(self) -> None:
        first = self._intakes[0]
        for number, way in enumerate(self._ways):
            spooled = way.spooled
            if spooled != self._spooled[number]:
                write_spooled(first.counts, number, self._spooled[number], spooled)
                self._spooled[number] = spooled
                first.dirty = True
        for intake in self._intakes:
            intake.publish()

    def _busy(self) -> bool:
        return any(intake.busy() for intake in self._intakes) or not all(way.resting() for way in self._ways)

    def _give_up(self) -> None:
        for way in self._ways:
            way.close()
        for intake in self._intakes:
            while found := intake.take(_SLICE):
                for entry, _ in found:
                    self._settle_whole(intake, entry, Fate.SHUTDOWN)
        self._publish()


def _settler(intake: _Intake, entry: _Entry, way: int) -> Settle:
    return lambda fate: intake.settle(entry, place(way, fate))
