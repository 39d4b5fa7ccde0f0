"""Calls frame by frame, as no client library sends them, and with the limits that hold for them."""

from __future__ import annotations

import gzip
import socket
import time
import zlib
from itertools import pairwise
from typing import Any

import grpc
import pytest
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    PingAckReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.grpc.assembly import Assembly, prefixed
from inference.http2.status import Code
from tests.inference.grpc.hosting import DEAF, ECHO, FLOOD, TALK, WAIT, hosted
from tests.inference.serving import eventually
from tests.logger.grpc import raw
from tests.logger.grpc.raw import Peer

GZIP = (("grpc-encoding", "gzip"), ("grpc-accept-encoding", "identity, gzip"))


def answered(peer: Peer, stream: int) -> tuple[dict[str, str], bytes]:
    """Read a call to its end; give all of its fields, and its content."""
    peer.flush()
    peer.until(StreamEnded, stream)
    fields: dict[str, str] = {}
    content = b""
    for event in list(peer.events):
        if getattr(event, "stream_id", None) != stream:
            continue
        peer.events.remove(event)
        if isinstance(event, (ResponseReceived, TrailersReceived)):
            fields |= {str(name): str(value) for name, value in event.headers or ()}
        elif isinstance(event, DataReceived):
            content += event.data or b""
    return fields, content


def codes(peer: Peer, *streams: int) -> list[str]:
    """Give the names of the calls' statuses."""
    return [Code(int(answered(peer, stream)[0]["grpc-status"])).name for stream in streams]


@settings(max_examples=60)
@given(cuts=st.lists(st.integers(0, 400), max_size=12), sizes=st.lists(st.integers(1, 30), min_size=1, max_size=8))
def test_frames_may_come_in_any_pieces(cuts: list[int], sizes: list[int]) -> None:
    """Bytes cut anywhere, a message over many frames, empty ones too: the same calls, the same answers."""
    with hosted() as server, raw.client(server.port) as peer:
        message = bytes(range(sum(sizes)))
        content = prefixed(message, packed=False) + message
        one, two = peer.call(None), peer.call(None)
        for stream in (one, two):
            at = 0
            for size in sizes:
                peer.h2.send_data(stream, content[at : at + size])
                at += size
            peer.h2.send_data(stream, content[at:], end_stream=True)
        data = peer.h2.data_to_send()
        edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
        for begin, end in pairwise(edges):
            peer.sock.sendall(data[begin:end])
        answers = [answered(peer, stream) for stream in (one, two)]

    assert [(fields[":status"], fields["grpc-status"]) for fields, _ in answers] == [("200", "0")] * 2
    assert [body for _, body in answers] == [content] * 2


