"""A way out that is safe first and sent later: every exchange goes to the journal, and from there to the courier.

An exchange is settled as spooled once it is on disk; the broker's answers only move the journal's cursor. When the disk
fails, events take the courier's way directly until it works again: logging goes on, and no proxy ever notices.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from logger import letters as spool_records
from logger.courier import Courier
from logger.errors import SpoolInUse
from logger.spool.journal import Journal
from logger.tap import Letter
from logger.way import Fate, Origin, Settle, Spooled

log = logging.getLogger(__name__)

_TRY_AGAIN_S: Final = 5.0
_SLICE: Final = 64
_SLICES: Final = 4
_CHECKPOINT_S: Final = 0.5
_ROOM: Final = 4 << 20
"""Bytes that must be free on disk before more is taken: what one turn may bring."""


class SpoolWay:
    """Journal and courier of one sink. The shipper's thread alone calls it.

    Args:
        opened: opens the journal; may raise OSError or SpoolInUse, and is called again later then.
        courier: tries for ever; it settles what the journal holds.
        direct: what goes past a broken disk; it tries within bounds.
    """

    def __init__(
        self,
        opened: Callable[[], Journal],
        courier: Courier,
        direct: Courier,
        max_bytes: int,
        events_each: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = courier.name
        self._opened, self._courier, self._direct, self._max_bytes = opened, courier, direct, max_bytes
        self._each, self._clock = events_each, clock
        self._journal: Journal | None = None
        self._group: list[tuple[Sequence[Letter], Settle]] = []
        self._seen: dict[tuple[int, int], int] = {}
        self._try_at = self._read_at = self._checkpoint_at = 0.0
        """When the disk may be written, read, and tidied up. A disk that takes no more can still be emptied."""
        self._damaged = self._refused = self._unwanted = self._failures = 0
        self._recovered = self._waiting = 0
        self._ready()

    @property
    def spooled(self) -> Spooled:
        """See `Way`."""
        lost = self._refused + self._damaged
        return Spooled(self._journal is not None, self._recovered, self._waiting, lost, self._unwanted)

    def room(self) -> bool:
        """See `Way`."""
        journal = self._journal
        if journal is None or self._clock() < self._try_at:
            return self._direct.room()
        return journal.size + min(_ROOM, self._max_bytes // 4) < self._max_bytes

    def shed(self, most: int) -> None:
        """See `Way`: what is on disk takes no memory."""
        self._direct.shed(most)

    def take(self, origin: Origin, letters: Sequence[Letter], settle: Settle) -> None:
        """See `Way`."""
        if self._seen.get((origin.boot, origin.lane), 0) >= origin.position:
            # A predecessor died between writing it and saying so.
            _settle_all(settle, letters, Fate.SPOOLED)
        elif self._ready() and self._journal and self._journal.append(spool_records.encode(origin, letters)):
            self._group.append((letters, settle))
        else:
            self._direct.take(origin, letters, settle)

    def work(self, timeout_s: float) -> None:
        """See `Way`."""
        if self._ready():
            self._step(self._commit)
        now = self._clock()
        if now >= self._read_at and not self._step(self._pump):
            self._read_at = now + _TRY_AGAIN_S
        self._direct.work(0)
        self._courier.work(timeout_s)
        if now >= self._checkpoint_at:
            self._checkpoint_at = now + (_CHECKPOINT_S if self._step(self._checkpoint) else _TRY_AGAIN_S)

    def resting(self) -> bool:
        """See `Way`: what is on disk is safe, but a broker that takes it is given the time."""
        return not self._group and self._direct.resting() and not self._waiting

    def close(self) -> None:
        """See `Way`."""
        if self._ready():
            self._step(self._commit)
        self._step(self._checkpoint)
        self._direct.close()

    def gauges(self) -> Mapping[str, float]:
        """See `Way`."""
        journal = self._journal
        return {
            **self._courier.gauges(),
            "spool_bytes": journal.size if journal else 0,
            "spool_damaged": self._damaged,
            "spool_failures": self._failures,
            "spool_healthy": float(journal is not None and self._clock() >= self._try_at),
        }

    def _commit(self, journal: Journal) -> None:
        if self._group:
            journal.commit()
            group, self._group = self._group, []
            self._waiting += self._each * len(group)
            for letters, settle in group:
                _settle_all(settle, letters, Fate.SPOOLED)

    def _pump(self, journal: Journal) -> None:
        """Read what is next while the courier takes it, in slices: what comes in must not wait for all of it."""
        for _ in range(_SLICES):
            if not self._courier.room():
                return
            found = journal.read(_SLICE)
            self._note_damage(journal)
            for identity, record in found:
                self._send(journal, identity, record)
            if not found:
                return

    def _send(self, journal: Journal, identity: int, record: bytes) -> None:
        letters = spool_records.decode(record)
        left = [len(letters)]

        def settle(fate: Fate) -> None:
            self._refused += fate is Fate.REFUSED
            self._unwanted += fate is Fate.UNWANTED
            self._waiting -= 1
            left[0] -= 1
            if not left[0]:
                journal.acknowledge(identity)

        for letter in letters:
            self._courier.send(letter, settle)

    def _note_damage(self, journal: Journal) -> None:
        events = self._each * journal.damaged
        if events > self._damaged:
            log.error("%s: %d events on disk were damaged and are lost", self.name, events - self._damaged)
            self._waiting -= events - self._damaged
            self._damaged = events

    def _checkpoint(self, journal: Journal) -> None:
        journal.checkpoint()

    def _ready(self) -> bool:
        """Tell whether the disk is to be used now; open the journal if that is due."""
        if self._clock() < self._try_at:
            return False
        if self._journal is None:
            try:
                self._open(self._opened())
            except (OSError, SpoolInUse) as exc:
                self._failed(exc)
        return self._journal is not None

    def _open(self, journal: Journal) -> None:
        for record in journal.tail():
            found = spool_records.origin(record)
            place = (found.boot, found.lane)
            self._seen[place] = max(self._seen.get(place, 0), found.position)
        self._journal = journal
        self._recovered += self._each * journal.waiting
        self._waiting += self._each * journal.waiting
        if journal.waiting:
            log.info("%s: %d events were waiting on disk", self.name, self._each * journal.waiting)

    def _step(self, step: Callable[[Journal], None]) -> bool:
        """Do something with the disk, if it could ever be opened; tell whether it let us."""
        if self._journal is None:
            return True
        try:
            step(self._journal)
        except OSError as exc:
            self._failed(exc)
            return False
        return True

    def _failed(self, error: Exception) -> None:
        """Go on without the disk, and look at it again soon."""
        self._failures += 1
        self._try_at = self._clock() + _TRY_AGAIN_S
        log.error("%s: the spool failed, events go on without it: %s", self.name, error)
        group, self._group = self._group, []
        if self._journal is not None:
            self._journal.abandon()
        for letters, settle in group:
            for letter in letters:
                self._direct.send(letter, settle)


def _settle_all(settle: Settle, letters: Sequence[Letter], fate: Fate) -> None:
    for _ in letters:
        settle(fate)
