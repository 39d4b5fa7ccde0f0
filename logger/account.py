"""Where everything that was captured is: read from shared memory, one account for each way out.

Law, in events, for each way, exact at any time:
captured + recovered = delivered + in flight + spooled + unwanted + sum of dropped{reason}.
`captured`, the drops for want of room and `in flight` are the same for all ways. The counts of a lane change together
with the position up to which it is released, and those of the spool lie beside the first lane's, so a shipper that dies
leaves no gap. What it had sent from disk without yet noting so is sent again: of that alone, `lost` and `unwanted` may
count an event twice, at the cost of `delivered`.
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
_UNWANTED: Final = 12


def place(way: int, fate: Fate) -> int:
    """Give where a lane counts a fate of one way."""
    return way * _EACH + fate


def way_of(at: int) -> int:
    """Give the way whose fate is counted at a place."""
    return at // _EACH


def write_spooled(counts: list[int], way: int, before: Spooled, spooled: Spooled) -> None:
    """Note a way's disk beside the first lane's counts, where those of a shipper that died stand already."""
    if not spooled.opened:
        return
    at = way * _EACH + _SPOOL
    if not counts[way * _EACH + _OPENED]:
        counts[way * _EACH + _OPENED] = 1
        counts[at] = spooled.recovered
    counts[at + 1] = spooled.waiting
    counts[at + 2] += spooled.lost - before.lost
    counts[way * _EACH + _UNWANTED] += spooled.unwanted - before.unwanted


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """One way's account."""

    captured: int
    recovered: int
    delivered: int
    in_flight: int
    spooled: int
    unwanted: int
    """What KServe's agent would not send, with `--events kserve`."""
    dropped: Mapping[str, int]

    def balanced(self) -> bool:
        """Tell whether the law holds."""
        accounted = self.delivered + self.in_flight + self.spooled + self.unwanted + sum(self.dropped.values())
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
        # What is on disk while another way or an older exchange keeps it in shared memory is still in flight.
        spooled = min(spooled, recovered + fates[Fate.SPOOLED])
        # What went to disk and is not there any more was delivered, unless it was lost there or not to be sent.
        gone = recovered + fates[Fate.SPOOLED] - spooled
        lost = min(lost, gone)
        unwanted = min(settled[0].counts[way * _EACH + _UNWANTED], gone - lost)
        dropped = {
            "queue-full": full, "undelivered": fates[Fate.UNDELIVERED], "refused": fates[Fate.REFUSED],
            "sink-full": fates[Fate.SINK_FULL], "shutdown": fates[Fate.SHUTDOWN],
            "unreadable": fates[Fate.UNREADABLE], "spool-lost": lost,
        }  # fmt: skip
        accounts.append(
            Account(
                captured=captured, recovered=recovered, in_flight=waiting * events_each,
                delivered=fates[Fate.DELIVERED] + gone - lost - unwanted, spooled=spooled,
                unwanted=fates[Fate.UNWANTED] + unwanted,
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
