"""Calls of every kind through the proxy, with grpcio as client and as model."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import grpc
import pytest

from deploy.kafka.ports import free_port
from logger.grpc.methods import INFER, SERVICE, STREAM
from logger.lane import HELD, LATE
from tests.inference.serving import eventually
from tests.logger.grpc.serving import between, model, proxy, streaming, unary

OTHER = SERVICE + "Other"
TIMEOUT = 60


def echo(request: bytes, _context: grpc.ServicerContext) -> bytes:
    """Answer with the request."""
    return request


def text(body: Any) -> bytes:  # noqa: ANN401 - a body of whatever is seen
    """Give what was kept of a body."""
    return b"".join(body.chunks)


def framed(*messages: bytes) -> bytes:
    """Frame messages as gRPC does."""
    return b"".join(b"\x00" + len(message).to_bytes(4, "big") + message for message in messages)


def test_a_unary_call_passes_with_all_that_belongs_to_it() -> None:
    """Message, metadata of both kinds, initial and trailing, and the deadline arrive; the call is logged whole."""
    found: dict[str, Any] = {}

    def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
        found.update(dict(context.invocation_metadata()), left=context.time_remaining())
        context.send_initial_metadata((("begin", "1"), ("begin-bin", b"\x00\xff")))
        context.set_trailing_metadata((("end", "2"), ("end-bin", b"\xfe")))
        return request * 2

    with between({"ModelInfer": unary(answer)}) as (bench, channel):
        sent = (("x-request-id", "r1"), ("own-bin", bytes(range(256))), ("own", "a,b"))
        reply, call = channel.unary_unary(INFER).with_call(b"abc", metadata=sent, timeout=TIMEOUT)
        (seen,) = bench.wait_for(1)

    assert reply == b"abcabc"
    assert (found["own-bin"], found["own"], found["x-request-id"]) == (bytes(range(256)), "a,b", "r1")
    assert 0 < found["left"] < TIMEOUT + 5  # gRPC rounds timeouts up
    initial, trailing = dict(call.initial_metadata()), dict(call.trailing_metadata())
    assert (initial["begin"], initial["begin-bin"], initial["x-request-id"]) == ("1", b"\x00\xff", "r1")
    assert (trailing["end"], trailing["end-bin"]) == ("2", b"\xfe")
    assert (text(seen.request), text(seen.response)) == (framed(b"abc"), framed(b"abcabc"))
    assert (seen.correlation, seen.path, seen.status, seen.aborted) == ("r1", INFER, 200, False)
    assert (b"grpc-status", b"0") in seen.response_fields
    assert 0 < seen.first_byte_us <= seen.latency_us


def test_a_call_without_an_id_gets_one() -> None:
    """The model and the client are told the same new id, each call its own."""
    given: list[str] = []

    def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
        given.append(dict(context.invocation_metadata())["x-request-id"])
        return request

    with between({"ModelInfer": unary(answer)}) as (bench, channel):
        told = [
            dict(channel.unary_unary(INFER).with_call(b"", timeout=TIMEOUT)[1].initial_metadata())["x-request-id"]
            for _ in range(3)
        ]
        seen = bench.wait_for(3)

    assert given == told == [item.correlation for item in seen]
    assert len(set(given)) == 3


def test_streams_pass_as_they_come() -> None:
    """Both sides talk in turns: every message arrives before the next is sent, however long the stream lives."""

    def answer(requests: Iterator[bytes], _context: grpc.ServicerContext) -> Iterator[bytes]:
        for request in requests:
            yield request.upper()

    said: list[bytes] = []
    turn = threading.Semaphore(1)

    def talk() -> Iterator[bytes]:
        for number in range(20):
            assert turn.acquire(timeout=TIMEOUT)
            yield b"m%d" % number

    with between({"ModelStreamInfer": streaming(answer)}) as (bench, channel):
        for reply in channel.stream_stream(STREAM)(talk(), timeout=TIMEOUT):
            said.append(reply)
            turn.release()
        (seen,) = bench.wait_for(1)

    assert said == [b"M%d" % number for number in range(20)]
    assert text(seen.response) == framed(*said)
    assert text(seen.request) == framed(*(b"m%d" % number for number in range(20)))


def test_streams_of_one_side() -> None:
    """Many in and one out, one in and many out."""
    handlers = {
        "Sum": grpc.stream_unary_rpc_method_handler(lambda requests, _: b"+".join(requests)),
        "Count": grpc.unary_stream_rpc_method_handler(lambda request, _: (request + b"%d" % n for n in range(50))),
    }
    with between(handlers) as (bench, channel):
        total = channel.stream_unary(SERVICE + "Sum")(iter([b"a", b"b", b"c"]), timeout=TIMEOUT)
        counted = list(channel.unary_stream(SERVICE + "Count")(b"n", timeout=TIMEOUT))
        logged = len(bench.seen)

    assert total == b"a+b+c"
    assert counted == [b"n%d" % number for number in range(50)]
    assert logged == 0


@pytest.mark.parametrize("size", [0, 1, 16_384, 10 << 20])
def test_messages_of_any_size(size: int) -> None:
    """Nothing, a byte, a frame, ten MiB: whole both ways; what is kept of it stays below the capture's limit."""
    body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    with between({"ModelInfer": unary(echo)}, capture=1 << 16) as (bench, channel):
        reply = channel.unary_unary(INFER)(body, timeout=TIMEOUT)
        (seen,) = bench.wait_for(1)

    assert reply == body
    assert seen.request.size == seen.response.size == size + 5
    assert seen.request.kept == seen.response.kept == min(size + 5, 1 << 16)


