"""From the proxy's outbox through shared memory to the broker: the law is exact, whatever the broker does."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logger import account
from logger.account import Account
from logger.courier import Courier
from logger.lane import CAPTURED, STRIPPED, Lane
from logger.outbox import Outbox
from logger.record import decode, encode
from logger.ring import RingReader
from logger.settings import OutboxSettings, TapSettings
from logger.shipper import Shipper
from logger.tap import Body, Seen, Tap
from streams.bindings import from_kafka
from streams.errors import Refused, Unavailable
from streams.publishers.memory import MemoryLog, MemoryPublisher

TOPIC = "payloads"
LANE = 1 << 20


def seen(name: str = "c", size: int = 10) -> Seen:
    """Make an exchange with a request body of this size."""
    body = Body()
    body.add(b"x" * size, 1 << 20)
    return Seen(
        correlation=name, method="POST", path="/v1/models/m:predict", request_fields=[(b"content-type", b"a/b")],
        started_us=1_700_000_000_000_000, request=body, status=200,
    )  # fmt: skip


def read(lanes: list[Lane]) -> Account:
    """Give the account of the only way, the law checked."""
    found = account.read(lanes, 1, 2).ways[0]
    assert found.balanced(), found
    return found


def unread(lane: Lane) -> list[Seen]:
    """Give what lies in a lane."""
    return [decode(record) for _, record in RingReader(lane.memory).take(10_000)]


@given(st.lists(st.binary(max_size=40), max_size=4), st.lists(st.binary(max_size=40), max_size=4), st.integers(0, 60))
def test_an_exchange_comes_back_whole(request: list[bytes], response: list[bytes], cap: int) -> None:
    """A record in shared memory holds everything that the proxy saw, cut bodies with their true size."""
    exchange = seen()
    exchange.request, exchange.response, exchange.aborted = Body(), Body(), True
    exchange.response_fields = [(b"x", bytes(range(256)))]
    for part in request:
        exchange.request.add(part, cap)
    for part in response:
        exchange.response.add(part, cap)
    pieces, size = encode(exchange)
    back = decode(b"".join(pieces))

    assert size == sum(map(len, pieces))
    for was, now in ((exchange.request, back.request), (exchange.response, back.response)):
        assert (b"".join(was.chunks), was.kept, was.size) == (b"".join(now.chunks), now.kept, now.size)
    back.request, back.response = exchange.request, exchange.response
    assert back == exchange


def test_a_full_outbox_refuses_at_once() -> None:
    """A full outbox answers immediately instead of making the proxy wait."""
    lane = Lane(LANE)
    outbox = Outbox(lane, OutboxSettings(capacity=4), 2)
    accepted = [outbox.offer(seen()) for _ in range(5)]

    assert accepted == [True, True, False, False, False]
    assert read([lane]).dropped == {"queue-full": 6}
    assert read([lane]).in_flight == 4


def test_too_many_bytes_cost_the_body_not_the_event() -> None:
    """Near the byte cap an event is kept without content, and counted; beyond it, it is dropped and counted."""
    lane = Lane(LANE)
    outbox = Outbox(lane, OutboxSettings(), 2)
    size = LANE // 4
    accepted = [outbox.offer(seen(size=size)) for _ in range(6)]
    kept = unread(lane)

    assert accepted == [True] * 6
    assert [item.request.kept for item in kept] == [size] * 3 + [0] * 3
    assert kept[3].request.truncated
    assert lane.tally.get(STRIPPED) == 6
    while outbox.offer(seen()):
        pass
    assert lane.ring.used() <= LANE
    assert read([lane]).dropped == {"queue-full": 2}


class Mail:
    """A shipper over a memory broker."""

    def __init__(self, retry_s: float = 60.0, flush_s: float = 5.0, capacity: int = 100) -> None:
        self.log = MemoryLog({TOPIC: 2})
        self.publisher = MemoryPublisher(self.log, capacity)
        self.settings = OutboxSettings(retry_s=retry_s, flush_s=flush_s)
        self.lanes = [Lane(LANE), Lane(LANE)]
        self.outboxes = [Outbox(lane, self.settings, 2) for lane in self.lanes]
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self.shipper().run, args=(self.stopping,))

    def shipper(self) -> Shipper:
        """Make one; each begins where the last one released."""
        courier = Courier("kafka", self.publisher, TOPIC, self.settings.retry_s)
        return Shipper(self.lanes, Tap(TapSettings()), [courier], self.settings, 1)

    def offer(self, count: int) -> None:
        """Offer exchanges to the lanes in turn."""
        for at in range(count):
            self.outboxes[at % 2].offer(seen(f"c{at}"))

    def account(self) -> Account:
        """Give the counts, the law checked."""
        found = read(self.lanes)
        assert found.captured == sum(lane.tally.get(CAPTURED) for lane in self.lanes)
        return found

    def stop(self) -> Account:
        """Stop, and give the counts."""
        self.stopping.set()
        self.thread.join(30)
        return self.account()

    def ids(self) -> list[str]:
        """Give the ids of the events that arrived."""
        return [from_kafka(record.headers, record.value).id for record in self.log.records(TOPIC)]


def until(condition: Callable[[], bool]) -> None:
    """Wait for what has to come."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        threading.Event().wait(0.005)


