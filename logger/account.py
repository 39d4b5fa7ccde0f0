"""Where everything that was captured is: read from shared memory, one account for each way out.

Law, in events, for each way, exact at any time:
captured + recovered = delivered + in flight + spooled + sum of dropped{reason}.
`captured`, the drops for want of room and `in flight` are the same for all ways. The counts of a lane change together
with the position up to which it is released, and those of the spool lie beside the first lane's, so a shipper that dies
leaves no gap.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from logger.lane import CAPTURED, CONNECTIONS, HELD, LATE, QUEUE_FULL, RETRIED, STRIPPED, Lane
from logger.ring import COUNTS
from logger.way import Fate, Spooled

_EACH: Final = 16
MOST_WAYS: Final = COUNTS // _EACH
_SPOOL: Final = 8
_OPENED: Final = 11


def place(way: int, fate: Fate) -> int:
    """Give where a lane counts a fate of one way."""
    return way * _EACH + fate


def way_of(at: int) -> int:
    """Give the way whose fate is counted at a place."""
    return at // _EACH


def write_spooled(counts: list[int], way: int, spooled: Spooled) -> None:
    """Note a way's disk beside the first lane's counts."""
    if not spooled.opened:
        return
    at = way * _EACH + _SPOOL
    if not counts[way * _EACH + _OPENED]:
        counts[way * _EACH + _OPENED] = 1
        counts[at] = spooled.recovered
    counts[at + 1], counts[at + 2] = spooled.waiting, spooled.lost


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """One way's account."""

    captured: int
    recovered: int
    delivered: int
    in_flight: int
    spooled: int
    dropped: Mapping[str, int]

    def balanced(self) -> bool:
        """Tell whether the law holds."""
        accounted = self.delivered + self.in_flight + self.spooled + sum(self.dropped.values())
        return self.captured + self.recovered == accounted


@dataclass(frozen=True, slots=True, kw_only=True)
class Accounts:
    """All accounts, and what else the lanes count."""

    ways: tuple[Account, ...]
    waiting: int
    """Exchanges that wait in shared memory."""
    stripped: int
    connections: int
    held: int
    late: int
    retried: int


def read(lanes: Sequence[Lane], ways: int, events_each: int) -> Accounts:
    """Read the accounts."""
    settled = [lane.ring.settled() for lane in lanes]
    waiting = sum(lane.ring.written() - found.records for lane, found in zip(lanes, settled, strict=True))
    captured, full, stripped, connections, held, late, retried = (
        sum(lane.tally.get(what) for lane in lanes)
        for what in (CAPTURED, QUEUE_FULL, STRIPPED, CONNECTIONS, HELD, LATE, RETRIED)
    )
    counts = [sum(column) for column in zip(*(found.counts for found in settled), strict=True)]
    accounts = []
    for way in range(ways):
        fates = {fate: counts[place(way, fate)] for fate in Fate}
        recovered, spooled, lost = settled[0].counts[way * _EACH + _SPOOL :][:3]
        # What went to disk and is not there any more was delivered, unless it was lost there.
        from_spool = max(0, recovered + fates[Fate.SPOOLED] - spooled - lost)
        dropped = {
            "queue-full": full, "undelivered": fates[Fate.UNDELIVERED], "refused": fates[Fate.REFUSED],
            "sink-full": fates[Fate.SINK_FULL], "shutdown": fates[Fate.SHUTDOWN],
            "unreadable": fates[Fate.UNREADABLE], "spool-lost": lost,
        }  # fmt: skip
        accounts.append(
            Account(
                captured=captured, recovered=recovered, delivered=fates[Fate.DELIVERED] + from_spool,
                in_flight=waiting * events_each, spooled=spooled,
                dropped={reason: count for reason, count in dropped.items() if count},
            )
        )  # fmt: skip
    return Accounts(
        ways=tuple(accounts),
        waiting=waiting,
        stripped=stripped,
        connections=connections,
        held=held,
        late=late,
        retried=retried,
    )
