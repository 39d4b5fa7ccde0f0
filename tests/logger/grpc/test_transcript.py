"""gRPC calls as V2 calls: what the assembler decodes, what stays bytes, and how a failure is told."""

from __future__ import annotations

import gzip
import json
import struct
import zlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.http2.status import trailers
from inference.observations import ArrowCodec, decode_rows
from logger.grpc import methods
from logger.grpc.tap import GrpcTap
from logger.grpc.transcript import Transcriber
from logger.heads import Fields
from logger.record import decode, encode
from logger.settings import TapSettings
from logger.tap import Body, Seen, Tap
from streams.bindings import from_kafka
from streams.events import Event
from streams.pairing import Pairing
from streams.settings import PairingSettings
from streams.stage import Record
from tests.logger.grpc import oip

START = 1_700_000_000_000_000
GRPC = (b"content-type", b"application/grpc")
CAP = 1 << 20


def framed(*messages: bytes, pack: Callable[[bytes], bytes] | None = None) -> bytes:
    """Frame messages as gRPC does, compressed or not."""
    packed = [message if pack is None else pack(message) for message in messages]
    return b"".join(struct.pack(">BI", pack is not None, len(message)) + message for message in packed)


def body(data: bytes) -> Body:
    """Give a whole body."""
    return Body([data] if data else [], len(data), len(data))


def seen(
    request: bytes, response: bytes, *, path: str = methods.INFER, status: int = 200, answer: Fields | None = None
) -> Seen:
    """Give a call as the proxy leaves it in the ring."""
    exchange = Seen(
        "c1", "POST", path, [GRPC, (b"x-client", b"app")], START, answer or [GRPC, *trailers(0, "")], status, 10, 20
    )
    exchange.request, exchange.response = body(request), body(response)
    pieces, _ = encode(exchange)
    return decode(b"".join(pieces))


def events(exchange: Seen, *, cap: int = CAP) -> tuple[Event, Event]:
    """Give both events, as the shipper sends them."""
    tap = GrpcTap(Tap(TapSettings(service="s", namespace="n", metadata_headers=frozenset({"x-client"}))), cap)
    request, response = (from_kafka(letter.headers, letter.value) for letter in tap.letters(exchange, START))
    return request, response