def test_everything_arrives() -> None:
    """Each exchange becomes its two events, and stopping waits for them."""
    mail = Mail()
    mail.thread.start()
    mail.offer(50)
    totals = mail.stop()

    assert len(mail.ids()) == len(set(mail.ids())) == 100
    assert (totals.delivered, totals.dropped, totals.in_flight) == (100, {}, 0)


def test_a_broker_that_comes_back_gets_everything() -> None:
    """Failures that may pass are tried again, within bounds; the exchanges stay in the ring meanwhile."""
    mail = Mail()
    mail.publisher.fail = Unavailable("away")
    mail.thread.start()
    mail.offer(20)
    until(lambda: not any(RingReader(lane.memory).settled().records for lane in mail.lanes))
    waiting = mail.account().in_flight
    mail.publisher.fail = None
    totals = mail.stop()

    assert waiting == 40
    assert len(set(mail.ids())) == 40
    assert (totals.delivered, totals.captured) == (40, 40)


def test_a_small_client_queue_only_slows_down() -> None:
    """A client that can hold few records makes the shipper wait; nothing is lost."""
    mail = Mail(capacity=3)
    mail.thread.start()
    mail.offer(20)

    assert mail.stop().delivered == 40


@pytest.mark.parametrize(("error", "reason"), [(Refused("too large"), "refused"), (Unavailable("away"), "undelivered")])
def test_what_cannot_be_delivered_is_counted(error: Exception, reason: str) -> None:
    """Refused at once, or not delivered in time: dropped with its reason, and the law holds."""
    mail = Mail(retry_s=0.0)
    mail.publisher.fail = error
    mail.thread.start()
    mail.offer(5)
    until(lambda: mail.account().dropped.get(reason) == 10)
    totals = mail.stop()

    assert totals.in_flight == 0


def test_what_is_left_at_the_end_is_counted() -> None:
    """A silent broker cannot hold up a stop; what it never acknowledged is dropped by name."""
    mail = Mail(flush_s=0.1)
    mail.publisher.held = True
    mail.thread.start()
    mail.offer(5)
    totals = mail.stop()

    assert totals.dropped == {"shutdown": 10}
    assert totals.in_flight == 0


def test_sinks_do_not_wait_for_each_other() -> None:
    """One of two sinks is silent for good: the other has everything, and what the silent one lost is counted."""
    log = MemoryLog({"a": 1, "b": 1})
    sound, silent = MemoryPublisher(log), MemoryPublisher(log, 10**6)
    silent.held = True
    lane = Lane(LANE)
    settings = OutboxSettings(retry_s=1e9)
    ways = [Courier("a", sound, "a", 1e9), Courier("b", silent, "b", 1e9)]
    shipper = Shipper([lane], Tap(TapSettings()), ways, settings, 1)
    outbox = Outbox(lane, settings, 2)
    for number in range(12_000):
        assert outbox.offer(seen(f"c{number}", 200))
        if number % 100 == 0:
            shipper.turn()
    for _ in range(200):
        shipper.turn()
    first, second = account.read([lane], 2, 2).ways

    assert first.balanced()
    assert second.balanced()
    assert len({from_kafka(record.headers, record.value).id for record in log.records("a")}) == 24_000
    assert first.dropped == {}
    assert second.dropped["sink-full"] > 10_000
    assert lane.ring.used() < LANE


def test_large_bodies_wait_in_shared_memory() -> None:
    """A silent broker: what lies in the shipper is bounded in bytes, not only in number; the rest stays in the ring."""
    publisher = MemoryPublisher(MemoryLog({TOPIC: 1}), 10**6)
    publisher.held = True
    courier = Courier("kafka", publisher, TOPIC, 1e9, most_bytes=100_000)
    lane, settings = Lane(LANE), OutboxSettings()
    outbox, shipper = Outbox(lane, settings, 2), Shipper([lane], Tap(TapSettings()), [courier], settings, 1)
    for number in range(100):
        assert outbox.offer(seen(f"c{number}", 5_000))
        shipper.turn()

    assert not courier.room()
    assert publisher.flush(0) <= 2 * 21
    assert account.read([lane], 1, 2).ways[0].in_flight == 200


@given(st.lists(st.sampled_from(["offer", "turn", "hold", "answer", "die"]), max_size=40))
def test_the_law_holds_at_every_step_and_crash(steps: list[str]) -> None:
    """Offers, turns, silence and deaths in any order: the counts agree, and in the end every event has arrived."""
    mail = Mail()
    shipper, offered = mail.shipper(), 0
    for step in [*steps, "answer", "turn", "turn", "turn"]:
        if step == "offer":
            mail.outboxes[offered % 2].offer(seen(f"c{offered}"))
            offered += 1
        elif step == "turn":
            shipper.turn()
        elif step == "die":
            shipper = mail.shipper()
        else:
            mail.publisher.held = step == "hold"

        assert mail.account().delivered <= len(mail.ids())
    assert mail.account().delivered == 2 * offered
    assert len(set(mail.ids())) == 2 * offered
