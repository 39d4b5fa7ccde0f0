"""The outbox and the courier: the law is exact, whatever the broker does."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logger.courier import Courier
from logger.outbox import Outbox
from logger.settings import OutboxSettings, TapSettings
from logger.tap import Body, Seen
from streams.bindings import from_kafka
from streams.errors import Refused, Unavailable
from streams.publishers.memory import MemoryLog, MemoryPublisher

TOPIC = "payloads"


def seen(name: str = "c", size: int = 10) -> Seen:
    """Make an exchange with a request body of this size."""
    body = Body()
    body.add(b"x" * size, 1 << 20)
    return Seen(
        correlation=name, method="POST", path="/v1/models/m:predict", request_fields=[(b"content-type", b"a/b")],
        started_us=1_700_000_000_000_000, request=body, status=200,
    )  # fmt: skip


def lawful(outbox: Outbox) -> bool:
    """Tell whether captured = delivered + in flight + dropped, with what is in flight counted by itself."""
    waiting = (
        2 * outbox.depth()
        + outbox.taken
        - outbox.delivered
        - sum(count for reason, count in outbox.dropped().items() if reason != "queue-full")
    )
    return outbox.captured == outbox.delivered + waiting + sum(outbox.dropped().values())


@given(st.lists(st.sampled_from(["offer", "take", "deliver", "lose"]), max_size=60))
def test_the_law_holds_at_every_step(steps: list[str]) -> None:
    """Any sequence of offers, takes, deliveries and losses is accounted for, event by event."""
    outbox = Outbox(OutboxSettings(capacity=6), 2)
    open_events = 0
    for step in steps:
        if step == "offer":
            outbox.offer(seen())
        elif step == "take":
            open_events += 2 * len(outbox.take(2))
        elif open_events:
            open_events -= 1
            if step == "deliver":
                outbox.deliver(1, 5)
            else:
                outbox.lose("undelivered", 1, 5)

        assert lawful(outbox)
        assert outbox.in_flight() == 2 * outbox.depth() + open_events


def test_a_full_outbox_refuses_at_once() -> None:
    """A full outbox answers immediately instead of making the proxy wait."""
    outbox = Outbox(OutboxSettings(capacity=4), 2)
    accepted = [outbox.offer(seen()) for _ in range(5)]

    assert accepted == [True, True, False, False, False]
    assert outbox.dropped() == {"queue-full": 6}


def test_too_many_bytes_cost_the_body_not_the_event() -> None:
    """Beyond the byte cap an event is kept without content, and counted."""
    outbox = Outbox(OutboxSettings(max_bytes=1_000), 2)
    outbox.offer(seen(size=900))
    outbox.offer(seen(size=900))
    kept = outbox.take(2)

    assert [item.request.kept for item in kept] == [900, 0]
    assert kept[1].request.truncated
    assert outbox.stripped == 2
    assert outbox.waiting_bytes() <= 1_000


class Mail:
    """A courier over a memory broker."""

    def __init__(self, retry_s: float = 60.0, flush_s: float = 5.0, capacity: int = 100) -> None:
        self.log = MemoryLog({TOPIC: 2})
        self.publisher = MemoryPublisher(self.log, capacity)
        settings = OutboxSettings(retry_s=retry_s, flush_s=flush_s)
        self.outbox = Outbox(settings, 2)
        self.courier = Courier(self.outbox, self.publisher, TapSettings(), settings, TOPIC)
        self.courier.start()

    def offer(self, count: int) -> None:
        """Offer exchanges."""
        for at in range(count):
            self.outbox.offer(seen(f"c{at}"))


def until(condition: Callable[[], bool]) -> None:
    """Wait for what has to come."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        threading.Event().wait(0.005)


def test_everything_arrives() -> None:
    """Each exchange becomes its two events, and stopping waits for them."""
    mail = Mail()
    mail.offer(50)
    mail.courier.stop()
    ids = [from_kafka(record.headers, record.value).id for record in mail.log.records(TOPIC)]

    assert len(ids) == len(set(ids)) == 100
    assert mail.outbox.delivered == 100
    assert mail.outbox.dropped() == {}


def test_a_broker_that_comes_back_gets_everything() -> None:
    """Failures that may pass are tried again, in memory and within bounds."""
    mail = Mail()
    mail.publisher.fail = Unavailable("away")
    mail.offer(20)
    until(lambda: mail.outbox.taken > 0)
    mail.publisher.fail = None
    mail.courier.stop()

    assert len(mail.log.records(TOPIC)) == 40
    assert mail.outbox.delivered == mail.outbox.captured == 40


def test_a_small_client_queue_only_slows_down() -> None:
    """A client that can hold few records makes the courier wait; nothing is lost."""
    mail = Mail(capacity=3)
    mail.offer(20)
    mail.courier.stop()

    assert mail.outbox.delivered == 40


@pytest.mark.parametrize(("error", "reason"), [(Refused("too large"), "refused"), (Unavailable("away"), "undelivered")])
def test_what_cannot_be_delivered_is_counted(error: Exception, reason: str) -> None:
    """Refused at once, or not delivered in time: dropped with its reason, and the law holds."""
    mail = Mail(retry_s=0.0)
    mail.publisher.fail = error
    mail.offer(5)
    until(lambda: mail.outbox.dropped().get(reason) == 10)
    mail.courier.stop()

    assert mail.outbox.in_flight() == 0
    assert lawful(mail.outbox)


def test_what_is_left_at_the_end_is_counted() -> None:
    """A silent broker cannot hold up a stop; what it never acknowledged is dropped by name."""
    mail = Mail(flush_s=0.1)
    mail.publisher.held = True
    mail.offer(5)
    mail.courier.stop()

    assert mail.outbox.dropped() == {"shutdown": 10}
    assert mail.outbox.in_flight() == 0
