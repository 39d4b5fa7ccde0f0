"""Pairing: who belongs to whom, who comes again, who has waited too long, and how much may wait."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.errors import StreamError
from streams.events import REQUEST_TYPE, RESPONSE_TYPE, Event, Value, format_time
from streams.pairing import Exchange, Pairing
from streams.settings import PairingSettings
from streams.stage import Headers, Record
from tests.streams.payloads import START_US, event, record


def call(number: int, start_ms: int, latency_ms: int = 5) -> tuple[Event, Event]:
    """Make the events of one call under the correlation id that every one of these calls carries."""
    request = replace(event("same", "request", start_ms), id=f"q{number}")
    response = event("same", "response", start_ms + latency_ms, extensions={"latencyus": latency_ms * 1000})
    return request, replace(response, id=f"r{number}")


def agents(kind: str, identity: str = "one", source: str = "http://localhost:9081/", **extensions: Value) -> Event:
    """Make an event as KServe's agent does: one id for both, no correlation, no status, no path."""
    own: dict[str, Value] = {"inferenceservicename": "s", "namespace": "n", "component": "predictor", "endpoint": ""}
    return Event(
        id=identity, source=source, type=REQUEST_TYPE if kind == "request" else RESPONSE_TYPE,
        time=format_time(START_US), extensions=own | extensions, data=b"{}",
    )  # fmt: skip


def exchanges(pairing: Pairing, *messages: Event) -> list[Exchange]:
    """Feed events; give what was completed."""
    taken = [pairing.take(record(message, at)) for at, message in enumerate(messages)]
    return [item.exchange for item in taken if item.exchange is not None]


def names(found: list[Exchange]) -> list[tuple[str, str]]:
    """Give the ids of each pair."""
    return [(item.request.event.id, item.response.event.id) for item in found]


def test_a_correlation_id_may_serve_several_calls() -> None:
    """A client that sends one X-Request-Id with every call loses none of them as duplicates."""
    first, second = call(1, 0), call(2, 100)

    assert names(exchanges(Pairing(PairingSettings()), *first, *second)) == [("q1", "r1"), ("q2", "r2")]


@pytest.mark.parametrize("order", ["q1 q2 r1 r2", "q1 q2 r2 r1", "r2 q1 q2 r1", "q2 r1 r2 q1"])
def test_calls_under_one_correlation_id_find_their_own_answers(order: str) -> None:
    """However they are mixed, when they begin more than a second apart: a response tells its own request's start."""
    events = {message.id: message for message in (*call(1, 0), *call(2, 1_100))}
    found = exchanges(Pairing(PairingSettings()), *(events[name] for name in order.split()))

    assert sorted(names(found)) == [("q1", "r1"), ("q2", "r2")]


def test_the_nearest_start_wins() -> None:
    """Calls that begin within a second are told apart as long as both requests are there."""
    first, second = call(1, 0), call(2, 1)

    assert names(exchanges(Pairing(PairingSettings()), first[0], *second, first[1])) == [("q2", "r2"), ("q1", "r1")]


def test_a_lost_half_takes_no_stranger() -> None:
    """When an answer is lost, the next call's answer does not become it."""
    pairing = Pairing(PairingSettings())
    first, second = call(1, 0), call(2, 5_000)

    assert names(exchanges(pairing, first[0], *second)) == [("q2", "r2")]
    assert pairing.waiting() == 1


def test_an_agents_events_pair_by_id_alone() -> None:
    """One id, one source for every pod in the world: service and component keep them apart."""
    pairing = Pairing(PairingSettings())
    other = {"inferenceservicename": "t"}
    found = exchanges(
        pairing, agents("request"), agents("request", **other), agents("request", component="transformer"),
        agents("response", **other), agents("response"),
    )  # fmt: skip

    assert [item.request.event.text("inferenceservicename") for item in found] == ["t", "s"]
    assert pairing.waiting() == 1
    assert {item.status for item in found} == {200}


def test_a_repetition_is_known_by_source_id_and_type() -> None:
    """The same event again is a duplicate, waiting or done; an event of another source is not."""
    pairing = Pairing(PairingSettings())
    messages = [agents("request"), agents("request"), agents("response"), agents("request"), agents("response")]
    repeated = [pairing.take(record(message, at)).duplicate for at, message in enumerate(messages)]

    assert repeated == [False, True, False, True, True]
    assert not pairing.take(record(agents("request", source="/elsewhere"), 9)).duplicate


def test_repetitions_are_remembered_for_a_bounded_number_of_events() -> None:
    """Beyond `completed_memory` events the oldest are forgotten: bounded memory has a price, and this is it."""
    pairing = Pairing(PairingSettings(completed_memory=2))
    exchanges(pairing, agents("request", "a"), agents("response", "a"))
    assert pairing.take(record(agents("request", "a"), 2)).duplicate
    exchanges(pairing, agents("request", "b"), agents("response", "b"))

    assert not pairing.take(record(agents("request", "a"), 5)).duplicate


