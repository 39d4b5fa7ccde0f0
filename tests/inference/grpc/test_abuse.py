"""Clients that mean harm, on the predictor's port: told to go, and nothing of theirs stays."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

import pytest
from h2.errors import ErrorCodes
from h2.events import ConnectionTerminated, StreamEnded, StreamReset
from h2.settings import SettingCodes
from hpack import Encoder
from hyperframe.frame import ContinuationFrame, HeadersFrame

from inference.grpc.connection import STREAMS
from inference.http2.status import Code
from tests.inference.grpc.hosting import CHECK, DEAF, FLOOD, TALK, WAIT, Hosted, hosted
from tests.inference.grpc.test_connection import answered, codes
from tests.inference.serving import eventually
from tests.logger.grpc import raw
from tests.logger.grpc import test_abuse as floods
from tests.logger.grpc.raw import Peer

WIDE = {int(SettingCodes.INITIAL_WINDOW_SIZE): (1 << 31) - 1}


def _after(server: Hosted) -> None:
    """Nothing of what was is left, and others are served."""
    eventually(lambda: not server.host.connections, "the connection's end")
    with raw.client(server.port) as peer:
        found = codes(peer, peer.call(b"x"))

    assert found == ["OK"]
    assert server.host.held == 0


def stream_resets(peer: Peer) -> None:
    """Open streams and reset them once their methods run."""
    streams = [peer.call(None, TALK) for _ in range(100)]
    peer.flush()
    for stream in streams:
        peer.h2.reset_stream(stream, ErrorCodes.CANCEL)


@pytest.mark.parametrize(
    "flood",
    [
        stream_resets, floods.resets, floods.pings, floods.settings, floods.priorities, floods.pongs, floods.agreements,
        floods.unknown, floods.windows, floods.stragglers, floods.forced_resets,
    ],
)  # fmt: skip
def test_floods_are_ended(flood: Callable[[Peer], None]) -> None:
    """Frames that cost their sender nothing end the connection at some point, and no method begins for them."""
    with hosted() as server:
        with raw.client(server.port) as peer:
            floods.pour(peer, flood)

            assert peer.closed

        _after(server)
        begun = len(server.asked)

    assert begun == 1


def test_clients_that_say_goodbye_and_read_nothing_are_cut() -> None:
    """What still waits to be taken holds nothing open for longer than the limit."""
    with hosted(body_timeout_s=1.0) as server, raw.client(server.port, WIDE) as peer:
        peer.h2.increment_flow_control_window(1 << 30)
        stream = peer.call(b"", FLOOD)
        peer.flush()
        # Or it was cut before anybody could look.
        eventually(
            lambda: server.host.unread > 0 or any(each.paused for each in list(server.host.connections)),
            "the client's buffers are full",
        )
        peer.h2.reset_stream(stream)
        peer.h2.close_connection()
        peer.flush()
        eventually(lambda: not server.host.connections, "the connection's end")

        assert server.host.held == 0
        assert server.host.unread == 1


def test_a_ping_for_each_answer_is_no_flood() -> None:
    """Go's gRPC measures the connection with a ping after each piece of content: at any rate of calls it is served."""
    with hosted() as server, raw.client(server.port) as peer:
        for _ in range(3_000):
            stream = peer.call(b"x")
            peer.flush()
            peer.until(StreamEnded, stream)
            peer.events.clear()
            peer.h2.ping(b"12345678")
        found = codes(peer, peer.call(b"x"))

    assert found == ["OK"]


def test_calls_beyond_the_limit_are_refused() -> None:
    """More calls than the settings say are refused one by one; those that run go on; who insists is told to go."""
    with hosted() as server:
        with raw.client(server.port) as peer:
            while peer.h2.remote_settings.max_concurrent_streams != STREAMS:
                assert peer.read()
            peer.h2.remote_settings[SettingCodes.MAX_CONCURRENT_STREAMS] = 1 << 20
            peer.h2.remote_settings.acknowledge()
            running = [peer.call(b"w", WAIT) for _ in range(STREAMS)]
            more = peer.call(b"w", WAIT)
            peer.flush()
            reset = peer.until(StreamReset, more)
            server.open()
            found = codes(peer, *running)
        with raw.client(server.port) as peer:
            # All of them at once: so many a second are allowed.
            floods.too_many(peer, 3_000)
            ends = [event for event in peer.until_closed() if isinstance(event, ConnectionTerminated)]
        _after(server)

    assert reset.error_code == ErrorCodes.REFUSED_STREAM
    assert found == ["OK"] * STREAMS
    # A client that still sends when it is cut may never see the goodbye.
    assert [end.error_code for end in ends] in ([ErrorCodes.ENHANCE_YOUR_CALM], [])


