"""The bindings, against the specification and against the cloudevents SDK in both directions.

Where that SDK departs from the specification: `test_departures.py`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from cloudevents.core.bindings import http as sdk_http
from cloudevents.core.bindings import kafka as sdk_kafka
from cloudevents.core.v1.event import CloudEvent
from hypothesis import given
from hypothesis import strategies as st

from streams.bindings import (
    decode_event,
    encode_event,
    from_http,
    from_kafka,
    to_http,
    to_http_batch,
    to_http_structured,
    to_kafka,
    to_kafka_structured,
)
from streams.errors import InvalidEvent
from streams.events import Event, format_time, parse_time, stable_id
from streams.stage import Headers

WORDS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=30)
NAMES = st.from_regex(r"[a-z][a-z0-9]{0,15}", fullmatch=True).filter(
    lambda name: (
        name not in {"id", "source", "type", "time", "data", "subject", "specversion", "datacontenttype", "dataschema"}
    )
)
MOMENTS = st.integers(0, 4_000_000_000_000_000).map(format_time)


@st.composite
def events(draw: st.DrawFn) -> Event:
    """Draw events whose data are bytes of any kind."""
    return Event(
        id=draw(WORDS),
        source=draw(WORDS),
        type=draw(WORDS),
        time=draw(st.none() | MOMENTS),
        subject=draw(st.none() | WORDS),
        datacontenttype=draw(st.sampled_from([None, "application/octet-stream", "text/csv"])),
        extensions=draw(st.dictionaries(NAMES, WORDS, max_size=4)),
        data=draw(st.none() | st.binary(min_size=1, max_size=64)),
    )


EXAMPLE = Event(
    id="a-1", source="/s", type="t.x", time="2026-01-02T03:04:05.000006Z", datacontenttype="application/json",
    subject="sub", extensions={"correlationid": "c", "statuscode": "200"}, data=b'{"a":[1,null]}',
)  # fmt: skip


def sdk_event(event: Event) -> CloudEvent:
    """Make the SDK's event of ours."""
    attributes: dict[str, Any] = {"id": event.id, "source": event.source, "type": event.type, **event.extensions}
    if event.time is not None:
        from datetime import datetime  # noqa: PLC0415 - only here

        attributes["time"] = datetime.fromisoformat(event.time)
    for name in ("datacontenttype", "subject"):
        if getattr(event, name) is not None:
            attributes[name] = getattr(event, name)
    return CloudEvent(attributes, event.data)


@given(events())
def test_kafka_binary_round_trip(event: Event) -> None:
    """Binary mode on Kafka gives back exactly what went in."""
    assert from_kafka(*to_kafka(event)) == event


@given(events())
def test_structured_round_trip(event: Event) -> None:
    """The JSON format, on Kafka and on HTTP, gives back exactly what went in."""
    assert from_kafka(*to_kafka_structured(event)) == event
    assert from_http(*to_http_structured(event)) == [event]


@given(st.lists(events(), max_size=4))
def test_batch_round_trip(batch: list[Event]) -> None:
    """A batch keeps its events and their order; an empty one is a batch, too."""
    assert from_http(*to_http_batch(batch)) == batch


@given(events())
def test_http_binary_round_trip(event: Event) -> None:
    """Header values survive their percent-encoding, whatever characters they hold."""
    headers, body = to_http(event)

    assert all(value.isascii() and value.isprintable() for name, value in headers if name != "content-type")
    (found,) = from_http(headers, body)
    # HTTP cannot say "no data" beside a content type.
    assert found == event or (event.data is None and found.data == b"")


