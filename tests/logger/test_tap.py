"""From what the proxy saw to events."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from cloudevents.core.bindings import kafka as sdk_kafka
from hypothesis import given
from hypothesis import strategies as st

from logger.settings import TapSettings
from logger.tap import Body, Seen, Tap, is_inference, is_logged
from streams.bindings import from_kafka
from streams.events import MODEL_NAME, PROTOCOL, REQUEST_TYPE, RESPONSE_TYPE, Event, format_time

AT = 1_700_000_000_000_000
SETTINGS = TapSettings(service="s", namespace="n", metadata_headers=frozenset({"x-client", "authorization", "cookie"}))


def events_for(exchange: Seen, settings: TapSettings, recorded_us: int) -> list[Event]:
    """Give the events of an exchange as any consumer reads them."""
    return [from_kafka(tuple(letter.headers), letter.value) for letter in Tap(settings).letters(exchange, recorded_us)]


def seen(*fields: tuple[bytes, bytes], path: str = "/v1/models/m:predict") -> Seen:
    """Make a whole exchange."""
    found = Seen(
        correlation="c1", method="POST", path=path, request_fields=[(b"content-type", b"application/json"), *fields],
        started_us=AT, response_fields=[(b"content-type", b"text/plain"), (b"content-encoding", b"gzip")], status=404,
        latency_us=1_500, first_byte_us=900,
    )  # fmt: skip
    found.request.add(b"question", 1_000)
    found.response.add(b"answer", 1_000)
    return found


def test_both_events_share_the_correlation_and_nothing_else() -> None:
    """Ids differ, as CloudEvents want; each has its own type, time, content type and body."""
    request, response = events_for(seen(), SETTINGS, AT)

    assert request.id != response.id
    assert request.correlation() == response.correlation() == "c1"
    assert (request.type, response.type) == (REQUEST_TYPE, RESPONSE_TYPE)
    assert (request.datacontenttype, response.datacontenttype) == ("application/json", "text/plain")
    assert (request.data, response.data) == (b"question", b"answer")
    assert (request.time, response.time) == ("2023-11-14T22:13:20.000000Z", "2023-11-14T22:13:20.001500Z")
    assert response.text("statuscode") == "404"
    assert response.text("latencyus") == "1500"
    assert response.text("contentencoding") == "gzip"
    assert request.service() == "n/s"
    assert (request.text("modelname"), request.text("protocol")) == ("m", "v1")


@pytest.mark.parametrize("path", ["/v1/models/m:predict", "/v2/models/m/infer", "/v2/models/m/versions/best/infer"])
def test_events_name_the_version_that_answered(path: str) -> None:
    """A rollout chooses, and callers say aliases: what counts is the version that the predictor says it was."""
    exchange = seen(path=path)
    exchange.response_fields.append((b"x-sidelight-model-version", b"7"))

    assert [event.text("modelversion") for event in events_for(exchange, SETTINGS, AT)] == ["7", "7"]


def test_metadata_ignores_case_and_never_holds_credentials() -> None:
    """Allow-listed headers are found however they were written; credentials stay out whatever is listed."""
    request, _ = events_for(
        seen((b"x-client", b"app"), (b"authorization", b"Bearer t"), (b"cookie", b"c")), SETTINGS, AT
    )

    assert json.loads(request.text("metadata")) == {"x-client": ["app"]}


@pytest.mark.parametrize("value", [b"false", b"False", b" 0 "])
def test_who_says_that_a_user_made_a_call_is_believed(value: bytes) -> None:
    """As the predictor does: detectors would leave a user's call out otherwise."""
    request, _ = events_for(seen((b"x-sidelight-synthetic", value)), SETTINGS, AT)

    assert request.text("synthetic") == ""


def test_marks() -> None:
    """Synthetic, aborted and cut exchanges say so."""
    exchange = seen((b"x-sidelight-synthetic", b"1"), (b"traceparent", b"00-a-b-01"))
    exchange.aborted = True
    exchange.response.add(b"x" * 2_000, 1_000)
    request, response = events_for(exchange, SETTINGS, AT)

    assert request.text("synthetic") == response.text("synthetic") == "true"
    assert response.text("aborted") == "true"
    assert request.text("truncated") == ""
    assert response.text("truncated") == "true"
    assert request.text("traceparent") == "00-a-b-01"


@pytest.mark.parametrize(("mode", "kinds"), [("request", [REQUEST_TYPE]), ("response", [RESPONSE_TYPE])])
def test_modes(mode: str, kinds: list[str]) -> None:
    """One side alone when that is what was asked for."""
    assert [event.type for event in events_for(seen(), TapSettings(mode=mode), AT)] == kinds