def test_many_calls_at_once() -> None:
    """Hundreds of calls on one connection, big ones and small ones: each gets its own answer."""
    bodies = [b"%d-" % number * (1 if number % 10 else 20_000) for number in range(400)]
    with between({"ModelInfer": unary(echo)}) as (bench, channel), ThreadPoolExecutor(64) as pool:
        call = channel.unary_unary(INFER)
        replies = list(pool.map(lambda body: call(body, timeout=TIMEOUT), bodies))
        seen = bench.wait_for(len(bodies))

    assert replies == bodies
    assert sorted(item.request.size for item in seen) == sorted(len(body) + 5 for body in bodies)
    assert {item.status for item in seen} == {200}


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_compressed_messages_pass_untouched(compression: grpc.Compression) -> None:
    """Compression is between client and model; the log has it as it went by, with its name."""
    with between({"ModelInfer": unary(echo)}) as (bench, channel):
        reply = channel.unary_unary(INFER)(b"y" * 5_000, compression=compression, timeout=TIMEOUT)
        (seen,) = bench.wait_for(1)

    assert reply == b"y" * 5_000
    assert text(seen.request)[:1] == b"\x01"
    assert seen.request.size < 500
    assert (b"grpc-encoding", compression.name.lower().encode()) in seen.request_fields


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (grpc.StatusCode.NOT_FOUND, 404), (grpc.StatusCode.INVALID_ARGUMENT, 400), (grpc.StatusCode.INTERNAL, 500),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, 429), (grpc.StatusCode.UNAUTHENTICATED, 401),
    ],
)  # fmt: skip
def test_errors_pass_in_the_trailers(code: grpc.StatusCode, status: int) -> None:
    """Code, text and trailing metadata reach the client; the log has the code and its HTTP counterpart."""

    def answer(_request: bytes, context: grpc.ServicerContext) -> bytes:
        context.set_trailing_metadata((("why", "because"),))
        context.abort(code, "so n\u00f6t: 100 %")
        raise AssertionError

    with between({"ModelInfer": unary(answer)}) as (bench, channel):
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary(INFER)(b"", timeout=TIMEOUT)
        (seen,) = bench.wait_for(1)

    assert (caught.value.code(), caught.value.details()) == (code, "so n\u00f6t: 100 %")
    assert dict(caught.value.trailing_metadata())["why"] == "because"
    assert (seen.status, seen.aborted) == (status, False)
    assert (b"grpc-status", b"%d" % code.value[0]) in seen.response_fields


