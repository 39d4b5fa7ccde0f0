"""Connections that end, limit, refuse and misbehave, on either side, frame by frame."""

from __future__ import annotations

import json
import socket
import threading
from contextlib import suppress
from typing import Any

import pytest
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    RequestReceived,
    ResponseReceived,
    SettingsAcknowledged,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)
from hyperframe.frame import GoAwayFrame

from inference.http2.framing import PREFACE
from inference.http2.link import CONNECTION_WINDOW, STREAM_WINDOW
from logger.grpc.methods import INFER
from tests.inference.serving import eventually
from tests.logger.grpc import raw
from tests.logger.grpc.raw import Peer
from tests.logger.grpc.serving import proxy

FRAMED = b"\x00\x00\x00\x00\x02hi"


def obliging(peer: Peer) -> None:
    """Be a model that answers every call with two bytes."""
    while True:
        peer.answer(peer.until(StreamEnded).stream_id, b"hi")


def status_of(peer: Peer, stream: int) -> dict[Any, Any]:
    """Read a call's end: its trailers, or a head that is all there is."""
    head: dict[Any, Any] = dict(peer.until(ResponseReceived, stream).headers)
    if "grpc-status" in head:
        return head
    return dict(peer.until(TrailersReceived, stream).headers)


def call(peer: Peer) -> str:
    """Make a call; give its status."""
    stream = peer.call(b"q")
    peer.flush()
    return str(status_of(peer, stream)["grpc-status"])


@pytest.mark.parametrize("size", [1, 3, 24, 25, 10_000])
def test_any_split_of_the_bytes_gives_the_same_call(size: int) -> None:
    """The preface, too, may come in pieces."""
    with raw.scripted(obliging) as port, proxy(port) as bench, raw.client(bench.port) as peer:
        text = bytearray()
        with socket.create_connection(("127.0.0.1", bench.port)) as sock:
            peer.sock.close()
            peer.sock = sock
            sock.settimeout(60)
            stream = peer.call(b"q")
            # The preface went to a connection that is gone: once more, in pieces.
            text += PREFACE + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00" + peer.h2.data_to_send()
            for at in range(0, len(text), size):
                sock.sendall(text[at : at + size])
            found = status_of(peer, stream)
        (seen,) = bench.wait_for(1)

    assert found["grpc-status"] == "0"
    assert b"".join(seen.request.chunks) == b"\x00\x00\x00\x00\x01q"
    assert b"".join(seen.response.chunks) == FRAMED


def test_what_only_begins_like_the_preface_is_http_1() -> None:
    """`PRI` is a method like any other until the preface is whole."""
    with proxy(1) as bench, socket.create_connection(("127.0.0.1", bench.port)) as sock:
        sock.settimeout(60)
        sock.sendall(PREFACE[:10])
        sock.sendall(b"HTTP/1.1\r\n\r\n")
        answer = b""
        while data := sock.recv(4096):
            answer += data

    assert answer.startswith(b"HTTP/1.1 400")


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ((("content-type", "application/json"),), "expected POST and application/grpc"),
        ((("content-type", "text/plain"),), "expected POST and application/grpc"),
    ],
)
def test_http_2_is_for_grpc(fields: tuple[tuple[str, str], ...], reason: str) -> None:
    """Anything else on HTTP/2 is answered 415 in JSON, and the connection lives on."""
    with raw.scripted(obliging) as port, proxy(port) as bench, raw.client(bench.port) as peer:
        stream = peer.call(b"{}", "/v1/models/m:predict", *fields)
        peer.flush()
        head: dict[Any, Any] = dict(peer.until(ResponseReceived, stream).headers)
        body = peer.until(DataReceived, stream).data
        after = call(peer)
        refused = bench.proxy.tally.refusals()

    assert head[":status"] == "415"
    assert reason in json.loads(body)["error"]
    assert (after, refused) == ("0", {415: 1})


def test_too_many_fields_are_exhausted() -> None:
    """Metadata has a limit in number; beyond it the call is refused, and the connection lives on."""
    with raw.scripted(obliging) as port, proxy(port) as bench, raw.client(bench.port) as peer:
        stream = peer.call(b"", INFER, *((f"k{n}", "v") for n in range(200)))
        peer.flush()
        found = status_of(peer, stream)
        after = call(peer)

    assert found["grpc-status"] == "8"
    assert "at most 128 fields" in found["grpc-message"]
    assert after == "0"


