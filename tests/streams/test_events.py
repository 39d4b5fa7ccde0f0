"""The envelope: extensions read safely, times exactly, ids the same for ever."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.events import (
    CORRELATION_ID,
    NAMESPACE,
    SERVICE,
    Event,
    Value,
    canonical,
    format_time,
    parse_time,
    stable_id,
)


def event(**extensions: Value) -> Event:
    """Make an event with these extensions."""
    return Event(id="own", source="/s", type="t", extensions=extensions)


def test_extensions_read_as_text_whatever_they_were() -> None:
    """Kafka's headers are text, JSON has types: both read the same, in CloudEvents' own spelling."""
    found = event(flag=True, other=False, count=-3, text="x")

    assert [found.text(name) for name in ("flag", "other", "count", "text", "missing")] == [
        "true",
        "false",
        "-3",
        "x",
        "",
    ]
    assert [canonical(value) for value in (True, 7, "7")] == ["true", "7", "7"]


@given(st.integers(0, 10**18 - 1))
def test_numbers_come_back(value: int) -> None:
    """As numbers and as text."""
    assert event(n=value).number("n") == event(n=str(value)).number("n") == value


@pytest.mark.parametrize(
    "value",
    ["", "-1", "+1", "1.0", "1e3", " 1", "1 ", "1_000", "0x1", "\u0661", "\u00b2", "1" * 19, "9" * 5_000, True, -1],
)
def test_what_is_no_number_is_none(value: Value) -> None:
    """Headers are whatever a stranger sends: never an exception, and never more than 64 bits hold."""
    assert event(n=value).number("n") is None
    assert event().number("n") is None


def test_request_and_response_share_a_correlation() -> None:
    """Ours by the extension; an unmodified agent's by the id, which it gives to both."""
    assert event(**{CORRELATION_ID: "c"}).correlation() == "c"
    assert event(**{CORRELATION_ID: ""}).correlation() == event().correlation() == "own"


def test_a_service_is_its_namespace_and_name() -> None:
    """The key of the observations topic; parts that are missing stay empty, so two services are never one."""
    assert event(**{NAMESPACE: "a", SERVICE: "b"}).service() == "a/b"
    assert event(**{SERVICE: "b"}).service() == "/b"


def test_events_do_not_change() -> None:
    """They are handed from thread to thread."""
    with pytest.raises(AttributeError):
        event().id = "x"  # type: ignore[misc] # that is the point
    with pytest.raises(TypeError):
        Event(id="a", source="b", type="c").extensions["x"] = "y"  # type: ignore[index] # likewise


_PARTS = st.lists(st.text(st.characters(exclude_characters="\x1f"), max_size=5) | st.integers(), min_size=1, max_size=4)


@given(_PARTS, _PARTS)
def test_ids_are_equal_when_their_parts_are(one: list[str | int], other: list[str | int]) -> None:
    """Where a part ends matters: "ab", "c" is not "a", "bc"."""
    assert (stable_id(*one) == stable_id(*other)) == ([*map(str, one)] == [*map(str, other)])
    assert len(stable_id(*one)) == 32


def test_ids_are_the_same_for_ever() -> None:
    """Alerts of last year have to be recognised, so the digest is part of the format."""
    assert stable_id("inference.payloads", 3, 42) == "3c42d1fd051ca444bc71b2242402c6c7"


_ZONES = st.integers(-23 * 60 - 59, 23 * 60 + 59).map(lambda minutes: timezone(timedelta(minutes=minutes)))


@given(st.datetimes(datetime(2, 1, 1), datetime(9998, 1, 1), timezones=_ZONES))  # noqa: DTZ001 - the zone is drawn
def test_times_are_exact_in_every_zone(moment: datetime) -> None:
    """To the microsecond, from year 2 on, whichever way it is written."""
    text = moment.isoformat(timespec="microseconds")
    micros = parse_time(text)

    assert micros == (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    assert parse_time(format_time(micros)) == micros
    assert format_time(micros).endswith("Z")
    assert parse_time(text.replace("T", "t")) == parse_time(text.replace("T", " ")) == micros


@given(st.integers(0, 4_000_000_000_000_000), st.integers(0, 4_000_000_000_000_000))
def test_written_times_sort_as_they_are(one: int, other: int) -> None:
    """All are of one length, so text compares as time does."""
    assert (format_time(one) < format_time(other)) == (one < other)


def test_go_and_small_letters_are_read() -> None:
    """Nanoseconds, as Go writes them, lose what is below a microsecond; RFC 3339 allows small letters."""
    assert parse_time("1970-01-01T00:00:01.123456789Z") == 1_123_456
    assert parse_time("1970-01-01t00:00:01z") == 1_000_000
    assert parse_time("1970-01-01T00:00:01.5-00:00") == 1_500_000


@pytest.mark.parametrize(
    "text",
    [
        "", "now", "2026-01-31", "2026-01-31T12:00:00", "2026-01-31T12:00Z", "20260131T120000Z", "2026-W05-6T12:00:00Z",
        "2026-01-31T12:00:00+0200", "2026-01-31T12:00:00+02", "2026-01-31T12:00:00,5Z", "2026-01-31x12:00:00Z",
        "2026-02-30T12:00:00Z", "2026-01-31T25:00:00Z", "2026-01-31T12:00:00.Z", " 2026-01-31T12:00:00Z",
        "2026-01-31T12:00:00Z\n", "\u0662026-01-31T12:00:00Z", "2026-01-31T12:00:00+24:00",
    ],
)  # fmt: skip
def test_other_times_are_refused(text: str) -> None:
    """Other forms of ISO 8601 included: an event that we take is one that others can read."""
    with pytest.raises(ValueError, match=r"not RFC 3339|out of range|must be in|strictly between"):
        parse_time(text)