def test_an_unknown_method_is_the_models_to_refuse() -> None:
    """The proxy knows no methods; what the model does not serve is its UNIMPLEMENTED."""
    with between({}) as (_, channel), pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(OTHER)(b"", timeout=TIMEOUT)

    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_a_deadline_ends_the_call_everywhere() -> None:
    """The client gives up in time, the model hears of it, and the log says so."""
    gone = threading.Event()

    def answer(_request: bytes, context: grpc.ServicerContext) -> bytes:
        context.add_callback(gone.set)
        assert gone.wait(TIMEOUT)
        return b""

    with between({"ModelInfer": unary(answer)}) as (bench, channel):
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary(INFER)(b"", timeout=1.5)
        assert gone.wait(TIMEOUT)
        (seen,) = bench.wait_for(1)

    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert (seen.status, seen.aborted) in {(504, True), (504, False), (499, True)}


def test_a_cancelled_call_ends_the_models_work() -> None:
    """The client breaks off: the model hears of it; the log has what there was, as aborted."""
    begun, gone = threading.Event(), threading.Event()

    def answer(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        context.add_callback(gone.set)
        yield next(requests)
        begun.set()
        assert gone.wait(TIMEOUT)

    def ask() -> Iterator[bytes]:
        yield b"one"
        assert gone.wait(TIMEOUT)

    with between({"ModelStreamInfer": streaming(answer)}) as (bench, channel):
        call = channel.stream_stream(STREAM)(ask(), timeout=TIMEOUT)
        first = next(call)
        assert begun.wait(TIMEOUT)
        call.cancel()
        assert gone.wait(TIMEOUT)
        (seen,) = bench.wait_for(1)

    assert first == b"one"
    assert (seen.status, seen.aborted) == (499, True)
    assert text(seen.response) == framed(b"one")
    assert (b"grpc-status", b"1") in seen.response_fields


def test_a_model_may_answer_before_the_request_is_whole() -> None:
    """The status comes at once; the client learns that the rest of its request is not wanted."""

    def answer(_requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        context.abort(grpc.StatusCode.OUT_OF_RANGE, "enough")
        yield b""

    done = threading.Event()

    def ask() -> Iterator[bytes]:
        yield b"one"
        done.wait(TIMEOUT)

    with between({"ModelStreamInfer": streaming(answer)}) as (bench, channel):
        with pytest.raises(grpc.RpcError) as caught:
            list(channel.stream_stream(STREAM)(ask(), timeout=TIMEOUT))
        done.set()
        (seen,) = bench.wait_for(1)

    assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.OUT_OF_RANGE, "enough")
    assert (seen.status, seen.aborted) == (400, False)


def test_a_model_that_is_not_there_is_unavailable() -> None:
    """The client gets gRPC's own status with a reason; the call is logged under it. Later, the model is there."""
    port = free_port()
    with proxy(port) as bench, bench.channel() as channel:
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary(INFER)(b"abc", timeout=TIMEOUT)
        (seen,) = bench.wait_for(1)

    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "the model cannot be reached: connection refused" in caught.value.details().lower()
    assert (seen.status, seen.aborted, text(seen.request)) == (503, False, framed(b"abc"))


def test_a_model_that_comes_back_is_found() -> None:
    """It said goodbye and its connection ended; the client's stays, and a later call opens another."""
    with ExitStack() as stack:
        port = free_port()
        with model({"ModelInfer": unary(echo)}, port):
            bench = stack.enter_context(proxy(port))
            call = stack.enter_context(bench.channel()).unary_unary(INFER)
            assert call(b"1", timeout=TIMEOUT) == b"1"
        with pytest.raises(grpc.RpcError) as caught:
            call(b"2", timeout=TIMEOUT)
        stack.enter_context(model({"ModelInfer": unary(lambda *_: b"back")}, port))
        reply = call(b"3", timeout=TIMEOUT)

    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert reply == b"back"


def test_a_slow_reader_slows_the_model_down() -> None:
    """A client that reads nothing stops the model soon, and other calls on its connection go on meanwhile."""
    sent = 0

    def answer(_requests: Iterator[bytes], _context: grpc.ServicerContext) -> Iterator[bytes]:
        nonlocal sent
        for _ in range(200):
            yield b"z" * (256 << 10)
            sent += 1

    with between({"ModelStreamInfer": streaming(answer), "ModelInfer": unary(echo)}) as (bench, channel):
        call = channel.stream_stream(STREAM)(iter([b"q"]), timeout=TIMEOUT * 2)
        first = next(call)
        # Nothing moves any more when the windows are full: two looks, apart, see the same.
        last = -1

        def stuck() -> bool:
            nonlocal last
            before, last = last, sent
            time.sleep(0.2)
            return before == sent

        eventually(stuck, "a standstill")
        held = sent
        reply = channel.unary_unary(INFER)(b"quick", timeout=TIMEOUT)
        rest = sum(len(part) for part in call)
        bench.wait_for(2)

    assert reply == b"quick"
    assert held < 100
    assert len(first) + rest == 200 * (256 << 10)


def test_a_slow_model_slows_the_client_down() -> None:
    """A model that reads nothing stops the client soon; what it has sent arrives in the end."""
    go_on = threading.Event()

    def answer(requests: Iterator[bytes], _context: grpc.ServicerContext) -> Iterator[bytes]:
        assert go_on.wait(TIMEOUT)
        yield b"%d" % sum(len(request) for request in requests)

    sent = 0

    def ask() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(200):
            yield b"z" * (256 << 10)
            sent += 1

    with between({"ModelStreamInfer": streaming(answer)}) as (_, channel):
        call = channel.stream_stream(STREAM)(ask(), timeout=TIMEOUT * 2)
        last = -1

        def stuck() -> bool:
            nonlocal last
            before, last = last, sent
            time.sleep(0.2)
            return 0 < before == sent

        eventually(stuck, "a standstill")
        held = sent
        go_on.set()
        (reply,) = call

    assert held < 100
    assert reply == b"%d" % (200 * (256 << 10))


def test_other_methods_are_logged_when_asked_for() -> None:
    """By setting, any method but probes and metadata; never by default."""
    handlers = {name: unary(echo) for name in ("Other", "ServerLive", "ModelInfer")}
    with between(handlers, grpc_log_other=True) as (bench, channel):
        for name in handlers:
            channel.unary_unary(SERVICE + name)(b"", timeout=TIMEOUT)
        logged = [item.path for item in bench.wait_for(2)]

    assert logged == [OTHER, INFER]


def test_gRPC_may_have_a_port_of_its_own() -> None:  # noqa: N802 - so it is spelt
    """`grpc_upstream_port` goes before the port for HTTP."""
    with (
        model({"ModelInfer": unary(echo)}) as port,
        proxy(1, grpc_upstream_port=port) as bench,
        bench.channel() as channel,
    ):
        reply = channel.unary_unary(INFER)(b"there", timeout=TIMEOUT)

    assert reply == b"there"


def test_audit_mode_holds_the_status_back() -> None:
    """With nobody who makes events safe, the end of an answer waits, not for ever, and is good."""
    with between({"ModelInfer": unary(echo)}, hold_s=0.3) as (bench, channel):
        reply = channel.unary_unary(INFER)(b"held", timeout=TIMEOUT)
        counts = [bench.proxy.tally.get(what) for what in (HELD, LATE)]
        answers = bench.proxy.tally.answers()

    assert reply == b"held"
    assert (counts, answers) == ([1, 1], {200: 1})


def test_a_stop_lets_running_calls_finish() -> None:
    """SIGTERM's way: no new calls on the old connection, the running one ends well, and the proxy is gone."""
    begun, finish = threading.Event(), threading.Event()

    def answer(request: bytes, _context: grpc.ServicerContext) -> bytes:
        begun.set()
        assert finish.wait(TIMEOUT)
        return request

    with between({"ModelInfer": unary(answer)}) as (bench, channel):
        running = channel.unary_unary(INFER).future(b"last", timeout=TIMEOUT)
        assert begun.wait(TIMEOUT)
        bench.stop()
        eventually(lambda: not bench.listens(), "a closed port")
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary(INFER)(b"late", timeout=TIMEOUT)
        finish.set()
        reply = running.result(TIMEOUT)
        bench.thread.join(TIMEOUT)
        alive = bench.thread.is_alive()

    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert (reply, alive) == (b"last", False)
    assert [item.status for item in bench.seen] == [200]
