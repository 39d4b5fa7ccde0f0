"""The spooled way: safe before sent, through broken disks, dead brokers, full folders and deaths; the law is exact."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logger import account
from logger.account import Account
from logger.courier import Courier
from logger.lane import Lane
from logger.letters import decode, encode, origin
from logger.outbox import Outbox
from logger.settings import OutboxSettings, SpoolSettings, TapSettings
from logger.shipper import Shipper
from logger.spool.disk import Folder
from logger.spool.journal import Journal
from logger.spool.way import SpoolWay
from logger.tap import Letter, Tap
from logger.way import Origin
from streams.bindings import from_kafka
from streams.errors import Refused, Unavailable
from streams.publishers.memory import MemoryLog, MemoryPublisher
from tests.logger.spool.crashing import CrashingDisk
from tests.logger.test_outbox import TOPIC, seen

SETTINGS = OutboxSettings(retry_s=0.0, flush_s=0.5)
SPOOL = SpoolSettings(segment_bytes=4_000, max_bytes=1 << 20)
WORDS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=20)


class Clock:
    """Moves only when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        """Give the time."""
        return self.now


class Post:
    """A lane, a spooled way over a crashing disk, and a memory broker."""

    def __init__(self, spool: SpoolSettings = SPOOL) -> None:
        self.log = MemoryLog({TOPIC: 2})
        self.publisher = MemoryPublisher(self.log)
        self.disk, self.spool, self.clock = CrashingDisk(), spool, Clock()
        self.boot = 0
        self.offered = 0
        self.begin()

    def begin(self) -> None:
        """Start the whole program anew: shared memory is gone, the disk is there."""
        self.lane = Lane(1 << 20)
        self.outbox = Outbox(self.lane, SETTINGS, 2)
        self.boot += 1
        self.shipper = self.new_shipper()

    def new_shipper(self) -> Shipper:
        """Start the shipper alone anew."""
        self.way = SpoolWay(
            lambda: Journal(self.disk, self.spool),
            Courier("kafka", self.publisher, TOPIC, float("inf"), clock=self.clock),
            Courier("kafka", self.publisher, TOPIC, 0.0, clock=self.clock), self.spool.max_bytes, 2, self.clock,
        )  # fmt: skip
        return Shipper([self.lane], Tap(TapSettings()), [self.way], SETTINGS, self.boot)

    def offer(self, count: int = 1) -> None:
        """Offer exchanges."""
        for _ in range(count):
            self.outbox.offer(seen(f"c{self.offered}"))
            self.offered += 1

    def turns(self, count: int = 5) -> None:
        """Let the shipper work."""
        for _ in range(count):
            self.clock.now += 1.0
            self.shipper.turn()

    def account(self) -> Account:
        """Give the account, the law checked."""
        found = account.read([self.lane], 1, 2).ways[0]
        assert found.balanced(), found
        return found

    def ids(self) -> list[str]:
        """Give the ids of the events that arrived."""
        return [from_kafka(record.headers, record.value).id for record in self.log.records(TOPIC)]


@given(
    st.builds(
        Origin, boot=st.integers(0, 2**64 - 1), lane=st.integers(0, 2**16 - 1), position=st.integers(0, 2**64 - 1)
    ),
    st.lists(
        st.builds(
            Letter,
            key=st.binary(max_size=30),
            value=st.binary(max_size=100),
            headers=st.lists(st.tuples(WORDS, WORDS.map(str.encode)), max_size=4).map(tuple),
        ),
        max_size=3,
    ),
)
def test_letters_come_back_from_their_bytes(place: Origin, letters: list[Letter]) -> None:
    """Whatever is in them; and where they came from."""
    record = encode(place, letters)

    assert decode(record) == letters
    assert origin(record) == place


@pytest.mark.parametrize("record", [b"", b"\x02" + bytes(30), encode(Origin(1, 2, 3), [Letter(b"k", b"v", ())])[:-1]])
def test_foreign_records_are_refused(record: bytes) -> None:
    """Nothing, another version, or half a record: an error that says so."""
    with pytest.raises(ValueError, match="spool record"):
        decode(record)