def test_what_the_sdk_writes_to_kafka_is_read() -> None:
    """The SDK's binary and structured records come out as the event that went in."""
    for message in (sdk_kafka.to_binary_event(sdk_event(EXAMPLE)), sdk_kafka.to_structured_event(sdk_event(EXAMPLE))):
        found = from_kafka(tuple(message.headers.items()), message.value)

        assert (found.id, found.source, found.type, found.subject) == ("a-1", "/s", "t.x", "sub")
        assert json.loads(found.data or b"") == {"a": [1, None]}
        assert found.text("correlationid") == "c"
        assert found.time is not None
        assert parse_time(found.time) == parse_time(EXAMPLE.time or "")


def test_the_sdk_reads_what_is_written_to_kafka() -> None:
    """Our binary and structured records are valid for the SDK."""
    for headers, value in (to_kafka(EXAMPLE), to_kafka_structured(EXAMPLE)):
        plain = {name: raw for name, raw in headers if raw is not None}
        found = sdk_kafka.from_kafka_event(sdk_kafka.KafkaMessage(headers=plain, key=None, value=value or b""))

        assert (found.get_id(), found.get_source(), found.get_type()) == ("a-1", "/s", "t.x")
        assert found.get_data() == {"a": [1, None]}
        assert found.get_extension("correlationid") == "c"


def test_http_agrees_with_the_sdk_both_ways() -> None:
    """HTTP messages of either library are read by the other."""
    message = sdk_http.to_binary_event(sdk_event(EXAMPLE))
    (ours,) = from_http(message.headers.items(), message.body)
    headers, body = to_http(EXAMPLE)
    theirs = sdk_http.from_binary_event(sdk_http.HTTPMessage(headers=dict(headers), body=body))

    assert (ours.id, ours.type, json.loads(ours.data or b"")) == ("a-1", "t.x", {"a": [1, None]})
    assert (theirs.get_id(), theirs.get_type(), theirs.get_data()) == ("a-1", "t.x", {"a": [1, None]})


def test_the_content_type_decides_the_mode() -> None:
    """A structured record may carry ce_ headers, too; the SDK would take it for binary and return the envelope."""
    headers, value = to_kafka_structured(EXAMPLE)
    mixed: Headers = (("ce_id", b"a-1"), ("Content-Type", b"APPLICATION/CloudEvents+JSON; charset=utf-8"))

    assert from_kafka((*headers, ("ce_id", b"other")), value) == EXAMPLE
    assert from_kafka(mixed, value) == EXAMPLE


def test_a_structured_record_needs_no_content_type() -> None:
    """Section 3.3.1 makes the header optional."""
    assert from_kafka((), to_kafka_structured(EXAMPLE)[1]) == EXAMPLE


def test_nothing_is_invented() -> None:
    """The SDK makes up a missing time and id; here a time stays missing, and a missing id is an error."""
    headers = (("ce_specversion", b"1.0"), ("ce_source", b"/s"), ("ce_type", b"t"))

    assert from_kafka((*headers, ("ce_id", b"1")), b"x").time is None
    with pytest.raises(InvalidEvent, match="'id'"):
        from_kafka(headers, b"x")


def test_json_keeps_the_type_of_extensions() -> None:
    """Booleans and integers stay what they are in the JSON format."""
    event = Event(id="1", source="s", type="t", extensions={"flag": True, "count": 3})

    assert decode_event(encode_event(event)) == event


def test_foreign_headers_are_no_business_of_ours() -> None:
    """Headers that are None, or no UTF-8, only matter where they are attributes."""
    headers, value = to_kafka(EXAMPLE)

    assert from_kafka((*headers, ("trace", None), ("blob", b"\xff\xfe")), value) == EXAMPLE


