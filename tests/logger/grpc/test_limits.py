"""What limits requests of HTTP/1.1 limits calls and their connections, too, with gRPC's own statuses."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    RemoteSettingsChanged,
    RequestReceived,
    ResponseReceived,
    SettingsAcknowledged,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)

from inference.http2.framing import PREFACE
from logger.grpc.methods import INFER, SERVICE, STREAM
from tests.inference.serving import eventually
from tests.logger.grpc import raw
from tests.logger.grpc.raw import Peer
from tests.logger.grpc.serving import between, model, proxy, streaming, unary
from tests.logger.grpc.test_links import call, obliging, status_of

TIMEOUT = 60


def echo(request: bytes, _context: grpc.ServicerContext) -> bytes:
    """Answer with the request."""
    return request


def ended(running: Callable[[], Any]) -> tuple[grpc.StatusCode, str]:
    """Wait for a call's failure; give its status."""
    with pytest.raises(grpc.RpcError) as caught:
        running()
    return caught.value.code(), caught.value.details()


@pytest.mark.parametrize(
    ("limit", "status", "reason"),
    [
        ("max_per_address", 429, "too many connections from this address"),
        ("max_connections", 503, "too many connections"),
    ],
)
def test_connections_have_limits(limit: str, status: int, reason: str) -> None:
    """One connection too many is told so in its own protocol, others go on, and its place is free afterwards."""
    with model({"ModelInfer": unary(echo)}) as port, proxy(port, **{limit: 1}) as bench:
        with bench.channel() as channel:
            first = channel.unary_unary(INFER)(b"1", timeout=TIMEOUT)
            with bench.channel() as other:
                refused = ended(lambda: other.unary_unary(INFER)(b"2", timeout=TIMEOUT))
            again = channel.unary_unary(INFER)(b"3", timeout=TIMEOUT)
            counted = bench.proxy.tally.refusals()
        eventually(lambda: not bench.proxy.connections, "no open connection")
        with bench.channel() as channel:
            later = channel.unary_unary(INFER)(b"4", timeout=TIMEOUT)

    assert (first, again, later) == (b"1", b"3", b"4")
    assert refused == (grpc.StatusCode.UNAVAILABLE, reason)
    assert list(counted) == [status]


def test_who_says_nothing_is_turned_away_in_http_1() -> None:
    """A connection too many that does not show which protocol it speaks is not kept waiting for long."""
    with raw.scripted(obliging) as port, proxy(port, max_connections=1) as bench, raw.client(bench.port) as peer:
        first = call(peer)
        with socket.create_connection(("127.0.0.1", bench.port)) as sock:
            sock.settimeout(60)
            answer = sock.recv(4096)
        again = call(peer)

    assert (first, again) == ("0", "0")
    assert answer.startswith(b"HTTP/1.1 503")


def test_a_connection_that_is_turned_away_says_goodbye() -> None:
    """Its calls are told why, then it ends, and its address is forgotten."""
    with raw.scripted(obliging) as port, proxy(port, max_per_address=1) as bench:
        with raw.client(bench.port) as peer:
            first = call(peer)
            with raw.client(bench.port) as other:
                refused = call(other)
                end = other.until(ConnectionTerminated)
                other.until_closed()
            again = call(peer)
            open_ = dict(bench.proxy.addresses)
        eventually(lambda: not bench.proxy.addresses, "no open connection")

    assert (first, refused, again) == ("0", "14", "0")
    assert (end.error_code, end.additional_data) == (
        ErrorCodes.ENHANCE_YOUR_CALM, b"too many connections from this address",
    )  # fmt: skip
    assert open_ == {"127.0.0.1": 1}


def test_a_connection_serves_so_many_calls() -> None:
    """The last one is answered, then load spreads anew; a client notices nothing of it."""
    peers: set[str] = set()

    def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
        peers.add(context.peer())
        return request

    with between({"ModelInfer": unary(answer)}, max_requests=3) as (_, channel):
        replies = [channel.unary_unary(INFER)(b"%d" % number, timeout=TIMEOUT) for number in range(10)]

    assert replies == [b"%d" % number for number in range(10)]
    assert len(peers) == 4


def test_the_last_call_of_a_connection_is_answered() -> None:
    """The goodbye counts it among those that are served."""
    with raw.scripted(obliging) as port, proxy(port, max_requests=2) as bench, raw.client(bench.port) as peer:
        found = [call(peer), call(peer)]
        end = peer.until(ConnectionTerminated)
        peer.until_closed()

    assert found == ["0", "0"]
    assert (end.error_code, end.last_stream_id) == (ErrorCodes.NO_ERROR, 3)