def rows(exchange: Seen, *, cap: int = CAP) -> dict[str, list[object]]:
    """Give the columns that the assembler's pairing and codec make of the events."""
    tap = GrpcTap(Tap(TapSettings(service="s", namespace="n")), cap)
    pairing = Pairing(PairingSettings())
    for offset, letter in enumerate(tap.letters(exchange, START)):
        taken = pairing.take(Record("t", 0, offset, letter.key, letter.value, letter.headers, START // 1000))
    assert taken.exchange is not None
    codec = ArrowCodec()

    table = decode_rows(codec.encode([codec.decode(taken.exchange)]))
    return {name: table.column(name).to_pylist() for name in table.column_names if name[:1] != "_"}


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("pack", [None, gzip.compress, zlib.compress])
def test_an_inference_becomes_rows(raw: bool, pack: Callable[[bytes], bytes] | None) -> None:  # noqa: FBT001 - a table
    """Raw or typed, plain or compressed: the assembler, which knows no gRPC, finds the columns."""
    coding = b"gzip" if pack is not None and pack(b"")[:2] == b"\x1f\x8b" else b"deflate"
    call = seen(framed(oip.request(raw=raw), pack=pack), framed(oip.response(), pack=pack))
    call.request_fields.append((b"grpc-encoding", coding))
    call.response_fields.append((b"grpc-encoding", coding))
    request, response = events(call)

    assert rows(call) == {"in.x": [1.0, 1.0], "in.w": ["ab", "ab"], "out.y": [0, 1]}
    assert (request.text("protocol"), request.text("modelname"), request.text("modelversion")) == ("v2", "m", "3")
    assert request.datacontenttype == response.datacontenttype == "application/octet-stream"
    assert (response.text("statuscode"), response.text("grpcstatus")) == ("200", "0")
    assert request.text("contentencoding") == ""
    assert json.loads(request.text("metadata")) == {"x-client": ["app"]}
    assert request.text("path") == methods.INFER


def test_events_name_the_version_that_answered() -> None:
    """Both events have the version that the answer says, which a rollout may have chosen; not the one asked for."""
    answer = oip.Response.FromString(oip.response())
    answer.model_version = "7"
    exchange = seen(framed(oip.request()), framed(answer.SerializeToString()))

    assert [event.text("modelversion") for event in events(exchange)] == ["7", "7"]


def test_a_stream_becomes_the_rows_of_all_its_messages() -> None:
    """Requests and answers of a stream are put together row by row."""
    answers = []
    for count in (1, 2):
        streamed = oip.Streamed()
        streamed.infer_response.MergeFromString(oip.response(count))
        answers.append(streamed.SerializeToString())
    call = seen(framed(oip.request(1), oip.request(2)), framed(*answers), path=methods.STREAM)

    assert rows(call) == {"in.x": [1.0] * 3, "in.w": ["ab"] * 3, "out.y": [0, 0, 1]}


def test_a_failure_tells_why() -> None:
    """No message came back: the event's body is the status' text, as over REST, under the status' counterpart."""
    fields = [GRPC, *trailers(5, "no model n\u00f6 at 100 %")]
    request, response = events(seen(framed(oip.request()), b"", status=404, answer=fields))

    assert (response.text("statuscode"), response.text("grpcstatus")) == ("404", "5")
    assert json.loads(response.data or b"") == {"error": "no model n\u00f6 at 100 %"}
    assert response.datacontenttype == "application/json"
    assert request.text("modelname") == "m"


def test_an_error_within_a_stream_is_a_failure() -> None:
    """A stream whose status is good and whose message tells an error counts as failed."""
    told = oip.Streamed(error_message="broken").SerializeToString()
    _, response = events(seen(framed(oip.request()), framed(told), path=methods.STREAM))

    assert (response.text("statuscode"), json.loads(response.data or b"")) == ("500", {"error": "broken"})


@pytest.mark.parametrize(
    "data",
    [
        b"\x00\x00\x00",
        framed(oip.request())[:-1],
        framed(b"\xff"),
        b"\x01" + framed(oip.request())[1:],
        b"\x02" + framed(oip.request())[1:],
        framed(oip.request(), pack=lambda data: gzip.compress(data)[:-4]),
        framed(b"\x00" * (17 << 20), pack=gzip.compress),
    ],
)
def test_what_cannot_be_read_stays_as_it_came(data: bytes) -> None:
    """Cut off, no message, unknown or broken compression, a bomb: the bytes are the event's, under their own type."""
    call = seen(data, framed(oip.response()))
    call.request_fields.append((b"grpc-encoding", b"gzip"))
    request, response = events(call)

    assert (request.data, request.datacontenttype) == (data, "application/grpc")
    assert response.datacontenttype == "application/octet-stream"


def test_a_cut_body_is_marked_and_not_read() -> None:
    """Beyond the capture's limit a message has no end: its beginning is logged, and says so."""
    data = framed(oip.request())
    call = seen(data, framed(oip.response()))
    call.request = Body([data[:20]], 20, len(data))
    request, _ = events(call)

    assert (request.data, request.text("truncated")) == (data[:20], "true")


def test_a_body_that_grows_is_compressed_or_left() -> None:
    """Small numbers take a byte each on gRPC's wire and eight in a tensor: no event may outgrow the broker's limit."""
    message = oip.Request(model_name="m")
    message.inputs.add(name="x", datatype="INT64", shape=[5_000]).contents.int64_contents.extend([1] * 5_000)
    call = seen(framed(message.SerializeToString()), framed(oip.response(5_000)))
    request, _ = events(call, cap=20_000)
    left, _ = events(call, cap=50)

    assert request.text("contentencoding") == "gzip"
    assert len(request.data or b"") < 1_000
    assert rows(call, cap=20_000)["in.x"] == [1] * 5_000
    assert (left.data, left.datacontenttype) == (call.request.chunks[0], "application/grpc")


def test_other_methods_are_bytes() -> None:
    """What is logged of other methods is not read; REST calls pass untouched."""
    request, _ = events(seen(b"abc", b"def", path="/a.B/C"))
    rest = Seen("c", "POST", "/v2/models/m/infer", [(b"content-type", b"application/json")], START)

    assert (request.data, request.text("protocol"), request.text("path")) == (b"abc", "unknown", "/a.B/C")
    assert Transcriber(CAP)(rest) is rest


@pytest.mark.parametrize("by", ["parameter", "header", "both"])
def test_an_explainers_calls_are_synthetic(by: str) -> None:
    """The mark may stand in the message or in the metadata."""
    message = oip.Request.FromString(oip.request())
    if by != "header":
        message.parameters["sidelight_synthetic"].bool_param = True
    call = seen(framed(message.SerializeToString()), framed(oip.response()))
    if by != "parameter":
        call.request_fields.append((b"x-sidelight-synthetic", b"1"))
    request, response = events(call)

    assert request.text("synthetic") == response.text("synthetic") == "true"


@given(st.binary(max_size=200), st.binary(max_size=200), st.sampled_from([methods.INFER, methods.STREAM]))
def test_no_bytes_stop_the_shipper(request: bytes, response: bytes, path: str) -> None:
    """Whatever was captured, there are two events, and nothing is raised."""
    assert len(events(seen(request, response, path=path))) == 2