@pytest.mark.parametrize(
    "block",
    [
        Encoder().encode([*floods.HEAD, ("k", "v" * 40_000)]),
        (writer := Encoder()).encode([*floods.HEAD, ("k", "v" * 4_000)]) + writer.encode([("k", "v" * 4_000)]) * 100,
    ],
    ids=["large", "references"],
)
def test_large_heads_are_ended(block: bytes) -> None:
    """A head counts by what it says; one that is too large ends the connection, whose table is then in doubt."""
    with hosted() as server:
        with raw.client(server.port) as peer:
            floods.send(peer, HeadersFrame(1, block[:16_000]), ContinuationFrame(1, block[16_000:32_000]))
            floods.send(peer, ContinuationFrame(1, block[32_000:], flags=["END_HEADERS"]))
            ends = floods.ends(peer)
        _after(server)

    assert ends in ([ErrorCodes.ENHANCE_YOUR_CALM], [])


def test_messages_of_nothing_count() -> None:
    """Messages without content are counted as what they take here: many of them are too much like large ones."""
    with hosted(queue_bytes=100_000) as server:
        with raw.client(server.port) as peer:
            stream = peer.call(None, DEAF)
            peer.h2.send_data(stream, b"\x00\x00\x00\x00\x00" * 2_000)
            found = codes(peer, stream)
        _after(server)

    assert found == ["UNAVAILABLE"]


def test_a_client_that_reads_nothing_is_cut() -> None:
    """Windows without end and a socket that is not read: what waits is bounded, and it is given up in time."""
    widest: dict[int, int] = {raw.WINDOW: (1 << 31) - 1}
    with hosted(body_timeout_s=0.5) as server:
        with raw.client(server.port, widest) as peer:
            peer.h2.increment_flow_control_window((1 << 31) - 1 - 65_535)
            peer.call(b"", FLOOD)
            peer.flush()
            eventually(lambda: server.made > 0, "the first message")
            eventually(lambda: not server.host.connections, "its end")
            made = server.made
        _after(server)

    # What the system's own buffers take, and a little more.
    assert made * 32_768 < 64 << 20


def test_one_connection_more_is_told_and_sent_away() -> None:
    """Its calls are UNAVAILABLE, with the reason, and it ends, silent or not; others are served, and later it is."""
    with hosted(connections=1) as server:
        with raw.client(server.port) as one, raw.client(server.port) as more, raw.client(server.port) as silent:
            served = codes(one, one.call(b"x"))
            said, content = answered(more, more.call(b"x"))
            ends = [[type(event) for event in peer.until_closed()] for peer in (more, silent)]
            served += codes(one, one.call(b"x"))
        eventually(lambda: not server.host.connections, "all have left")
        with raw.client(server.port) as peer:
            served += codes(peer, peer.call(b"x"))

    assert served == ["OK"] * 3
    assert (Code(int(said["grpc-status"])), content) == (Code.UNAVAILABLE, b"")
    assert said["grpc-message"] == "too many connections; retry later"
    assert said["retry-after"] == "1"
    assert all(ConnectionTerminated in each for each in ends)
    assert server.host.places.refused == 2


def test_who_has_been_idle_gives_way() -> None:
    """A connection without calls is told to go, for one that comes; one that is being turned away takes no place."""
    with hosted(connections=1) as server, ExitStack() as stack:
        idle, early = (stack.enter_context(raw.client(server.port)) for _ in range(2))
        served = [*codes(idle, idle.call(b"x")), *codes(early, early.call(b"x"))]
        for connection in list(server.host.connections):
            connection.idle_since -= 10.0
        # It looks for those once a second.
        server.host.places._looked -= 1.0
        late = stack.enter_context(raw.client(server.port))
        served += codes(late, late.call(b"x"))
        told = [type(event) for event in idle.until_closed()]

    assert served == ["OK", "UNAVAILABLE", "OK"]
    assert ConnectionTerminated in told


def test_a_crowd_is_cut() -> None:
    """Hundreds beyond the limit are not all told why."""
    with hosted(connections=1) as server, ExitStack() as stack:
        peers = [stack.enter_context(raw.client(server.port)) for _ in range(300)]
        eventually(lambda: server.host.places.refused == 299, "all have come")
        eventually(lambda: len(server.host.connections) <= 257, "some are cut")
        served = codes(peers[0], peers[0].call(b"x"))

    assert served == ["OK"]


def test_probes_are_answered_when_all_places_are_taken() -> None:
    """On a connection that is one too many a kubelet hears how it stands; nobody else hears more than why it goes."""
    with hosted(connections=1) as server, raw.client(server.port) as one:
        served = codes(one, one.call(b"x"))
        with raw.client(server.port) as more:
            for _ in range(2):
                served += codes(more, more.call(b"", CHECK))
            served += codes(more, more.call(b"x"))
            ends = [type(event) for event in more.until_closed()]

    assert served == ["OK", "OK", "OK", "UNAVAILABLE"]
    assert ConnectionTerminated in ends