def test_too_large_a_head_ends_the_connection() -> None:
    """A head beyond what the settings allow cannot be read on; others are not concerned."""
    with raw.scripted(obliging) as port, proxy(port) as bench:
        with raw.client(bench.port) as peer:
            peer.call(b"", INFER, ("k", "v" * 70_000))
            peer.flush()
            ends = [event for event in peer.until_closed() if isinstance(event, ConnectionTerminated)]
        with raw.client(bench.port) as other:
            after = call(other)

    assert [end.error_code for end in ends] == [ErrorCodes.ENHANCE_YOUR_CALM]
    assert after == "0"


def test_an_idle_connection_is_told_to_go() -> None:
    """After `idle_s` without calls comes a goodbye that loses nothing, and then the end."""
    with raw.scripted(obliging) as port, proxy(port, idle_s=1.0) as bench, raw.client(bench.port) as peer:
        first = call(peer)
        end = peer.until(ConnectionTerminated)
        peer.until_closed()

    assert (first, end.error_code, end.last_stream_id) == ("0", ErrorCodes.NO_ERROR, 1)


def goodbye(peer: Peer, last: int) -> None:
    """Send a GOAWAY and go on with the streams up to `last`."""
    frame = GoAwayFrame(0)
    frame.last_stream_id = last
    peer.sock.sendall(frame.serialize())


def test_a_models_goodbye_loses_nothing() -> None:
    """Calls that it has taken end well, others are told to be safe to repeat, and later ones go elsewhere."""
    connections = 0
    both = threading.Event()

    def model(peer: Peer) -> None:
        nonlocal connections
        connections += 1
        if connections > 1:
            obliging(peer)
        peer.until(StreamEnded, 1)
        peer.until(StreamEnded, 3)
        goodbye(peer, 1)
        assert both.wait(60)
        peer.answer(1, b"hi")
        peer.until_closed()

    with raw.scripted(model) as port, proxy(port) as bench, raw.client(bench.port) as peer:
        first, second = peer.call(b"1"), peer.call(b"2")
        peer.flush()
        reset = peer.until(StreamReset, second)
        third = call(peer)
        both.set()
        found = status_of(peer, first)

    assert reset.error_code == ErrorCodes.REFUSED_STREAM
    assert (third, found["grpc-status"], connections) == ("0", "0", 2)


def test_a_model_that_always_says_goodbye_is_unavailable() -> None:
    """It takes no call, whatever the number of connections: the client hears so, and nobody tries for ever."""
    connections = 0

    def model(peer: Peer) -> None:
        nonlocal connections
        connections += 1
        goodbye(peer, 0)
        peer.until_closed()

    with raw.scripted(model, {raw.STREAMS: 0}) as port, proxy(port) as bench, raw.client(bench.port) as peer:
        stream = peer.call(b"q")
        peer.flush()
        while not any(isinstance(event, StreamReset | ResponseReceived) for event in peer.events):
            assert peer.read()
        ends = [event for event in peer.events if getattr(event, "stream_id", None) == stream]

    assert ends
    assert connections <= 2


def test_a_model_that_breaks_off_is_unavailable() -> None:
    """Its connection is cut within an answer: what came is passed on, then a status; the log says aborted."""

    def model(peer: Peer) -> None:
        stream = peer.until(StreamEnded).stream_id
        # A socket that is closed before all was read is reset, and what it sent is lost.
        peer.until(SettingsAcknowledged)
        peer.answer(stream, b"hi", end=False)

    with raw.scripted(model) as port, proxy(port) as bench, raw.client(bench.port) as peer:
        stream = peer.call(b"q")
        peer.flush()
        data = peer.until(DataReceived, stream).data
        found: dict[Any, Any] = dict(peer.until(TrailersReceived, stream).headers)
        (seen,) = bench.wait_for(1)

    assert data == FRAMED
    assert (found["grpc-status"], found["grpc-message"]) == (
        "14", "the model closed the connection before its answer was whole",
    )  # fmt: skip
    assert (seen.status, seen.aborted) == (503, True)


def test_a_model_without_http_2_is_unavailable() -> None:
    """A server that only speaks HTTP/1.1 says something else; the client is told what is wrong."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            sock, _ = listener.accept()
            with sock, suppress(OSError):
                sock.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
                while sock.recv(4096):
                    pass

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        with proxy(listener.getsockname()[1]) as bench, raw.client(bench.port) as peer:
            stream = peer.call(b"q")
            peer.flush()
            found = status_of(peer, stream)
        thread.join(60)

    assert found["grpc-status"] == "14"
    assert "no HTTP/2" in found["grpc-message"]


def test_a_models_reset_is_passed_on() -> None:
    """The client gets the model's own code, and the log its meaning."""

    def model(peer: Peer) -> None:
        peer.h2.reset_stream(peer.until(StreamEnded).stream_id, ErrorCodes.ENHANCE_YOUR_CALM)
        peer.flush()
        peer.until_closed()

    with raw.scripted(model) as port, proxy(port) as bench, raw.client(bench.port) as peer:
        stream = peer.call(b"q")
        peer.flush()
        reset = peer.until(StreamReset, stream)
        (seen,) = bench.wait_for(1)

    assert reset.error_code == ErrorCodes.ENHANCE_YOUR_CALM
    assert (seen.status, seen.aborted) == (429, True)