@pytest.mark.parametrize(
    ("headers", "value", "reason"),
    [
        ({}, b"plain text", "not-a-cloudevent"),
        ({"content-type": b"application/json"}, b'{"a":1}', "not-a-cloudevent"),
        ({"content-type": b"application/cloudevents+json"}, b"{broken", "malformed-json"),
        ({"content-type": b"application/cloudevents+json"}, b"[]", "not-an-object"),
        ({"content-type": b"application/cloudevents+avro"}, b"x", "unknown-format"),
        ({"content-type": b"application/cloudevents-batch+json"}, b"[]", "batch"),
        ({"content-type": b"application/cloudevents+json"}, None, "no-value"),
        ({"ce_id": b"1", "ce_source": b"s", "ce_type": b"t"}, b"", "specversion"),
        ({"ce_specversion": b"0.3", "ce_id": b"1", "ce_source": b"s", "ce_type": b"t"}, b"", "specversion"),
        ({"ce_specversion": b"1.0", "ce_id": b"", "ce_source": b"s", "ce_type": b"t"}, b"", "missing-attribute"),
        ({"ce_specversion": b"1.0", "ce_id": b"\xff", "ce_source": b"s", "ce_type": b"t"}, b"", "encoding"),
        ({"ce_specversion": b"1.0", "ce_id": b"1", "ce_source": b"s", "ce_type": b"t", "ce_time": b"now"}, b"", "time"),
        (
            {"ce_specversion": b"1.0", "ce_id": b"1", "ce_source": b"s", "ce_type": b"t", "ce_a-b": b"1"},
            b"",
            "attribute-name",
        ),
        (
            {"ce_specversion": b"1.0", "ce_id": b"1", "ce_source": b"s", "ce_type": b"t", "ce_data": b"1"},
            b"",
            "attribute-name",
        ),
    ],
)
def test_what_is_no_event_is_refused_with_a_reason(
    headers: Mapping[str, bytes], value: bytes | None, reason: str
) -> None:
    """Each way of being no CloudEvent has its own word, which goes to the dead letters."""
    with pytest.raises(InvalidEvent) as caught:
        from_kafka(tuple(headers.items()), value)

    assert caught.value.reason == reason


def test_a_batch_names_the_broken_item() -> None:
    """A sender learns which of its events is wrong."""
    body = b'[{"specversion":"1.0","id":"1","source":"s","type":"t"},{"id":"2"}]'
    with pytest.raises(InvalidEvent, match="batch item 1"):
        from_http([("content-type", "application/cloudevents-batch+json")], body)


def test_a_batch_is_bounded() -> None:
    """More events than the caller allows are refused whole."""
    headers, body = to_http_batch([EXAMPLE] * 3)
    with pytest.raises(InvalidEvent, match="at most 2 events, got 3"):
        from_http(headers, body, max_events=2)


def test_kserves_agent_is_understood() -> None:
    """One id for both events, an empty endpoint, metadata as JSON text."""
    headers = [
        ("ce-id", "36a54b7d"), ("ce-source", "http://localhost:9081/"), ("ce-specversion", "1.0"), ("ce-endpoint", ""),
        ("ce-type", "org.kubeflow.serving.inference.request"), ("ce-time", "2026-08-05T10:11:12.123456789Z"),
        ("ce-inferenceservicename", "iris"), ("ce-namespace", "default"), ("ce-metadata", "{}"),
        ("content-type", "application/json"),
    ]  # fmt: skip
    (event,) = from_http(headers, b'{"instances":[[1]]}')

    assert event.service() == "default/iris"
    assert event.correlation() == "36a54b7d"
    assert event.text("endpoint") == ""
    assert event.data == b'{"instances":[[1]]}'


def test_times_keep_their_microseconds() -> None:
    """Parsing and formatting are each other's inverse, and a time without zone is refused."""
    assert format_time(parse_time("2026-01-02T03:04:05.000006+02:00")) == "2026-01-02T01:04:05.000006Z"
    with pytest.raises(ValueError, match="no zone"):
        parse_time("2026-01-02T03:04:05")


def test_stable_ids_depend_on_every_part() -> None:
    """The same parts always give the same id; parts cannot run into each other."""
    assert stable_id("a", 1) == stable_id("a", "1")
    assert stable_id("ab", "c") != stable_id("a", "bc")