@pytest.mark.parametrize(
    ("method", "path", "logged", "rows"),
    [
        (b"POST", "/v1/models/m:predict", True, True),
        (b"POST", "/prefix/v1/models/m:predict", True, True),
        (b"POST", "/v2/models/m/infer", True, True),
        (b"POST", "/v2/models/m/versions/3/infer", True, True),
        (b"POST", "/v1/models/m:explain", True, False),
        (b"POST", "/v2/models/m/explain", True, False),
        (b"POST", "/v2/models/m/generate_stream", True, False),
        (b"POST", "/openai/v1/chat/completions", True, False),
        (b"POST", "/v1/embeddings", True, False),
        (b"POST", "/score", False, False),
        (b"GET", "/v1/models/m:predict", False, False),
        (b"GET", "/v2/models/m/ready", False, False),
        (b"GET", "/metrics", False, False),
        (b"POST", "/v2/repository/models/m/load", False, False),
    ],
)
def test_probes_and_metadata_are_not_logged(method: bytes, path: str, logged: bool, rows: bool) -> None:  # noqa: FBT001 - a table
    """Only calls for a model's answer are logged, and only predictions have rows."""
    assert is_logged(method, path) is logged
    assert is_inference(method, path) is rows


@pytest.mark.parametrize(
    ("path", "expected"), [("/score", True), ("/v2/repository/index", False), ("/metrics", False), ("/healthz", False)]
)
def test_a_models_own_paths_are_logged_if_asked(path: str, expected: bool) -> None:  # noqa: FBT001 - a table
    """Still no probes, and nothing that manages models."""
    assert is_logged(b"POST", path, others=True) is expected


@pytest.mark.parametrize(
    ("path", "attributes"),
    [
        ("/v1/models/m:explain", ("m", "unknown")),
        ("/v2/models/m/versions/2/generate", ("m", "unknown")),
        ("/score", ("", "unknown")),
        ("/v2/models/m/infer", ("m", "v2")),
    ],
)
def test_calls_without_rows_say_so(path: str, attributes: tuple[str, str]) -> None:
    """So that nobody takes an explanation for a prediction."""
    request, response = events_for(replace(seen(), path=path), TapSettings(), AT)

    assert {(event.text(MODEL_NAME), event.text(PROTOCOL)) for event in (request, response)} == {attributes}


@given(st.lists(st.binary(max_size=20), max_size=10), st.integers(0, 60))
def test_a_body_is_cut_at_the_cap(chunks: list[bytes], cap: int) -> None:
    """However the bytes are split, what is kept is their beginning up to the cap."""
    body = Body()
    for chunk in chunks:
        body.add(chunk, cap)
    whole = b"".join(chunks)

    assert b"".join(body.chunks) == whole[:cap]
    assert (body.kept, body.size) == (min(len(whole), cap), len(whole))
    assert body.truncated == (len(whole) > cap)


def test_headers_by_hand_are_what_the_sdk_reads() -> None:
    """The cloudevents SDK finds every attribute, with its value, in what the tap writes by hand."""
    exchange = seen((b"x-client", "caf\u00e9".encode("latin-1")), path="/v2/models/m/versions/3/infer")
    letters = Tap(SETTINGS).letters(exchange, AT)
    events = [
        sdk_kafka.from_binary_event(sdk_kafka.KafkaMessage(dict(letter.headers), letter.key, letter.value))
        for letter in letters
    ]

    for letter, event in zip(letters, events, strict=True):
        data = event.get_data()
        # The SDK gives textual data as text.
        assert (data.encode() if isinstance(data, str) else data) == letter.value
        ours = from_kafka(letter.headers, letter.value)
        assert (event.get_id(), event.get_source(), event.get_type()) == (ours.id, ours.source, ours.type)
        assert {name: str(event.get_extension(name)) for name in ours.extensions} == dict(ours.extensions)
    assert json.loads(events_for(exchange, SETTINGS, AT)[0].text("metadata")) == {"x-client": ["caf\u00e9"]}
    assert events_for(exchange, SETTINGS, AT)[0].text("modelversion") == "3"


@given(st.integers(0, 4_102_444_800_000_000))
def test_times_are_spelt_as_everywhere_else(micros: int) -> None:
    """The quick way to write a time gives what `format_time` gives."""
    exchange = seen()
    exchange.started_us, exchange.latency_us = micros, 0

    assert events_for(exchange, SETTINGS, AT)[0].time == format_time(micros)


def test_a_field_that_comes_twice_counts_once() -> None:
    """Two content types make one attribute, the first, and still a readable event."""
    request, _ = events_for(seen((b"content-type", b"second")), SETTINGS, AT)

    assert request.datacontenttype == "application/json"
