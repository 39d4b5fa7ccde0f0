"""One exchange: expectations, interim answers, requests sent again, and what a model does at the wrong moment."""

from __future__ import annotations

import asyncio

import pytest

from logger.lane import RETRIED
from tests.logger.bench import PREDICT, Bench, answer_of, echo, head_of, length_of, request, run, until

EXPECTING = PREDICT + b"Content-Length: 2\r\nExpect: 100-continue\r\n"


async def _asked_to_go_on(bench: Bench) -> bytes:
    """Send content once it is asked for; give the answer."""
    reader, writer = await bench.connect()
    writer.write(EXPECTING + b"Connection: close\r\n\r\n")
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(b"ok")
    answer = await reader.read()
    writer.close()
    return answer


def test_the_model_says_whether_content_is_wanted() -> None:
    """Its `100 Continue` is the one that the client hears, once; then the content goes to it."""

    async def model(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await head_of(reader)
        assert b"expect: 100-continue\r\n" in head
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = await reader.readexactly(2)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n" + body)
        await writer.drain()

    async def test(bench: Bench) -> None:
        answer = await _asked_to_go_on(bench)

        assert answer.startswith(b"HTTP/1.1 200")
        assert answer.endswith(b"\r\n\r\nok")
        assert b"".join(bench.seen[0].request.chunks) == b"ok"

    run(model, test, continue_s=20.0)


def test_a_model_that_knows_no_expectations_is_spoken_for() -> None:
    """After a while the proxy asks for the content itself; a late word of the model is not passed on twice."""

    async def model(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head_of(reader)
        body = await reader.readexactly(2)
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n" + body)
        await writer.drain()

    async def test(bench: Bench) -> None:
        answer = await _asked_to_go_on(bench)

        assert answer.startswith(b"HTTP/1.1 200")

    run(model, test, continue_s=0.05)


def test_an_answer_before_the_content_ends_both_connections() -> None:
    """The client hears it with `close`; neither connection is used again, for both are in the middle of a message."""

    async def model(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await head_of(reader)
        if b"expect" in head:
            writer.write(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno")
        else:
            await reader.readexactly(length_of(head))
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nyes")
        await writer.drain()
        await reader.read()

    async def test(bench: Bench) -> None:
        first = await bench.exchange(EXPECTING + b"\r\n")
        second = await bench.exchange(request(b"{}", b"Connection: close"))

        assert first.startswith(b"HTTP/1.1 401")
        assert b"connection: close" in first
        assert second.endswith(b"yes")
        assert bench.connected == 2
        assert (bench.seen[0].status, bench.seen[0].aborted) == (401, True)

    run(model, test)


@pytest.mark.parametrize(
    "lines",
    [b"Content-Length: 0\r\nExpect: 100-continue\r\n", b"Expect: 100-continue\r\n"],
)
def test_an_expectation_without_content_means_nothing(lines: bytes) -> None:
    """Nobody asks for content that does not exist."""

    async def model(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await head_of(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n" + (b"1" if b"expect" in head else b"0"))
        await writer.drain()

    async def test(bench: Bench) -> None:
        answer = await bench.exchange(PREDICT + lines + b"Connection: close\r\n\r\n")

        assert answer.endswith(b"\r\n\r\n0")

    run(model, test)


def test_other_expectations_are_417() -> None:
    """What cannot be met is refused, not ignored."""

    async def test(bench: Bench) -> None:
        answer = await bench.exchange(PREDICT + b"Content-Length: 2\r\nExpect: the-best\r\n\r\n{}")

        assert answer.startswith(b"HTTP/1.1 417")
        assert bench.connected == 0

    run(echo, test)


@pytest.mark.parametrize(("version", "early"), [(b"1.1", 1), (b"1.0", 0)])
def test_interim_answers_pass(version: bytes, early: int) -> None:
    """A client of HTTP/1.1 gets them, one of HTTP/1.0 knows none; the log has the final status."""

    async def model(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(length_of(await head_of(reader)))
        writer.write(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nConnection: x-hop\r\nX-Hop: 1\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        await writer.drain()

    async def test(bench: Bench) -> None:
        text = request(b"{}", b"Connection: close").replace(b"HTTP/1.1", b"HTTP/" + version)
        answer = await bench.exchange(text)

        assert answer.count(b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n") == early
        assert b"x-hop" not in answer
        assert answer.endswith(b"\r\n\r\nok")
        assert bench.seen[0].status == 200

    run(model, test)


def once_then(ending: bytes) -> object:
    """Make a model whose every connection serves one request and ends when the next one comes."""
    first: list[int] = []

    async def model(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await head_of(reader)
        body = await reader.readexactly(length_of(head) if b"content-length" in head else 0)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        await writer.drain()
        if not first:
            first.append(1)
            await head_of(reader)
            writer.write(ending)
            await writer.drain()
            return
        await reader.read()

    return model


@pytest.mark.parametrize("size", [2, 200_000])
def test_a_connection_that_ends_at_the_wrong_moment_costs_no_answer(size: int) -> None:
    """The model closes an idle connection just when a call is sent on it: the call is sent again, once, unnoticed."""

    async def test(bench: Bench) -> None:
        reader, writer = await bench.connect()
        writer.write(request(b"first"))
        await answer_of(reader)
        writer.write(request(b"x" * size))
        second = await answer_of(reader)
        writer.close()

        assert second.startswith(b"HTTP/1.1 200")
        assert second.endswith(b"x" * size)
        assert bench.connected == 2
        assert bench.proxy.tally.get(RETRIED) == 1
        assert [(seen.status, seen.request.size, seen.aborted) for seen in bench.seen] == [
            (200, 5, False),
            (200, size, False),
        ]

    run(once_then(b""), test)  # type: ignore[arg-type]


def test_a_byte_of_an_answer_is_an_answer() -> None:
    """A model that began to answer has acted: the request is not sent again."""

    async def test(bench: Bench) -> None:
        reader, writer = await bench.connect()
        writer.write(request(b"first"))
        await answer_of(reader)
        writer.write(request(b"second"))
        second = await reader.read()
        writer.close()

        assert second.startswith(b"HTTP/1.1 502")
        assert bench.connected == 1

    run(once_then(b"H"), test)  # type: ignore[arg-type]


def test_a_fresh_connection_that_ends_is_no_reason_to_try_again() -> None:
    """The model took the call and died of it: the next instance shall not."""

    async def model(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await head_of(reader)

    async def test(bench: Bench) -> None:
        answer = await bench.exchange(request(b"{}"))

        assert answer.startswith(b"HTTP/1.1 502")
        assert bench.connected == 1

    run(model, test)


def test_what_must_not_be_repeated_is_not() -> None:
    """A POST that is no inference call goes on a new connection when the idle one may be stale, and never twice."""

    async def test(bench: Bench) -> None:
        load = b"POST /v2/repository/models/m/load HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n{}"
        reader, writer = await bench.connect()
        # In one breath, so that no time passes between the answer and the next request.
        writer.write(request(b"first") + load)
        await answer_of(reader)
        at_once = await reader.read()
        writer.close()

        assert at_once.startswith(b"HTTP/1.1 502")
        assert bench.connected == 1
        assert bench.proxy.tally.get(RETRIED) == 0
        reader, writer = await bench.connect()
        writer.write(request(b"third"))
        await answer_of(reader)
        await asyncio.sleep(0.6)
        writer.write(load)
        later = await answer_of(reader)
        writer.close()
        assert later.startswith(b"HTTP/1.1 200")
        assert bench.connected == 3

    run(once_then(b""), test)  # type: ignore[arg-type]


def test_a_model_that_falls_silent_within_its_answer_is_cut() -> None:
    """The client notices that something is missing; nothing of ours is put into the middle of the answer."""

    async def model(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(length_of(await head_of(reader)))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf")
        await writer.drain()
        await reader.read()

    async def test(bench: Bench) -> None:
        reader, writer = await bench.connect()
        writer.write(request(b"{}"))
        head = await head_of(reader)
        rest = b""
        try:
            while piece := await reader.read(1_000):
                rest += piece
        except ConnectionError:
            pass
        writer.close()

        assert b"200 OK" in head
        assert rest == b"half"
        assert (bench.seen[0].status, bench.seen[0].aborted) == (200, True)
        assert b"".join(bench.seen[0].response.chunks) == b"half"

    run(model, test, answer_s=1.0)


def test_a_whole_exchange_has_a_limit() -> None:
    """A model that trickles its answer for ever is cut in the end."""

    async def model(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(length_of(await head_of(reader)))
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            writer.write(b"1\r\nx\r\n")
            await writer.drain()
            await asyncio.sleep(0.05)

    async def test(bench: Bench) -> None:
        _, writer = await bench.connect()
        writer.write(request(b"{}"))
        await until(lambda: bool(bench.seen))
        writer.close()

        assert bench.seen[0].aborted

    run(model, test, total_s=0.4)


def test_a_model_that_does_not_read_is_504() -> None:
    """The client waits with its content, the memory stays small, and in the end there is an answer."""

    async def model(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await head_of(reader)
        await asyncio.Event().wait()

    async def test(bench: Bench) -> None:
        reader, writer = await bench.connect()
        writer.write(PREDICT + b"Content-Length: %d\r\n\r\n" % (64 << 20))

        async def send() -> None:
            while True:
                writer.write(b"x" * 65_536)
                await writer.drain()

        sending = asyncio.create_task(send())
        answer = await asyncio.wait_for(reader.read(), 60)
        sending.cancel()
        writer.close()

        assert answer.startswith(b"HTTP/1.1 504")
        assert bench.seen[0].request.size < 48 << 20

    run(model, test, answer_s=0.5, min_rate=0)


def test_bodies_of_any_size_pass_whole_both_ways() -> None:
    """Far beyond every buffer: the same bytes arrive, in order, and the log has as many as its cap allows."""

    async def test(bench: Bench) -> None:
        body = bytes(range(256)) * 40_000
        reader, writer = await bench.connect()
        sending = asyncio.create_task(_send(writer, request(body)))
        answer = await answer_of(reader)
        await sending
        writer.close()

        assert answer.endswith(body)
        (seen,) = bench.seen
        assert (seen.request.size, seen.response.size) == (len(body), len(body))
        assert b"".join(seen.request.chunks) == b"".join(seen.response.chunks) == body[: 1 << 20]

    run(echo, test)


async def _send(writer: asyncio.StreamWriter, data: bytes) -> None:
    for at in range(0, len(data), 65_536):
        writer.write(data[at : at + 65_536])
        await writer.drain()
