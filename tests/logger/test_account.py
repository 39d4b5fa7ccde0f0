"""The account: every event is in one place, whatever its way; what is not to be sent has a number of its own."""

from __future__ import annotations

from dataclasses import replace

import pytest

from logger import account
from logger.account import Account
from logger.compat import KServeTap
from logger.courier import Courier
from logger.lane import Lane
from logger.outbox import Outbox
from logger.settings import OutboxSettings, SpoolSettings, TapSettings
from logger.shipper import Shipper
from logger.spool.journal import Journal
from logger.spool.way import SpoolWay
from logger.tap import Tap
from logger.way import Way
from streams.errors import Refused
from streams.publishers.memory import MemoryLog, MemoryPublisher
from tests.logger.spool.crashing import CrashingDisk
from tests.logger.spool.test_way import Clock
from tests.logger.test_outbox import TOPIC, seen

STATUSES = [200, 404, 200, 500, 0, 201, 200]
UNWANTED = sum(status != 200 for status in STATUSES)
SETTINGS = OutboxSettings(retry_s=60.0, flush_s=0.5)


class Post:
    """A lane, and a shipper with these ways to one memory broker."""

    def __init__(self, *ways: str) -> None:
        self.log = MemoryLog({TOPIC: 1})
        self.brokers = [MemoryPublisher(self.log, 1_000) for _ in ways]
        self.lane, self._kinds = Lane(1 << 20), ways
        self.disk, self.clock = CrashingDisk(), Clock()
        self.outbox = Outbox(self.lane, SETTINGS, 2)
        self.shipper = self.new_shipper()

    def new_shipper(self) -> Shipper:
        """Start it anew, as after a kill -9."""
        tap: Tap = KServeTap(TapSettings())
        ways = [self._way(kind, broker) for kind, broker in zip(self._kinds, self.brokers, strict=True)]
        return Shipper([self.lane], tap, ways, SETTINGS, 1)

    def offer(self, *statuses: int) -> None:
        """Offer exchanges that ended so."""
        for number, status in enumerate(statuses):
            self.outbox.offer(replace(seen(f"c{number}"), status=status))

    def turns(self, count: int = 5) -> None:
        """Let the shipper work, far enough apart that each turn moves the cursor on disk."""
        for _ in range(count):
            self.clock.now += 1.0
            self.shipper.turn()

    def accounts(self) -> tuple[Account, ...]:
        """Give the accounts, the law checked."""
        found = account.read([self.lane], len(self._kinds), 2).ways
        assert all(one.balanced() for one in found), found
        return found

    def _way(self, kind: str, broker: MemoryPublisher) -> Way:
        direct = Courier(kind, broker, TOPIC, 60.0)
        if kind == "memory":
            return direct
        spool = SpoolSettings(sync=False)
        lasting = Courier(kind, broker, TOPIC, float("inf"))
        return SpoolWay(lambda: Journal(self.disk, spool), lasting, direct, spool.max_bytes, 2, self.clock)


@pytest.mark.parametrize("kind", ["memory", "spool"])
def test_what_is_not_to_be_sent_is_not_counted_as_sent(kind: str) -> None:
    """With KServe's own events: sent is what arrived, unwanted are the responses other than 200, dropped is nothing."""
    post = Post(kind)
    post.offer(*STATUSES)
    post.turns()
    (found,) = post.accounts()

    assert found.captured == 2 * len(STATUSES)
    assert (found.unwanted, found.dropped, found.in_flight) == (UNWANTED, {}, 0)
    assert found.delivered == len(post.log.records(TOPIC)) == found.captured - UNWANTED


def test_a_dead_shipper_forgets_nothing_of_the_disk() -> None:
    """What its predecessor lost or did not send from disk stays counted, and is not counted as sent."""
    post = Post("spool")
    post.brokers[0].fail = Refused("too large")
    post.offer(*STATUSES)
    post.turns()
    (before,) = post.accounts()
    post.brokers[0].fail = None
    post.shipper = post.new_shipper()
    post.turns()
    post.offer(200)
    post.turns()
    (after,) = post.accounts()

    lost = {"spool-lost": 2 * len(STATUSES) - UNWANTED}
    assert (before.delivered, before.unwanted, before.dropped) == (0, UNWANTED, lost)
    assert (after.delivered, after.unwanted, after.dropped) == (2, UNWANTED, lost)
    assert len(post.log.records(TOPIC)) == 2


def test_what_is_on_disk_and_in_memory_is_counted_once() -> None:
    """Of two sinks one has everything on disk, the other nothing yet: shared memory keeps it, and the law is exact."""
    post = Post("spool", "memory")
    for broker in post.brokers:
        broker.held = True
    post.offer(200, 200, 200)
    post.turns()
    spooled, waiting = post.accounts()
    for broker in post.brokers:
        broker.held = False
    post.turns(20)

    assert (spooled.in_flight, spooled.spooled, spooled.delivered) == (6, 0, 0)
    assert (waiting.in_flight, waiting.delivered) == (6, 0)
    assert [found.delivered for found in post.accounts()] == [6, 6]