def test_a_message_has_a_limit_and_a_stream_has_none() -> None:
    """The limit on content is for each message: many pass, one that is too long is refused by its announced length."""
    got: list[int] = []

    def answer(requests: Iterator[bytes], _context: grpc.ServicerContext) -> Iterator[bytes]:
        for request in requests:
            got.append(len(request))
            yield b"ok"

    def ask(*sizes: int) -> Iterator[bytes]:
        return (b"x" * size for size in sizes)

    handlers = {"ModelStreamInfer": streaming(answer), "ModelInfer": unary(echo)}
    with between(handlers, max_body=1_000) as (bench, channel):
        many = len(list(channel.stream_stream(STREAM)(ask(*[999, 1_000, 0, 1] * 20), timeout=TIMEOUT)))
        passed = len(got)
        one = ended(lambda: channel.unary_unary(INFER)(b"y" * 1_001, timeout=TIMEOUT))
        late = ended(lambda: list(channel.stream_stream(STREAM)(ask(5, 100_000), timeout=TIMEOUT)))
        seen = bench.wait_for(3)
        counted = bench.proxy.tally.refusals()

    assert (many, passed) == (80, 80)
    assert one == (grpc.StatusCode.RESOURCE_EXHAUSTED, "a message of 1001 bytes: expected at most 1000")
    assert late[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert max(got) == 1_000
    assert [item.status for item in seen] == [200, 429, 429]
    assert seen[2].aborted
    assert counted == {413: 2}


def test_a_path_has_a_limit() -> None:
    """A method's name beyond what the settings allow is refused, and the connection lives on."""
    with raw.scripted(obliging) as port, proxy(port, max_target=100) as bench, raw.client(bench.port) as peer:
        stream = peer.call(b"", SERVICE + "x" * 100)
        peer.flush()
        found = status_of(peer, stream)
        after = call(peer)
        counted = bench.proxy.tally.refusals()

    assert (found["grpc-status"], found["grpc-message"]) == ("8", "expected a path of at most 100 bytes")
    assert (after, counted) == ("0", {414: 1})


@pytest.mark.parametrize("last", [False, True])
def test_an_answers_metadata_has_a_limit(last: bool) -> None:  # noqa: FBT001 - pytest passes it
    """Too many fields of the model, in the head or in the trailers, are not passed on."""
    many = [(f"k{number}", "v") for number in range(200)]

    def script(peer: Peer) -> None:
        while True:
            stream = peer.until(StreamEnded).stream_id
            head = [(":status", "200"), ("content-type", "application/grpc")]
            peer.h2.send_headers(stream, head if last else head + many)
            if last:
                peer.h2.send_data(stream, b"\x00\x00\x00\x00\x00")
                peer.h2.send_headers(stream, [("grpc-status", "0"), *many], end_stream=True)
            peer.flush()

    with raw.scripted(script) as port, proxy(port) as bench, raw.client(bench.port) as peer:
        stream = peer.call(b"q")
        peer.flush()
        found = status_of(peer, stream)
        (seen,) = bench.wait_for(1)

    assert found["grpc-status"] == "8"
    assert found["grpc-message"] == "the model's answer has more than 128 fields of metadata"
    assert (seen.status, seen.aborted) == (429, last)


def test_a_silent_model_is_given_up() -> None:
    """No answer in `first_byte_s` after the whole request: the client hears so, the model is told to stop."""
    gone = threading.Event()

    def answer(_request: bytes, context: grpc.ServicerContext) -> bytes:
        context.add_callback(gone.set)
        assert gone.wait(TIMEOUT)
        return b""

    with between({"ModelInfer": unary(answer)}, first_byte_s=1.0) as (bench, channel):
        found = ended(lambda: channel.unary_unary(INFER)(b"", timeout=TIMEOUT))
        assert gone.wait(TIMEOUT)
        (seen,) = bench.wait_for(1)

    assert found == (grpc.StatusCode.DEADLINE_EXCEEDED, "no answer from the model within 1 s")
    assert (seen.status, seen.aborted) == (504, False)


@pytest.mark.parametrize(
    ("limit", "reason"),
    [("answer_s", "nothing was heard for 1 s"), ("total_s", "no whole answer within 1 s")],
)
def test_a_stream_that_takes_too_long_is_ended(limit: str, reason: str) -> None:
    """Silence of both sides, or the whole of it: what came is passed on, then a status; the log says aborted."""
    gone = threading.Event()

    def answer(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        context.add_callback(gone.set)
        yield next(requests)
        assert gone.wait(TIMEOUT)

    def ask() -> Iterator[bytes]:
        yield b"one"
        gone.wait(TIMEOUT)

    with between({"ModelStreamInfer": streaming(answer)}, **{limit: 1.0}) as (bench, channel):
        running = channel.stream_stream(STREAM)(ask(), timeout=TIMEOUT)
        first = next(running)
        found = ended(lambda: list(running))
        assert gone.wait(TIMEOUT)
        (seen,) = bench.wait_for(1)

    assert first == b"one"
    assert found == (grpc.StatusCode.DEADLINE_EXCEEDED, reason)
    assert (seen.status, seen.aborted) == (504, True)


def test_a_model_that_reads_nothing_is_given_up() -> None:
    """It gives no window for the request: after `answer_s` the client hears so."""
    ready = threading.Event()

    def script(peer: Peer) -> None:
        peer.until(RequestReceived)
        # From here on the proxy knows that there is no window.
        peer.until(SettingsAcknowledged)
        ready.set()
        peer.until_closed()

    with (
        raw.scripted(script, {raw.WINDOW: 0}) as port,
        proxy(port, answer_s=1.0) as bench,
        raw.client(bench.port) as peer,
    ):
        stream = peer.call(None)
        peer.flush()
        assert ready.wait(TIMEOUT)
        peer.h2.send_data(stream, b"\x00\x00\x00\x00\x01q", end_stream=True)
        peer.flush()
        found = status_of(peer, stream)
        (seen,) = bench.wait_for(1)

    assert (found["grpc-status"], found["grpc-message"]) == ("4", "the model has read nothing for 1 s")
    assert (seen.status, seen.aborted) == (504, False)


def test_a_model_that_takes_no_connection_is_unavailable() -> None:
    """Its queue is full: after `connect_s` the client hears so."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        port = listener.getsockname()[1]
        full: list[socket.socket] = []
        for _ in range(4):
            full.append(socket.socket())
            full[-1].setblocking(False)  # noqa: FBT003 - the standard library's own
            full[-1].connect_ex(("127.0.0.1", port))
        with proxy(port, connect_s=0.3) as bench, raw.client(bench.port) as peer:
            stream = peer.call(b"q")
            peer.flush()
            found = status_of(peer, stream)
            (seen,) = bench.wait_for(1)
        for sock in full:
            sock.close()

    assert (found["grpc-status"], found["grpc-message"]) == ("14", "the model did not take the connection in time")
    assert (seen.status, seen.aborted) == (503, False)


def test_a_message_has_to_come_in_time_and_a_stream_may_be_silent() -> None:
    """Within a message a client owes bytes, between messages it owes nothing, even on the same connection."""
    with raw.scripted(obliging) as port:
        settings = {"body_s": 0.5, "min_rate": 1_000}
        with proxy(port, **settings) as bench, raw.client(bench.port) as peer:
            silent, whole, slow = peer.call(None), peer.call(None), peer.call(None)
            peer.h2.send_data(whole, b"\x00\x00\x00\x00\x01q")
            peer.h2.send_data(slow, b"\x00\x00\x01\x00\x00" + b"z" * 10)
            peer.flush()
            found = status_of(peer, slow)
            peer.h2.send_data(silent, b"\x00\x00\x00\x00\x01q", end_stream=True)
            peer.h2.end_stream(whole)
            peer.flush()
            others = [status_of(peer, stream)["grpc-status"] for stream in (silent, whole)]
            seen = bench.wait_for(3)
            counted = bench.proxy.tally.refusals()

    assert (found["grpc-status"], found["grpc-message"]) == ("4", "expected at least 1000 bytes of a message a second")
    assert others == ["0", "0"]
    assert counted == {408: 1}
    assert (seen[0].status, seen[0].aborted) == (504, True)


def flooding(peer: Peer) -> None:
    """Be a model that answers with as much as there is room for."""
    while True:
        stream = peer.until(StreamEnded).stream_id
        peer.h2.send_headers(stream, [(":status", "200"), ("content-type", "application/grpc")])
        while not any(isinstance(event, StreamReset) and event.stream_id == stream for event in peer.events):
            while room := min(peer.h2.local_flow_control_window(stream), peer.h2.max_outbound_frame_size):
                peer.h2.send_data(stream, b"z" * room)
            peer.flush()
            assert peer.read()


def test_a_client_that_takes_nothing_of_an_answer_is_cut() -> None:
    """No window for `send_s`: that call ends, as aborted, and the connection serves others."""
    with (
        raw.scripted(flooding) as port,
        proxy(port, send_s=0.3) as bench,
        raw.client(bench.port, {raw.WINDOW: 0}) as peer,
    ):
        stream = peer.call(b"q")
        peer.flush()
        reset = peer.until(StreamReset, stream)
        (seen,) = bench.wait_for(1)
        other = peer.call(b"q")
        peer.flush()
        peer.until(ResponseReceived, other)

    assert reset.error_code == ErrorCodes.CANCEL
    assert (seen.status, seen.aborted) == (499, True)


def test_a_client_that_reads_nothing_is_disconnected() -> None:
    """Its windows are wide open, but it does not read its socket: after `send_s` the connection is cut."""
    with (
        raw.scripted(flooding) as port,
        proxy(port, send_s=0.5) as bench,
        raw.client(bench.port, {raw.WINDOW: (1 << 31) - 1}) as peer,
    ):
        peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        peer.h2.increment_flow_control_window((1 << 31) - 1 - 65_535)
        peer.call(b"q")
        peer.flush()
        (seen,) = bench.wait_for(1)
        # While the client still holds its end.
        eventually(lambda: not bench.proxy.connections, "the connection's end")

    assert (seen.status, seen.aborted) == (499, True)


def test_a_deadline_is_passed_on_and_kept() -> None:
    """The model is told the client's deadline; a client that does not end its call then is told in the end."""
    told: list[dict[Any, Any]] = []
    resets: list[StreamReset] = []

    def script(peer: Peer) -> None:
        told.append(dict(peer.until(RequestReceived).headers))
        resets.append(peer.until(StreamReset))

    with raw.scripted(script) as port, proxy(port) as bench, raw.client(bench.port) as peer:
        stream = peer.call(b"q", INFER, ("grpc-timeout", "1000m"))
        peer.flush()
        found = status_of(peer, stream)
        (seen,) = bench.wait_for(1)
        eventually(lambda: bool(resets), "the model's reset")

    assert told[0]["grpc-timeout"] == "1000m"
    assert (found["grpc-status"], found["grpc-message"]) == ("4", "the call's own deadline of 1 s is over")
    assert (seen.status, seen.aborted) == (504, False)


@pytest.mark.parametrize(
    "begun",
    [
        b"\x00\x00\x01\x01\x00\x00\x00\x00\x01\x82",  # HEADERS, and CONTINUATION is to follow
        b"\x00\x00\x05\x01\x04\x00\x00\x00\x01\x82",  # one byte of HEADERS' five
    ],
)
def test_a_head_has_to_come_in_time(begun: bytes) -> None:
    """A head that does not end holds up a whole connection: after `head_s` it is told to go."""
    with proxy(1, head_s=1.0) as bench, raw.client(bench.port) as peer:
        # After the settings, so that none has to be answered within the head.
        peer.until(RemoteSettingsChanged)
        peer.until(SettingsAcknowledged)
        peer.sock.sendall(begun)
        end = peer.until(ConnectionTerminated)
        peer.until_closed()
        counted = bench.proxy.tally.refusals()

    assert (end.error_code, end.additional_data) == (ErrorCodes.ENHANCE_YOUR_CALM, b"no whole head within 1 s")
    assert counted == {408: 1}


def test_a_preface_has_to_come_in_time() -> None:
    """What begins like the preface and does not go on is a slow head like any other."""
    with proxy(1, head_s=0.3) as bench, socket.create_connection(("127.0.0.1", bench.port)) as sock:
        sock.settimeout(60)
        sock.sendall(PREFACE[:20])
        answer = sock.recv(4096)

    assert answer.startswith(b"HTTP/1.1 408")


def test_what_runs_too_long_after_a_stop_is_cut() -> None:
    """`drain_s` bounds a stop; what it cuts is logged as aborted."""
    begun = threading.Event()
    finish = threading.Event()

    def answer(request: bytes, _context: grpc.ServicerContext) -> bytes:
        begun.set()
        finish.wait(TIMEOUT)
        return request

    with between({"ModelInfer": unary(answer)}, drain_s=0.2) as (bench, channel):
        running = channel.unary_unary(INFER).future(b"", timeout=TIMEOUT)
        assert begun.wait(TIMEOUT)
        bench.stop()
        found = ended(running.result)
        bench.thread.join(TIMEOUT)
        finish.set()

    assert found[0] is grpc.StatusCode.UNAVAILABLE
    assert [(item.status, item.aborted) for item in bench.seen] == [(499, True)]


def test_a_reader_of_single_bytes_is_served() -> None:
    """A client may give room byte by byte: it gets its answer whole, and other calls do not wait for it."""
    with (
        raw.scripted(obliging) as port,
        proxy(port, send_s=3.0) as bench,
        raw.client(bench.port, {raw.WINDOW: 0}) as peer,
    ):
        stream = peer.call(b"q")
        peer.flush()
        peer.until(ResponseReceived, stream)
        begun, got = time.monotonic(), b""
        while len(got) < 7:
            peer.h2.increment_flow_control_window(1, stream)
            peer.flush()
            got += peer.until(DataReceived, stream).data
            # Each byte comes later than the last sweep saw it: what counts is that it moves.
            eventually(lambda begun=begun, got=got: time.monotonic() - begun > len(got) * 0.6, "the next byte's time")  # type: ignore[misc] # a lambda's defaults
        found: dict[Any, Any] = dict(peer.until(TrailersReceived, stream).headers)

    assert got == b"\x00\x00\x00\x00\x02hi"
    assert found["grpc-status"] == "0"