@pytest.mark.parametrize(
    ("head", "path", "status", "code"),
    [
        ({":method": "POST", "content-type": "application/json"}, ECHO, "415", None),
        ({":method": "POST"}, ECHO, "415", None),
        ({":method": "POST", "content-type": "application/grpc-web"}, ECHO, "415", None),
        ({":method": "GET", "content-type": "application/grpc"}, ECHO, "415", None),
        ({":method": "POST", "content-type": "application/grpc+proto"}, ECHO, "200", "0"),
        ({":method": "POST", "content-type": "application/grpc"}, "/no.Service/Method", "200", "12"),
    ],
)
def test_what_is_no_call(head: dict[str, str], path: str, status: str, code: str | None) -> None:
    """What is no gRPC is 415 with a reason; a method that is not here is UNIMPLEMENTED; both leave the connection."""
    with hosted() as server, raw.client(server.port) as peer:
        stream = peer.h2.get_next_available_stream_id()
        first = {":method": head.pop(":method"), ":scheme": "http", ":path": path, ":authority": "h"}
        peer.h2.send_headers(stream, [*first.items(), *head.items()])
        peer.h2.send_data(stream, b"\x00\x00\x00\x00\x00", end_stream=True)
        fields, content = answered(peer, stream)
        after = codes(peer, peer.call(b"x"))

    assert (fields[":status"], fields.get("grpc-status")) == (status, code)
    assert (b"expected POST and application/grpc" in content) == (status == "415")
    assert after == ["OK"]


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "UNIMPLEMENTED"),
        (b"\x00\x00\x00\x00\x01x" * 2, "UNIMPLEMENTED"),
        (b"\x00\x00\x00\x00\x02x", "INVALID_ARGUMENT"),
        (b"\x07\x00\x00\x00\x01x", "INVALID_ARGUMENT"),
        (b"\x00\xff\xff\xff\xff", "RESOURCE_EXHAUSTED"),
        (b"\x01\x00\x00\x00\x01x", "UNIMPLEMENTED"),
    ],
    ids=["none", "two", "cut", "flag", "length", "coding"],
)
def test_requests_of_another_form(content: bytes, code: str) -> None:
    """No message, several, half of one, none at all, one of four gigabytes, and one that nobody can unpack."""
    with hosted() as server, raw.client(server.port) as peer:
        stream = peer.call(None)
        peer.h2.send_data(stream, content, end_stream=True)
        found = codes(peer, stream, peer.call(b"x"))

    assert found == [code, "OK"]


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
@pytest.mark.parametrize("size", [10, 5_000, 500_000])
def test_answers_are_packed_for_who_packs(coding: str, size: int) -> None:
    """Who compresses requests gets compressed answers, where that saves something."""
    message = b"0123456789" * (size // 10)
    packed = gzip.compress(message) if coding == "gzip" else zlib.compress(message)
    fields = (("grpc-encoding", coding), ("grpc-accept-encoding", f"identity,{coding}"))
    with hosted() as server, raw.client(server.port) as peer:
        stream = peer.call(None, ECHO, *fields)
        peer.h2.send_data(stream, prefixed(packed, packed=True) + packed, end_stream=True)
        said, content = answered(peer, stream)
    ((flag, body),) = Assembly(-1).add(content)

    assert said["grpc-encoding"] == coding
    assert flag == (size >= 1_024)
    assert (zlib.decompress(body, zlib.MAX_WBITS + 32) if flag else body) == message


def test_who_does_not_pack_gets_answers_as_they_are() -> None:
    """That a client could unpack is no reason to have it do so."""
    with hosted() as server, raw.client(server.port) as peer:
        said, content = answered(peer, peer.call(b"0" * 10_000, ECHO, ("grpc-accept-encoding", "identity, gzip")))

    assert "grpc-encoding" not in said
    assert content[5:] == b"0" * 10_000


def test_bombs_are_refused() -> None:
    """A message that would be too large unpacked is refused, never unpacked."""
    bomb = gzip.compress(bytes(10 << 20))
    with hosted(grpc_max_receive=1 << 20) as server, raw.client(server.port) as peer:
        stream = peer.call(None, ECHO, *GZIP)
        peer.h2.send_data(stream, prefixed(bomb, packed=True) + bomb, end_stream=True)
        found = codes(peer, stream)

    assert found == ["RESOURCE_EXHAUSTED"]


def test_grpcs_own_client_packs() -> None:
    """GRPC's client compresses and unpacks, unary and in streams."""
    message = b"0123456789" * 10_000
    with hosted() as server, grpc.insecure_channel(f"127.0.0.1:{server.port}", compression=grpc.Compression.Gzip) as to:
        echoed = to.unary_unary(ECHO)(message, timeout=60)
        told = list(to.stream_stream(TALK)(iter([message] * 3), timeout=60))

    assert echoed == message
    assert told == [message] * 3


def test_small_windows_slow_answers_down() -> None:
    """A client that gives little room gets its answer piece by piece, as it gives more."""
    with hosted() as server, raw.client(server.port, {raw.WINDOW: 100}) as peer:
        stream = peer.call(b"y" * 1_000)
        peer.flush()
        received = b""
        while len(received) < 1_005:
            event = peer.until(DataReceived, stream)
            received += event.data or b""

            assert len(event.data or b"") <= 100

            peer.h2.acknowledge_received_data(event.flow_controlled_length or 0, stream)
            peer.flush()
        code = codes(peer, stream)

    assert (received[5:], code) == (b"y" * 1_000, ["OK"])


def test_a_slow_reader_slows_its_stream_down() -> None:
    """A method makes no more than a client takes, but for what is on its way; cut off, nothing stays."""
    with hosted() as server:
        with raw.client(server.port) as peer:
            peer.call(b"", FLOOD)
            peer.flush()
            peer.until(DataReceived)
            eventually(lambda: server.made >= 10, "the first messages")
            peer.h2.ping(b"12345678")
            peer.flush()
            peer.read()
            made = server.made
        eventually(lambda: not server.host.connections, "the connection's end")

    # 64 KiB of window, 256 KiB in waiting.
    assert made <= 12
    assert server.host.held == 0


def test_a_method_that_does_not_read_slows_its_client_down() -> None:
    """A client may send what the windows allow, small messages or large; then it waits with the rest."""
    held = []
    for size in (1_000, 16_000):
        message = prefixed(b"x" * size, packed=False) + b"x" * size
        with hosted() as server, raw.client(server.port) as peer:
            stream = peer.call(None, DEAF)
            while (room := peer.h2.local_flow_control_window(stream)) >= len(message):
                for _ in range(room // len(message)):
                    for at in range(0, len(message), 16_384):
                        peer.h2.send_data(stream, message[at : at + 16_384])
                peer.h2.ping(b"12345678")
                peer.flush()
                # What the server has to say about the content, it says before this.
                peer.until(PingAckReceived)
            held.append(server.host.held)

    assert all(64 * 1024 < each <= 768 * 1024 for each in held), held


def test_what_waits_is_bounded() -> None:
    """Half messages of many calls are refused when they are too much together, and told when to come again."""
    part = prefixed(b"x" * 60_000, packed=False) + b"x" * 30_000
    with hosted(queue_bytes=50_000) as server, raw.client(server.port) as peer:
        first, second = peer.call(None), peer.call(None)
        peer.h2.send_data(first, part[:16_000])
        peer.h2.send_data(first, part[16_000:])
        peer.h2.send_data(second, part[:16_000])
        peer.h2.send_data(second, part[16_000:])
        refused, _ = answered(peer, second)
        peer.h2.send_data(first, b"x" * 14_000)
        peer.h2.send_data(first, b"x" * 16_000, end_stream=True)
        found = codes(peer, first)
        eventually(lambda: server.host.held == 0, "nothing is held")

    assert (refused["grpc-status"], refused["retry-after"]) == ("14", "1")
    assert found == ["OK"]


def test_deadlines() -> None:
    """A call whose deadline is over is ended for a client that does not do it, and its method is cancelled."""
    with hosted() as server, raw.client(server.port) as peer:
        found = codes(peer, peer.call(b"", WAIT, ("grpc-timeout", "300m")))

        eventually(lambda: server.cancelled == 1, "the method's end")

        assert found == ["DEADLINE_EXCEEDED"]


def test_requests_that_do_not_come() -> None:
    """A request that is not whole in time is given up, begun or not; a stream may be silent between messages."""
    with hosted(body_timeout_s=0.3) as server, raw.client(server.port) as peer:
        nothing, half, stream = peer.call(None), peer.call(None), peer.call(None, TALK)
        peer.h2.send_data(half, b"\x00\x00\x00\x00\x05x")
        late = codes(peer, nothing, half)
        peer.h2.send_data(stream, b"\x00\x00\x00\x00\x01x", end_stream=True)
        after = codes(peer, stream)

    assert (late, after) == (["DEADLINE_EXCEEDED"] * 2, ["OK"])


def test_who_cannot_send_is_not_late() -> None:
    """Calls whose method takes nothing may use the connection's window up: no other call's client is to blame."""
    message = prefixed(b"x" * 600_000, packed=False) + b"x" * 600_000
    with hosted() as server, raw.client(server.port) as peer:
        while peer.h2.outbound_flow_control_window >= 16_384:
            stream, content = peer.call(None, DEAF), message * 2
            while room := min(peer.h2.local_flow_control_window(stream), 16_384):
                peer.h2.send_data(stream, content[:room])
                content = content[room:]
                peer.h2.ping(b"12345678")
                peer.flush()
                peer.until(PingAckReceived)
        call = peer.call(None)
        peer.flush()
        eventually(lambda: any(each.stream == call for each in server.calls()), "the call")
        server.sweep(time.monotonic() + 1_000)
        server.open()
        while not peer.h2.local_flow_control_window(call):
            assert peer.read()
        peer.h2.send_data(call, prefixed(b"", packed=False), end_stream=True)
        found = codes(peer, call)

    assert found == ["OK"]


def test_resets_cancel() -> None:
    """A client that breaks a call off, or goes away, has its method cancelled."""
    with hosted() as server:
        with raw.client(server.port) as peer:
            one = peer.call(b"", WAIT)
            peer.call(b"", WAIT)
            peer.flush()
            eventually(lambda: server.begun == 2, "both calls")
            peer.h2.reset_stream(one, ErrorCodes.CANCEL)
            peer.flush()
            eventually(lambda: server.cancelled == 1, "the one call's end")
        eventually(lambda: server.cancelled == 2, "the other's")
        eventually(lambda: not server.host.connections, "the connection's end")


def test_stopping_lets_calls_end() -> None:
    """A server that stops says goodbye, answers what runs, streams too, and takes nothing more on the connection."""
    with hosted() as server, raw.client(server.port) as peer:
        waiting, talking = peer.call(b"w", WAIT), peer.call(None, TALK)
        peer.flush()
        eventually(lambda: server.begun == 1 and server.busy() == 2, "both calls")
        server.stop(60)
        goodbye = peer.until(ConnectionTerminated)
        late = peer.call(b"late")
        peer.flush()
        refused = peer.until(StreamReset, late)
        server.open()
        peer.h2.send_data(talking, b"\x00\x00\x00\x00\x01t", end_stream=True)
        answers = [answered(peer, stream) for stream in (waiting, talking)]
        peer.until_closed()

    assert (goodbye.error_code, goodbye.last_stream_id) == (ErrorCodes.NO_ERROR, talking)
    assert refused.error_code == ErrorCodes.REFUSED_STREAM
    assert [content[5:] for _, content in answers] == [b"w", b"t"]


def test_stopping_does_not_wait_for_ever() -> None:
    """What runs at the end of the grace is told so."""
    with hosted() as server, raw.client(server.port) as peer:
        stream = peer.call(b"w", WAIT)
        peer.flush()
        eventually(lambda: server.begun == 1, "the call")
        server.stop(0.05)
        found = codes(peer, stream)

        eventually(lambda: server.cancelled == 1, "the method's end")

        assert found == ["UNAVAILABLE"]


def test_clients_that_vanish_are_noticed() -> None:
    """The system asks silent clients whether they are still there."""
    with hosted() as server, raw.client(server.port) as peer:
        codes(peer, peer.call(b"x"))
        (connection,) = server.host.connections
        sock = connection.transport.get_extra_info("socket")
        asked = sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)

    assert asked


def test_metadata_reaches_methods() -> None:
    """Metadata comes without what is gRPC's own, a head that comes again included; the request id goes back."""
    own: Any = (("grpc-timeout", "9S"), ("te", "trailers"), ("k-bin", "AA"), ("a", "1"), ("x-request-id", "r"))
    with hosted() as server, raw.client(server.port) as peer:
        said = [answered(peer, peer.call(b"x", ECHO, *own))[0] for _ in range(2)]

    assert [dict(asked.head) for asked in server.asked] == [{"a": "1", "x-request-id": "r"}] * 2
    assert all(asked.deadline is not None for asked in server.asked)
    assert [fields["x-request-id"] for fields in said] == ["r", "r"]
