"""Clients that mean harm: frames that cost them nothing and us much. They are told to go, and nothing grows."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from h2.errors import ErrorCodes
from h2.events import ConnectionTerminated, RequestReceived, StreamEnded, StreamReset
from h2.settings import SettingCodes
from hpack import Encoder
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from inference.http2.link import CONNECTION_WINDOW, STREAM_WINDOW
from logger.grpc.methods import INFER
from tests.inference.serving import eventually
from tests.logger.grpc import raw
from tests.logger.grpc.raw import Peer
from tests.logger.grpc.serving import Bench, proxy
from tests.logger.grpc.test_links import call, obliging, status_of

HEAD = [
    (":method", "POST"), (":scheme", "http"), (":path", INFER), (":authority", "h"),
    ("content-type", "application/grpc"),
]  # fmt: skip


def ends(peer: Peer) -> list[ErrorCodes | int]:
    """Read to the end; give the goodbyes' codes."""
    return [event.error_code for event in peer.until_closed() if isinstance(event, ConnectionTerminated)]  # type: ignore[misc] # it has one


def send(peer: Peer, *frames: Frame) -> None:
    """Send frames as they are; who is disconnected meanwhile notices when it reads."""
    write(peer, b"".join(frame.serialize() for frame in frames))


def write(peer: Peer, content: bytes) -> None:
    """Send bytes as they are."""
    try:
        peer.sock.sendall(content)
    except OSError:
        peer.closed = True


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        (b"\xff\xff\xff\x00\x00\x00\x00\x00\x01", ErrorCodes.FRAME_SIZE_ERROR),
        (
            b"\x00\x40\x00\x01\x00\x00\x00\x00\x01" + b"\x00" * 16_384
            + (b"\x00\x40\x00\x09\x00\x00\x00\x00\x01" + b"\x00" * 16_384) * 4,
            ErrorCodes.ENHANCE_YOUR_CALM,
        ),
    ],
)  # fmt: skip
def test_what_is_too_large_is_not_waited_for(frames: bytes, code: ErrorCodes) -> None:
    """A frame of 16 MiB is refused by its length, a head without end by what has come of it."""
    with proxy(1) as bench, raw.client(bench.port) as peer:
        peer.sock.sendall(frames)
        ends = [event for event in peer.until_closed() if isinstance(event, ConnectionTerminated)]

    assert [end.error_code for end in ends] == [code]


def resets(peer: Peer) -> None:
    """Open calls and reset them at once."""
    for _ in range(100):
        peer.h2.reset_stream(peer.call(None), ErrorCodes.CANCEL)


def pings(peer: Peer) -> None:
    """Ask for answers that nobody needs."""
    for _ in range(100):
        peer.h2.ping(b"12345678")


def settings(peer: Peer) -> None:
    """Change the settings again and again."""
    for _ in range(100):
        peer.h2.update_settings({SettingCodes.ENABLE_PUSH: 0})


def priorities(peer: Peer) -> None:
    """Order what nobody orders."""
    for number in range(100):
        peer.h2.prioritize(2 * number + 1, weight=10)


def pongs(peer: Peer) -> None:
    """Answer what nobody asked."""
    send(peer, *(PingFrame(0, b"12345678", flags=["ACK"]) for _ in range(100)))


def agreements(peer: Peer) -> None:
    """Agree to settings that nobody sent."""
    send(peer, *(SettingsFrame(0, flags=["ACK"]) for _ in range(100)))


def unknown(peer: Peer) -> None:
    """Send frames that do not exist."""
    with suppress(OSError):
        peer.sock.sendall(b"\x00\x00\x01\x42\x00\x00\x00\x00\x00x" * 100)


def windows(peer: Peer) -> None:
    """Widen a window by single bytes, for content that does not come."""
    send(peer, *(WindowUpdateFrame(0, 1) for _ in range(100)))


def stragglers(peer: Peer) -> None:
    """Go on with a call that was reset: its content, its end, its reset, all again and again."""
    stream = peer.call(None)
    peer.h2.reset_stream(stream, ErrorCodes.CANCEL)
    peer.flush()
    block = b"\x00\x01a\x01b"
    for _ in range(30):
        send(
            peer, DataFrame(stream, b"x"), HeadersFrame(stream, block, flags=["END_HEADERS", "END_STREAM"]),
            RstStreamFrame(stream), WindowUpdateFrame(stream, 1),
        )  # fmt: skip


def forced_resets(peer: Peer) -> None:
    """Open calls and do to each what has it reset by the proxy: a window without bounds."""
    # In one breath: so many a second are allowed.
    write(
        peer, b"".join(head + WindowUpdateFrame(stream, (1 << 31) - 1).serialize() for stream, head in opened(peer, 50))
    )


def too_many(peer: Peer, calls: int = 100) -> None:
    """Open calls, whatever the settings say about their number."""
    write(peer, b"".join(head for _, head in opened(peer, calls)))


def opened(peer: Peer, calls: int) -> list[tuple[int, bytes]]:
    """Give the heads of calls that stay open, with their streams."""
    found = []
    peer.flush()
    for _ in range(calls):
        stream = peer.call(None)
        found.append((stream, peer.h2.data_to_send()))
        # Over for us alone: h2 looks at all open streams at each call, and would be slower and slower.
        peer.h2.reset_stream(stream)
        peer.h2.clear_outbound_data_buffer()
    return found


def pour(peer: Peer, flood: Callable[[Peer], None]) -> None:
    """Send a flood again and again, until the server ends the connection."""
    for _ in range(200):
        if peer.closed:
            break
        flood(peer)
        peer.flush()
    peer.until_closed()