def test_a_model_that_takes_one_call_at_a_time_gets_them_one_by_one() -> None:
    """Its limit is kept; other calls wait, and one that is given up meanwhile never reaches it."""
    most = running = 0
    bodies: list[bytes] = []

    def model(peer: Peer) -> None:
        nonlocal most, running
        while True:
            stream = peer.until(RequestReceived).stream_id
            running += 1
            most = max(most, running)
            bodies.append(peer.until(DataReceived, stream).data[5:])
            running -= 1
            peer.answer(stream, b"hi")

    with raw.scripted(model, {raw.STREAMS: 1}) as port, proxy(port) as bench, raw.client(bench.port) as peer:
        assert call(peer) == "0"
        streams = [peer.call(b"%d" % number) for number in range(5)]
        peer.flush()
        found = [status_of(peer, stream)["grpc-status"] for stream in streams]

    assert found == ["0"] * 5
    assert (most, bodies) == (1, [b"q", b"0", b"1", b"2", b"3", b"4"])


def test_what_waits_for_a_client_is_bounded() -> None:
    """A client that gives no window: the model can send one window's worth and not a byte more."""
    sent: list[int] = []

    def model(peer: Peer) -> None:
        stream = peer.until(StreamEnded).stream_id
        peer.h2.send_headers(stream, [(":status", "200"), ("content-type", "application/grpc")])
        total = 0
        while True:
            while room := min(peer.h2.local_flow_control_window(stream), peer.h2.max_outbound_frame_size):
                peer.h2.send_data(stream, b"z" * room)
                total += room
            peer.flush()
            sent.append(total)
            assert peer.read()

    with raw.scripted(model) as port, proxy(port) as bench, raw.client(bench.port, {raw.WINDOW: 0}) as peer:
        peer.call(b"q")
        peer.flush()
        peer.until(ResponseReceived)
        eventually(lambda: bool(sent) and sent[-1] == STREAM_WINDOW, "a full window")
        peer.h2.ping(b"still on")
        peer.flush()
        assert peer.read()
        held = sent[-1]

    assert held == STREAM_WINDOW


def test_calls_that_are_given_up_give_their_window_back() -> None:
    """What waited for them no longer counts against the connection that they shared with others."""
    many = 2 * CONNECTION_WINDOW // STREAM_WINDOW

    def model(peer: Peer) -> None:
        while True:
            stream = peer.until(StreamEnded).stream_id
            peer.h2.send_headers(stream, [(":status", "200"), ("content-type", "application/grpc")])
            left = STREAM_WINDOW
            while left:
                room = min(peer.h2.local_flow_control_window(stream), peer.h2.max_outbound_frame_size, left)
                if room:
                    peer.h2.send_data(stream, b"z" * room)
                    left -= room
                peer.flush()
                if not room:
                    assert peer.read()

    with raw.scripted(model) as port, proxy(port) as bench, raw.client(bench.port, {raw.WINDOW: 0}) as peer:
        for number in range(many):
            stream = peer.call(b"%d" % number)
            peer.flush()
            peer.until(ResponseReceived, stream)
            eventually(lambda: _held(bench) == STREAM_WINDOW, "a full window")
            peer.h2.reset_stream(stream, ErrorCodes.CANCEL)
            peer.flush()
            bench.wait_for(number + 1)

    assert {seen.response.size for seen in bench.seen} == {STREAM_WINDOW}


def _held(bench: Any) -> int:  # noqa: ANN401 - looks into a running proxy
    """Give what the one running call of a proxy has of its answer."""
    return sum(
        item._seen.response.size for front in list(bench.proxy.connections) for item in list(front._calls.values())
    )


def test_a_stop_says_goodbye() -> None:
    """An idle client is told at once, and the proxy does not wait for it long."""
    with raw.scripted(obliging) as port, proxy(port) as bench, raw.client(bench.port) as peer:
        assert call(peer) == "0"
        bench.stop()
        end = peer.until(ConnectionTerminated)
        peer.until_closed()
        bench.thread.join(60)
        alive = bench.thread.is_alive()

    assert (end.error_code, alive) == (ErrorCodes.NO_ERROR, False)
