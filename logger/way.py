"""What the shipper needs of a way out: one for each sink, each with an outbox of its own.

`logger/courier.py` keeps what waits in memory, `logger/spool/way.py` on disk.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple, Protocol

from logger.tap import Letter


class Fate(IntEnum):
    """What became of an event, as far as the shared memory is concerned."""

    DELIVERED = 0
    UNDELIVERED = 1
    """Not delivered in time."""
    REFUSED = 2
    """The sink will never take it."""
    SHUTDOWN = 3
    """Not delivered before the end."""
    UNREADABLE = 4
    """Its exchange could not be read back; a fault of ours."""
    SPOOLED = 5
    """Safe on disk: the spool counts on."""
    SINK_FULL = 6
    """Its sink lags behind the others, which must not wait for it."""
    UNWANTED = 7
    """`logger.compat.NOTHING`: what KServe's agent would not send is not sent."""


Settle = Callable[[Fate], None]
"""Told once for each event of an exchange."""


class Origin(NamedTuple):
    """Where an exchange lies in shared memory: which run of the program, which lane, up to which position."""

    boot: int
    lane: int
    position: int


@dataclass(frozen=True, slots=True)
class Spooled:
    """What a way has on disk, in events."""

    opened: bool = False
    """Whether the disk has been read yet."""
    recovered: int = 0
    """Found there when it was first opened."""
    waiting: int = 0
    """There now."""
    lost: int = 0
    """Was there, and was refused by the sink or damaged."""
    unwanted: int = 0
    """Was there, and is not to be sent; see `Fate.UNWANTED`."""


class Way(Protocol):
    """One way out. The shipper's thread alone calls it."""

    name: str

    @property
    def spooled(self) -> Spooled:
        """Give what is on disk."""
        ...

    def room(self) -> bool:
        """Tell whether more may be taken; what is not taken waits in shared memory."""
        ...

    def take(self, origin: Origin, letters: Sequence[Letter], settle: Settle) -> None:
        """Take the events of one exchange; `settle` is called for each, from here or from a later call."""
        ...

    def work(self, timeout_s: float) -> None:
        """Run what is due, waiting at most this long."""
        ...

    def shed(self, most: int) -> None:
        """Give up the oldest events that wait in memory: other ways need the room."""
        ...

    def resting(self) -> bool:
        """Tell whether a stop need not wait for anything here."""
        ...

    def close(self) -> None:
        """Settle what is still open: this is the end."""
        ...

    def gauges(self) -> Mapping[str, float]:
        """Give levels and counts beyond the fates, by the last part of their metrics' names."""
        ...
