"""The compatibility mode against the table of what KServe's agent sends, byte by byte."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logger.compat import NOTHING, KServeTap
from logger.settings import TapSettings
from logger.tap import Seen
from streams.bindings import from_kafka
from streams.pairing import Pairing
from streams.settings import PairingSettings
from streams.stage import Record

AT = 1_700_000_000_000_000
SETTINGS = TapSettings(
    service="iris", namespace="default", component="predictor", source="http://localhost:9081/",
    metadata_headers=frozenset({"x-client", "x-request-id", "authorization"}),
    annotations={"team": "a&b", "cost": "5"},
)  # fmt: skip
# KServe's agent 0.20: attribute → value. `metadata` and `annotations` are JSON as Go's encoder writes it.
SHARED = {
    "ce_specversion": b"1.0",
    "ce_id": b"4711",
    "ce_source": b"http://localhost:9081/",
    "ce_inferenceservicename": b"iris",
    "ce_namespace": b"default",
    "ce_component": b"predictor",
    "ce_endpoint": b"",
    "ce_metadata": '{"X-Client":["caf\u00e9 \\u003c1\\u003e","two"],"X-Request-Id":["r-1"]}'.encode(),
    "ce_annotations": b'{"cost":"5","team":"a\\u0026b"}',
    "ce_recordedtime": b"2023-11-14T22:13:21Z",
    "content-type": b"application/json",
}
REQUEST = SHARED | {"ce_type": b"org.kubeflow.serving.inference.request", "ce_time": b"2023-11-14T22:13:20Z"}
RESPONSE = SHARED | {"ce_type": b"org.kubeflow.serving.inference.response", "ce_time": b"2023-11-14T22:13:20.0015Z"}


def seen(*fields: tuple[bytes, bytes], status: int = 200) -> Seen:
    """Make a whole exchange."""
    found = Seen(
        correlation="c1", method="POST", path="/v1/models/m:predict",
        request_fields=[(b"content-type", b"application/json"), *fields], started_us=AT,
        response_fields=[(b"content-type", b"text/plain")], status=status, latency_us=1_500, first_byte_us=900,
    )  # fmt: skip
    found.request.add(b"question", 1_000)
    found.response.add(b"answer", 1_000)
    return found


FIELDS = (
    (b"ce-id", b"4711"), (b"x-request-id", b"r-1"), (b"x-client", "caf\u00e9 <1>".encode("latin-1")),
    (b"authorization", b"Bearer t"), (b"x-client", b"two"), (b"traceparent", b"00-a-b-01"),
    (b"x-sidelight-synthetic", b"1"),
)  # fmt: skip


def test_the_table() -> None:
    """Every attribute as KServe's agent gives it, and not one more; both events have the client's id."""
    request, response = KServeTap(SETTINGS).letters(seen(*FIELDS), AT + 1_000_000)

    assert dict(request.headers) == REQUEST
    assert dict(response.headers) == RESPONSE
    assert len(request.headers) == len(REQUEST)
    assert len(response.headers) == len(RESPONSE)
    assert (request.key, request.value) == (b"4711", b"question")
    assert (response.key, response.value) == (b"4711", b"answer")


def test_without_anything_given() -> None:
    """No Ce-Id: one UUID for both, the same however often it is read; no metadata is `{}`, no annotations nothing."""
    tap = KServeTap(TapSettings())
    request, response = (dict(letter.headers) for letter in tap.letters(seen(), AT))

    assert re.fullmatch(rb"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", request["ce_id"])
    assert request["ce_id"] == response["ce_id"] == dict(tap.letters(seen(), AT + 5)[0].headers)["ce_id"]
    assert request["ce_metadata"] == b"{}"
    assert "ce_annotations" not in request


@pytest.mark.parametrize("status", [0, 201, 204, 404, 500])
def test_only_200_makes_a_response_event(status: int) -> None:
    """As KServe's agent: any other status is no event; it keeps its place in the counts as nothing."""
    request, response = KServeTap(SETTINGS).letters(seen(status=status), AT)

    assert request.value == b"question"
    assert response is NOTHING


def test_a_stream_that_broke_off_is_no_event() -> None:
    """KServe's agent does not log what the client aborted."""
    exchange = seen()
    exchange.aborted = True

    assert KServeTap(SETTINGS).letters(exchange, AT)[1] is NOTHING


def test_a_body_that_is_not_whole_says_so() -> None:
    """The one departure: nobody takes a cut body for a whole one."""
    exchange = seen()
    exchange.response.add(b"x" * 2_000, 1_000)
    request, response = KServeTap(SETTINGS).letters(exchange, AT)

    assert "ce_truncated" not in dict(request.headers)
    assert dict(response.headers)["ce_truncated"] == b"true"


@pytest.mark.parametrize(("mode", "values"), [("request", [b"question"]), ("response", [b"answer"])])
def test_modes(mode: str, values: list[bytes]) -> None:
    """One side alone when that is what was asked for."""
    assert [letter.value for letter in KServeTap(TapSettings(mode=mode)).letters(seen(), AT)] == values


def test_the_assembler_pairs_them() -> None:
    """One id for both, no correlation id, no status: the pair is found all the same, with its two bodies."""
    pairing = Pairing(PairingSettings())
    taken = [
        pairing.take(Record("payloads", 0, offset, letter.key, letter.value, letter.headers, AT // 1000))
        for offset, letter in enumerate(KServeTap(SETTINGS).letters(seen(*FIELDS), AT))
    ]

    assert [item.rejected for item in taken] == [[], []]
    exchange = taken[1].exchange
    assert exchange is not None
    assert (exchange.request.event.data, exchange.response.event.data) == (b"question", b"answer")
    assert exchange.status == 200


@given(st.lists(st.tuples(st.sampled_from([b"x-client", b"x-a-b", b"ce-id"]), st.binary(max_size=9)), max_size=6))
def test_any_header_makes_a_readable_event(fields: list[tuple[bytes, bytes]]) -> None:
    """Whatever bytes clients put into headers: the event is valid, and its metadata are JSON with every value."""
    settings = TapSettings(metadata_headers=frozenset({"x-client", "x-a-b"}))
    letter = KServeTap(settings).letters(seen(*fields), AT)[0]
    metadata = json.loads(from_kafka(letter.headers, letter.value).text("metadata"))

    assert sum(map(len, metadata.values())) == sum(name != b"ce-id" for name, _ in fields)
    assert set(metadata) <= {"X-Client", "X-A-B"}