@pytest.mark.parametrize(
    "flood",
    [
        resets,
        pings,
        settings,
        priorities,
        pongs,
        agreements,
        unknown,
        windows,
        stragglers,
        forced_resets,
        too_many,
    ],
)
def test_floods_are_ended(flood: Callable[[Peer], None]) -> None:
    """Frames that cost their sender nothing end the connection at some point; the model hears little of it."""
    begun = 0

    def model(peer: Peer) -> None:
        nonlocal begun
        while True:
            peer.until(RequestReceived)
            begun += 1

    with raw.scripted(model) as port, proxy(port) as bench:
        since = time.monotonic()
        with raw.client(bench.port) as peer:
            pour(peer, flood)
        eventually(lambda: not bench.proxy.connections, "the connection's end")
        counted, seen, took_s = bench.proxy.tally.refusals(), len(bench.seen), time.monotonic() - since

    assert counted == {429: 1}
    # The limit; twice where calls came before the model's own limit did: it ends its connection, each is tried anew.
    assert begun <= 2 * 128
    # At once, a second, and what is read together with the last of them.
    assert seen <= 1_000 + 200 * took_s + 200


def test_empty_content_is_a_flood_too() -> None:
    """Frames of nothing keep a call open without ever ending it."""
    with raw.scripted(obliging) as port, proxy(port) as bench, raw.client(bench.port) as peer:
        stream = peer.call(None)
        for _ in range(3_000):
            peer.h2.send_data(stream, b"")
        peer.flush()
        ends = [event for event in peer.until_closed() if isinstance(event, ConnectionTerminated)]

    assert [end.error_code for end in ends] in ([ErrorCodes.ENHANCE_YOUR_CALM], [])
    assert bench.proxy.tally.refusals() == {429: 1}


def test_more_calls_than_told_are_refused() -> None:
    """The settings say how many calls may be open; one more is told that it was not taken, and the others go on."""
    with raw.scripted(obliging) as port, proxy(port, grpc_streams=2) as bench, raw.client(bench.port) as peer:
        while peer.h2.remote_settings.max_concurrent_streams != 2:
            assert peer.read()
        peer.h2.remote_settings[SettingCodes.MAX_CONCURRENT_STREAMS] = 100
        peer.h2.remote_settings.acknowledge()
        first, second, third = peer.call(None), peer.call(None), peer.call(None)
        peer.flush()
        reset = peer.until(StreamReset, third)
        for stream in (first, second):
            peer.h2.send_data(stream, b"\x00\x00\x00\x00\x01q", end_stream=True)
        peer.flush()
        found = [status_of(peer, stream)["grpc-status"] for stream in (first, second)]
        after = call(peer)

    assert reset.error_code == ErrorCodes.REFUSED_STREAM
    assert (found, after) == (["0", "0"], "0")


@pytest.mark.parametrize("size", [0, 1])
def test_a_head_of_many_frames_is_ended(size: int) -> None:
    """Continuations without end, empty or nearly so, are few before the connection is."""
    with proxy(1) as bench, raw.client(bench.port) as peer:
        more = [ContinuationFrame(1, b"\x10" * size) for _ in range(1_000)]
        send(peer, HeadersFrame(1, Encoder().encode(HEAD)), *more)
        found = ends(peer)
        counted = bench.proxy.tally.refusals()

    # A client that still sends when it is cut may never see the goodbye.
    assert found in ([ErrorCodes.PROTOCOL_ERROR], [])
    assert counted == {400: 1}


def test_a_small_head_that_means_a_large_one_is_ended() -> None:
    """A kilobyte of references to one large field counts by what it says, not by its own size."""
    writer = Encoder()
    block = writer.encode([*HEAD, ("k", "v" * 4_000)]) + writer.encode([("k", "v" * 4_000)]) * 1_000
    with raw.scripted(obliging) as port, proxy(port) as bench:
        with raw.client(bench.port) as peer:
            send(peer, HeadersFrame(1, block, flags=["END_HEADERS", "END_STREAM"]))
            found = ends(peer)
        with raw.client(bench.port) as other:
            after = call(other)
        counted = bench.proxy.tally.refusals()

    assert len(block) < 6_000
    assert found == [ErrorCodes.ENHANCE_YOUR_CALM]
    assert (after, counted) == ("0", {431: 1})


def test_many_slow_readers_share_one_bound() -> None:
    """However many calls a client leaves unread, what waits for all of them is the connection's window."""
    many = 3 * CONNECTION_WINDOW // STREAM_WINDOW

    def model(peer: Peer) -> None:
        streams: list[int] = []
        while True:
            while any(isinstance(event, StreamEnded) for event in peer.events):
                streams.append(peer.until(StreamEnded).stream_id)
                peer.h2.send_headers(streams[-1], [(":status", "200"), ("content-type", "application/grpc")])
            for stream in streams:
                while room := min(peer.h2.local_flow_control_window(stream), peer.h2.max_outbound_frame_size):
                    peer.h2.send_data(stream, b"z" * room)
            peer.flush()
            assert peer.read()

    with raw.scripted(model) as port, proxy(port) as bench, raw.client(bench.port, {raw.WINDOW: 0}) as peer:
        for number in range(many):
            peer.call(b"%d" % number)
        peer.flush()
        eventually(lambda: _held(bench) == CONNECTION_WINDOW, "a full window")
        peer.h2.ping(b"still on")
        peer.flush()
        assert peer.read()
        held = _held(bench)

    assert held == CONNECTION_WINDOW


def _held(bench: Bench) -> int:
    """Give what the running calls of a proxy have of their answers."""
    fronts: list[Any] = list(bench.proxy.connections)
    # A connection that has said nothing yet is none of HTTP/2 so far.
    calls = [call for front in fronts for call in list(getattr(front, "_calls", {}).values())]
    return sum(call._seen.response.size for call in calls)
