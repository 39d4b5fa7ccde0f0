"""Sending: every record answered, nothing sent twice while it may still arrive, refusals by themselves."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from streams.errors import Refused, Unavailable
from streams.publishers.memory import MemoryLog, MemoryPublisher
from streams.publishing import Sending, publish_all
from streams.stage import Done, Output


class Whole(MemoryPublisher):
    """A broker that refuses all that came in one request when one record of it is too large, as Kafka does."""

    def __init__(self, log: MemoryLog) -> None:
        super().__init__(log)
        self._request: list[tuple[Output, Done]] = []

    def send(self, output: Output, done: Done) -> None:
        """Keep for the next request."""
        self._request.append((output, done))

    def poll(self, timeout_s: float) -> None:
        """Write the request, or nothing of it."""
        request, self._request = self._request, []
        if any(len(output.value or b"") > 3 for output, _ in request):
            for _, done in request:
                done(Refused("the request is too large"))
            return
        for output, done in request:
            super().send(output, done)
        super().poll(timeout_s)


def outputs(*values: bytes, topic: str = "t") -> list[Output]:
    """Make outputs."""
    return [Output(topic, b"k", value) for value in values]


def values(log: MemoryLog) -> Sequence[bytes | None]:
    """Read the topic."""
    return [record.value for record in log.records("t")]


def test_only_what_is_refused_by_itself_is_refused() -> None:
    """The neighbours of a record that is too large arrive, once each and in order."""
    log = MemoryLog({"t": 1})
    refused = Sending(Whole(log), outputs(b"a", b"b", b"large", b"c")).wait(5.0)

    assert [item.output.value for item in refused] == [b"large"]
    assert values(log) == [b"a", b"b", b"c"]


def test_a_silent_broker_gets_no_copies() -> None:
    """A wait that ran out goes on where it was: nothing is sent a second time."""
    log = MemoryLog({"t": 1})
    publisher = MemoryPublisher(log)
    publisher.held = True
    sending = Sending(publisher, outputs(b"a", b"b"))
    for _ in range(3):
        with pytest.raises(Unavailable, match="2 of 2 records are not acknowledged yet"):
            sending.wait(0.0)
    publisher.held = False

    assert sending.wait(5.0) == ()
    assert values(log) == [b"a", b"b"]


def test_after_a_failure_everything_is_sent_again() -> None:
    """A gap would be a loss, a copy is recognisable."""
    log = MemoryLog({"t": 1})
    publisher = MemoryPublisher(log)
    publisher.fail = ConnectionError("away")
    sending = Sending(publisher, outputs(b"a", b"b"))
    with pytest.raises(Unavailable, match="away"):
        sending.wait(5.0)
    publisher.fail = None

    assert sending.wait(5.0) == ()
    assert values(log) == [b"a", b"b"]


def test_a_full_queue_is_waited_for() -> None:
    """More records than the client holds get through, in order."""
    log = MemoryLog({"t": 1})
    publish_all(MemoryPublisher(log, capacity=2), outputs(b"a", b"b", b"c", b"d", b"e"), 5.0)

    assert values(log) == [b"a", b"b", b"c", b"d", b"e"]


def test_publish_all_raises_what_is_refused_after_the_rest_arrived() -> None:
    """The caller hears of the first refusal, and everything else is written."""
    log = MemoryLog({"t": 1})
    with pytest.raises(Refused, match="unknown topic 'other'"):
        publish_all(MemoryPublisher(log), [*outputs(b"a"), *outputs(b"x", topic="other"), *outputs(b"b")], 5.0)

    assert values(log) == [b"a", b"b"]
