"""Where the cloudevents SDK departs from the specification: what it does, and that ours follows the specification.

One test for each departure. A test that fails on the SDK's half means that the SDK has been mended.
"""

from __future__ import annotations

from typing import Any

import pytest
from cloudevents.core.bindings import http as sdk_http
from cloudevents.core.bindings import kafka as sdk_kafka
from cloudevents.core.v1.event import CloudEvent
from hypothesis import given
from hypothesis import strategies as st

from streams.bindings import from_http, from_kafka, to_http_batch, to_kafka, to_kafka_structured
from streams.errors import InvalidEvent
from streams.events import Event, Value
from streams.stage import Headers

EVENT = Event(id="1", source="/s", type="t", time="2026-01-02T03:04:05Z")
BARE: Headers = (("ce_specversion", b"1.0"), ("ce_id", b"1"), ("ce_source", b"/s"), ("ce_type", b"t"))
_VALUES = st.booleans() | st.integers(-(2**31), 2**31 - 1) | st.text(st.characters(codec="utf-8"), min_size=1)


def read_by_sdk(headers: Headers, value: bytes | None, key: bytes | None = None) -> Any:  # noqa: ANN401 - the SDK's own
    """Let the SDK read a record."""
    plain = {name: raw for name, raw in headers if raw is not None}
    return sdk_kafka.from_kafka_event(sdk_kafka.KafkaMessage(headers=plain, key=key, value=value or b""))


def written_by_sdk(**extensions: object) -> sdk_kafka.KafkaMessage:
    """Let the SDK write an event without data."""
    return sdk_kafka.to_binary_event(CloudEvent({"id": "1", "source": "/s", "type": "t", **extensions}))


def test_the_content_type_decides_the_mode() -> None:
    """Kafka 3.1: `application/cloudevents` is structured, whatever else there is. The SDK looks for `ce_` headers."""
    headers, value = to_kafka_structured(EVENT)
    mixed = (*headers, *BARE)

    assert "specversion" in read_by_sdk(mixed, value).get_data(), "the envelope, as data"
    assert from_kafka(mixed, value) == EVENT


def test_a_time_is_not_invented() -> None:
    """Core 3.1.2: `time` is optional, and a reader has nothing to add. The SDK takes the time of reading."""
    assert read_by_sdk(BARE, b"").get_time() is not None
    assert from_kafka(BARE, b"").time is None


def test_a_key_is_no_attribute() -> None:
    """Kafka 3.1: a key says nothing about the event. The SDK makes it `partitionkey`, and fails where it is no text."""
    assert read_by_sdk(BARE, b"", b"key").get_extension("partitionkey") == "key"
    with pytest.raises(UnicodeDecodeError):
        read_by_sdk(BARE, b"", b"\xff")
    assert from_kafka(BARE, b"").extensions == {}


def test_no_data_is_no_value() -> None:
    """Kafka 3.2.2: an event without data is a record without value. The SDK writes an empty one, which is data."""
    assert written_by_sdk().value == b""
    assert to_kafka(EVENT)[1] is None
    assert from_kafka(*to_kafka(EVENT)).data is None
    assert from_kafka(BARE, b"").data == b""


def test_booleans_are_spelt_as_the_specification_does() -> None:
    """Core 2.3: `true`. The SDK writes Python's `True`."""
    headers, _ = to_kafka(Event(id="1", source="/s", type="t", extensions={"flag": True}))

    assert written_by_sdk(flag=True).headers["ce_flag"] == b"True"
    assert dict(headers)["ce_flag"] == b"true"


def test_an_attribute_that_comes_twice_is_seen() -> None:
    """Kafka allows a header twice. The SDK's are a dictionary, so one of them is lost before anybody looks."""
    assert isinstance(written_by_sdk().headers, dict)
    assert from_kafka((*BARE, ("ce_id", b"1")), b"").id == "1"
    with pytest.raises(InvalidEvent, match="comes twice with different values") as caught:
        from_kafka((*BARE, ("ce_id", b"2")), b"")
    assert caught.value.reason == "duplicate-attribute"
    with pytest.raises(InvalidEvent, match="comes twice with different values"):
        from_http(
            [("ce-specversion", "1.0"), ("ce-id", "1"), ("CE-ID", "2"), ("ce-source", "/"), ("ce-type", "t")], b""
        )


def test_a_batch_is_read() -> None:
    """HTTP 3.3 has a batch mode. The SDK fails on it with an error of Python's."""
    headers, body = to_http_batch([EVENT, EVENT])

    with pytest.raises(AttributeError):
        sdk_http.from_http_event(sdk_http.HTTPMessage(headers=dict(headers), body=body))
    assert from_http(headers, body) == [EVENT, EVENT]


def test_what_is_no_event_is_our_error() -> None:
    """Anything may lie in a topic. The SDK raises whatever its JSON parser raised."""
    with pytest.raises(ValueError, match="Expecting value"):
        read_by_sdk((), b"plain text")
    with pytest.raises(InvalidEvent) as caught:
        from_kafka((), b"plain text")
    assert caught.value.reason == "not-a-cloudevent"


def test_data_stay_the_bytes_that_they_are() -> None:
    """Data that call themselves JSON and are none are the reader's affair. The SDK makes text of them, silently."""
    headers = (*BARE, ("content-type", b"application/json"))

    assert read_by_sdk(headers, b"{broken").get_data() == "{broken"
    assert from_kafka(headers, b"{broken").data == b"{broken"


@given(st.dictionaries(st.sampled_from(["a", "flag", "x1"]), _VALUES), st.none() | st.binary(min_size=1))
def test_otherwise_the_headers_are_the_sdks(extensions: dict[str, Value], data: bytes | None) -> None:
    """Built by hand, because every payload passes here: name by name and byte by byte what the SDK builds."""
    event = Event(
        id="1", source="/s", type="t", datacontenttype="application/octet-stream", subject="sub",
        extensions=extensions, data=data,
    )  # fmt: skip
    theirs = sdk_kafka.to_binary_event(
        CloudEvent(
            {"id": "1", "source": "/s", "type": "t", "datacontenttype": "application/octet-stream", "subject": "sub",
             # Spelt for it, see the test on booleans.
             **{name: str(value).lower() if isinstance(value, bool) else value for name, value in extensions.items()}},
            data,
        )
    )  # fmt: skip
    headers, value = to_kafka(event)
    ours = dict(headers)

    assert len(ours) == len(headers)
    assert ours == {name: raw for name, raw in theirs.headers.items() if name != "ce_time"}
    assert (value or b"") == theirs.value