def test_an_exchange_longer_than_the_expiry_is_whole() -> None:
    """A response that comes before anything else has moved the time on is paired, however long the model took."""
    pairing = Pairing(PairingSettings(expiry_ms=1_000))
    slow = event("a", "response", 90_000)
    pairing.take(record(event("a", "request"), 0))

    # The broker's time of the request is not what decides: both lie in the log only when the call is over.
    taken = pairing.take(replace(record(slow, 1), timestamp_ms=START_US // 1000 + 90_000))
    assert taken.exchange is not None
    assert not taken.rejected


def test_events_without_time_follow_the_brokers() -> None:
    """CloudEvents' time is optional; the record's own stands in."""
    pairing = Pairing(PairingSettings())
    pairing.take(record(replace(event("a", "request"), time=None), 7))

    assert pairing.watermark_ms == START_US // 1000 + 7


@pytest.mark.parametrize(
    ("status", "expected"), [("", 200), ("201", 201), ("500", 500), ("0", 0), ("abc", 0), ("-1", 0), ("9" * 5_000, 0)]
)
def test_a_status_is_a_number_or_none(status: str, expected: int) -> None:
    """Absent is an agent's 200; nonsense is no success, and no crash."""
    found = exchanges(Pairing(PairingSettings()), agents("request"), agents("response", statuscode=status))

    assert [item.status for item in found] == [expected]


def test_headers_count_as_memory() -> None:
    """A flood of records with nothing but empty headers is bounded as any other."""
    pairing = Pairing(PairingSettings(max_pending_bytes=1_000_000))
    empty = tuple(("x", None) for _ in range(1_000))
    evicted = 0
    for number in range(100):
        plain = record(event(f"c{number}", "request"), number)
        taken = pairing.take(Record("p", 0, number, None, plain.value, plain.headers + empty, plain.timestamp_ms))
        evicted += len(taken.rejected)

    assert pairing.waiting() + evicted == 100
    assert 0 < pairing.waiting() < 16


def test_many_calls_under_one_id_cost_no_more_than_others() -> None:
    """A client whose correlation id never changes, and whose answers never come, is looked through to a limit."""
    pairing = Pairing(PairingSettings(max_pending=500))
    for number in range(2_000):
        pairing.take(record(call(number, number * 10_000)[0], number))
    taken = pairing.take(record(call(1_999, 1_999 * 10_000)[1], 2_000))

    assert taken.exchange is not None
    assert taken.exchange.request.event.id == "q1999"


def test_a_state_that_is_cut_or_too_long_is_refused() -> None:
    """Going on with half of what waited would lose the rest silently."""
    pairing = Pairing(PairingSettings())
    exchanges(pairing, agents("request", "a"), agents("response", "a"), agents("request", "b"))
    state = pairing.snapshot()

    for broken in (b"", state[:-1], state[: len(state) // 2], state + b"\x00"):
        with pytest.raises(StreamError):
            Pairing(PairingSettings()).restore(broken)


def test_restoring_replaces_what_was_there() -> None:
    """`restore` also undoes a failed batch: nothing of the failed one stays."""
    pairing = Pairing(PairingSettings())
    exchanges(pairing, agents("request", "a"))
    before = pairing.snapshot()
    exchanges(pairing, agents("request", "b"), agents("response", "a"))
    pairing.restore(before)

    assert pairing.snapshot() == before
    assert names(exchanges(pairing, agents("response", "a"))) == [("a", "a")]


@st.composite
def logs(draw: st.DrawFn) -> list[Record]:
    """Draw a log: few correlation ids for many calls, agents' events, repetitions, clock jumps, garbage, any order."""
    calls = st.tuples(st.integers(0, 5), st.sampled_from([0, 1, 900, 2_000, 10**9]), st.sampled_from([0, 1])).map(
        lambda drawn: call(drawn[0], drawn[1])[drawn[2]]
    )
    bare = st.builds(agents, st.sampled_from(["request", "response"]), st.sampled_from("ab"))
    strange: st.SearchStrategy[Event | tuple[Headers, bytes | None]] = st.sampled_from([
        replace(event("a", "request"), type="other"), ((("x", None),), None), ((), b"{"),
    ])  # fmt: skip
    items = draw(st.lists(st.one_of(calls, bare, strange), max_size=30))
    return [record(item, at) for at, item in enumerate(items)]


@given(logs(), st.sets(st.integers(0, 30)), st.integers(1, 6), st.integers(0, 30))
def test_a_restart_anywhere_changes_nothing(log: list[Record], restarts: set[int], most: int, idle_at: int) -> None:
    """Same pairs, same rejections, same state; every record is accounted for and the bounds hold after each."""
    settings = PairingSettings(expiry_ms=1_500, max_pending=most, max_pending_bytes=6_000, completed_memory=8)
    whole, parts = Pairing(settings), Pairing(settings)
    outcomes = Counter[str]()
    for at, item in enumerate(log):
        if at in restarts:
            restarted = Pairing(settings)
            restarted.restore(parts.snapshot())
            parts = restarted
        if at == idle_at:
            late = whole.watermark_ms + 1_000
            rejected = whole.advance_to(late)
            assert parts.advance_to(late) == rejected
            outcomes["rejected"] += len(rejected)
        taken = whole.take(item)
        assert parts.take(item) == taken
        outcomes["paired"] += 2 * (taken.exchange is not None)
        outcomes["rejected"] += len(taken.rejected)
        outcomes["duplicates"] += taken.duplicate

        assert outcomes.total() + whole.waiting() == at + 1
        assert whole.waiting() <= most
        assert whole._pending_bytes <= settings.max_pending_bytes
        assert sorted(whole._pending) == sorted(
            identity for kind in whole._sought.values() for own in kind.values() for identity in own
        )
    assert parts.snapshot() == whole.snapshot()