def test_what_is_spooled_outlives_everything() -> None:
    """The broker is away, the machine dies: the next program finds the events on disk and sends them, once each."""
    post = Post()
    post.publisher.held = True
    post.offer(30)
    post.turns()
    before = post.account()
    post.disk = post.disk.crash(lambda: False, lambda _most: 0)
    post.publisher = MemoryPublisher(post.log)
    post.begin()
    post.turns()
    after = post.account()

    assert (before.spooled, before.in_flight, before.delivered) == (60, 0, 0)
    assert (after.recovered, after.delivered, after.spooled) == (60, 60, 0)
    assert len(post.ids()) == len(set(post.ids())) == 60


def test_a_dead_shipper_spools_nothing_twice() -> None:
    """Its successor knows from the disk how far it had come in shared memory."""
    post = Post()
    post.publisher.held = True
    post.offer(10)
    # The moment between the disk and the shared memory, which no call from outside can stop at.
    for entry, record in post.shipper._intakes[0].take(10):
        post.shipper._send(post.shipper._intakes[0], entry, record)
    post.way._step(post.way._commit)
    post.shipper = post.new_shipper()
    post.publisher.held = False
    post.turns()

    assert post.account().delivered == 20
    assert len(post.ids()) == 20


def test_a_broken_disk_is_gone_around() -> None:
    """Events reach the broker directly, the failure is counted, and when the disk works again it is used again."""
    post = Post()
    post.offer(5)
    post.turns()
    post.disk.fail = 1_000
    post.offer(5)
    post.turns(3)
    broken = dict(post.way.gauges())
    post.disk.fail = 0
    post.clock.now += 60
    post.offer(5)
    post.turns()

    assert post.account().delivered == 30
    assert len(set(post.ids())) == 30
    assert broken["spool_healthy"] == 0
    assert post.way.gauges()["spool_healthy"] == 1
    assert post.way.gauges()["spool_failures"] >= 1


def test_a_disk_that_takes_nothing_is_emptied() -> None:
    """It cannot be written, and events keep coming: those that lie there are read and sent all the same."""
    post = Post()
    post.publisher.held = True
    post.offer(20)
    post.turns()
    on_disk = post.account().spooled
    post.disk.most = 0
    post.publisher.held = False
    # A shipper that has read nothing yet.
    post.shipper = post.new_shipper()
    for _ in range(20):
        post.offer(1)
        post.turns(1)
    emptied = post.account()
    post.disk.most = 1 << 20
    post.clock.now += 60
    post.offer(5)
    post.turns()

    assert on_disk == 40
    assert emptied.spooled == 0
    assert post.account().delivered == len(set(post.ids())) == 90
    assert post.way.gauges()["spool_healthy"] == 1


def test_without_broker_and_disk_memory_is_the_limit() -> None:
    """Neither takes anything: what the direct way has no room for waits in shared memory, where there is a cap."""
    post = Post()
    post.publisher.held = True
    post.disk.most = 0
    for _ in range(80):
        post.offer(64)
        post.clock.now += 0.01
        post.shipper.turn()

    assert not post.way.room()
    assert len(post.way._direct._unanswered) < 5_000
    assert post.account().in_flight == 2 * 80 * 64


def test_a_full_spool_leaves_events_in_memory() -> None:
    """The broker is away and the folder is full: what does not fit waits in shared memory, and all of it arrives."""
    post = Post(SpoolSettings(segment_bytes=4_000, max_bytes=40_000))
    post.publisher.held = True
    for _ in range(20):
        post.offer(10)
        post.turns(1)
    full = post.account()
    post.publisher.held = False
    post.turns(60)

    assert full.spooled > 0
    assert full.in_flight > 0
    assert post.way.gauges()["spool_bytes"] <= 40_000
    assert post.account().delivered == 400
    assert len(set(post.ids())) == 400


def test_what_the_broker_refuses_is_counted_and_let_go() -> None:
    """An event that no retry can deliver does not block the spool."""
    post = Post()
    post.publisher.fail = Refused("too large")
    post.offer(3)
    post.turns()
    post.publisher.fail = None
    post.offer(3)
    post.turns()

    assert post.account().dropped == {"spool-lost": 6}
    assert post.account().delivered == 6


def test_damage_is_counted() -> None:
    """A bit turns on the disk while the broker is away: the lost events have a number, all others arrive."""
    post = Post()
    post.publisher.held = True
    post.offer(10)
    post.turns()
    name = min(name for name in post.disk.names() if name.endswith(".log"))
    post.disk.damage(name, post.disk.size(name) // 2)
    post.publisher = MemoryPublisher(post.log)
    post.begin()
    post.turns()

    assert post.account().dropped == {"spool-lost": 2}
    assert post.account().delivered == 18


@given(
    st.lists(
        st.sampled_from(["offer", "turn", "hold", "answer", "away", "die", "restart", "break", "mend"]), max_size=40
    )
)
def test_the_law_holds_at_every_step(steps: list[str]) -> None:
    """Outages, broken disks and deaths in any order: the account balances, and in the end every event has arrived."""
    post = Post()
    lost_with_memory = 0
    for step in steps:
        if step == "offer":
            post.offer()
        elif step == "turn":
            post.turns(1)
        elif step == "away":
            post.publisher.fail = Unavailable("away")
        elif step == "die":
            post.shipper = post.new_shipper()
        elif step == "restart":
            # Only what had not been written is lost, and only because the whole program died.
            lost_with_memory += post.account().in_flight
            lost_with_memory += sum(post.account().dropped.values())
            post.begin()
        elif step in {"break", "mend"}:
            post.disk.fail = 10_000 if step == "break" else 0
        else:
            post.publisher.held, post.publisher.fail = step == "hold", None
        post.account()
    post.disk.fail, post.publisher.held, post.publisher.fail = 0, False, None
    post.turns(40)
    final = post.account()

    assert (final.in_flight, final.spooled) == (0, 0)
    assert len(set(post.ids())) + lost_with_memory + sum(final.dropped.values()) >= 2 * post.offered


def test_two_programs_cannot_share_a_spool(tmp_path: Path) -> None:
    """The second one goes on without a disk, says so, and takes it over once the first is gone."""
    log = MemoryLog({TOPIC: 1})
    clock = Clock()
    folders: list[Folder] = []

    def opened() -> Journal:
        folders.append(Folder(tmp_path / "spool"))
        return Journal(folders[-1], SPOOL)

    def way() -> SpoolWay:
        publisher = MemoryPublisher(log)
        lasting, direct = Courier("k", publisher, TOPIC, 0.0), Courier("k", publisher, TOPIC, 0.0)
        return SpoolWay(opened, lasting, direct, SPOOL.max_bytes, 2, clock)

    first, second = way(), way()
    refused = second.gauges()["spool_healthy"]
    folders[0].close()
    clock.now += 60
    second.work(0)

    assert (first.gauges()["spool_healthy"], refused) == (1, 0)
    assert second.gauges()["spool_healthy"] == 1
    for folder in folders:
        folder.close()


def test_the_real_thing(tmp_path: Path) -> None:
    """Threads, a real folder, a broker that comes and goes: everything arrives, and the folder is empty in the end."""
    log = MemoryLog({TOPIC: 2})
    publisher = MemoryPublisher(log)
    lane, folder = Lane(1 << 20), Folder(tmp_path)
    way = SpoolWay(
        lambda: Journal(folder, SpoolSettings()), Courier("k", publisher, TOPIC, float("inf")),
        Courier("k", publisher, TOPIC, 1.0), 1 << 30, 2,
    )  # fmt: skip
    shipper = Shipper([lane], Tap(TapSettings()), [way], OutboxSettings(), 1)
    stopping = threading.Event()
    thread = threading.Thread(target=shipper.run, args=(stopping,))
    thread.start()
    outbox = Outbox(lane, OutboxSettings(), 2)
    for number in range(300):
        publisher.fail = Unavailable("away") if number % 100 > 50 else None
        outbox.offer(seen(f"c{number}"))
        _until(lambda: account.read([lane], 1, 2).ways[0].in_flight == 0)
    publisher.fail = None
    stopping.set()
    thread.join(30)
    found = account.read([lane], 1, 2).ways[0]
    folder.close()

    assert (found.delivered, found.spooled, found.dropped) == (600, 0, {})
    assert len({from_kafka(record.headers, record.value).id for record in log.records(TOPIC)}) == 600


def _until(condition: Callable[[], bool]) -> None:
    for _ in range(12_000):
        if condition():
            return
        threading.Event().wait(0.005)
    raise AssertionError("it never came")
