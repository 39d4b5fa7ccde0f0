"""Answers that no client should see: the model is trusted as little as the client."""

from __future__ import annotations

import asyncio

import pytest

from tests.logger.bench import Bench, answer_of, head_of, length_of, request, run, until

OK = b"HTTP/1.1 200 OK\r\n"

BROKEN = [
    b"garbage\r\n\r\n",
    b"HTTP/1.1 20 OK\r\n\r\n",
    b"HTTP/1.1 000 Nothing\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 999 Everything\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
    b"HTTP/1.1 102 Processing\r\n\r\n" * 100 + OK + b"Content-Length: 0\r\n\r\n",
    OK + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    OK + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
    OK + b"Content-Length: 3, 3\r\n\r\nabc",
    OK + b"Content-Length: -3\r\n\r\nabc",
    OK + b"Content-Length: 3_0\r\n\r\nabc",
    OK + b"Content-Length: 0x3\r\n\r\nabc",
    OK + b"Content-Length:\r\n\r\nabc",
    OK + b"Content-Length : 3\r\n\r\nabc",
    OK + b"Transfer-Encoding: gzip\r\n\r\nabc",
    OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    OK + b"Transfer-Encoding: chunked, identity\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    OK + b"X: a\r\n b\r\nContent-Length: 0\r\n\r\n",
    OK + b"X: a\rb\r\nContent-Length: 0\r\n\r\n",
    OK + b"X: a\x00b\r\nContent-Length: 0\r\n\r\n",
    OK + b"X y: a\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
    OK + b"X: " + b"y" * 100_000 + b"\r\nContent-Length: 0\r\n\r\n",
    OK + b"X: " + b"y" * 1_000_000,
    OK + b"X: y\r\n" * 200 + b"Content-Length: 0\r\n\r\n",
]


@pytest.mark.parametrize("answer", BROKEN, ids=lambda value: repr(value[:70]))
def test_an_answer_in_doubt_is_502(answer: bytes) -> None:
    """Whatever is wrong with it, the client hears one clear thing, and nothing of the answer passes."""

    async def model(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(length_of(await head_of(reader)))
        writer.write(answer)
        await reader.read()

    async def test(bench: Bench) -> None:
        found = (await bench.exchange(request(b"{}"))).rpartition(b"HTTP/1.1 502 Bad Gateway\r\n")

        assert found[1]
        assert found[0] in {b"", found[0].count(b"102 Processing") * b"HTTP/1.1 102 Processing\r\n\r\n"}
        assert bench.seen[0].status == 502

    run(model, test)


@pytest.mark.parametrize(
    "rest",
    [
        b"5\r\nabc",
        b"3\r\nabcX",
        b"z\r\n",
        b"3\r\nabc\r\n",
        b"3\r\nabc\r\n0\r\nX y: z\r\n\r\n",
        b"1;" + b"x" * 1_000_000,
        b"0\r\nX: " + b"x" * 1_000_000,
        b"0\r\n" + b"X: y\r\n" * 200_000,
        b"",
    ],
    ids=lambda value: repr(value[:40]),
)
def test_chunks_that_break_off_break_the_clients_answer_off(rest: bytes) -> None:
    """Once the answer has begun, the one thing left to say is that it is not whole: no last chunk, and a cut."""

    async def model(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(length_of(await head_of(reader)))
        writer.write(OK + b"Transfer-Encoding: chunked\r\n\r\n")
        await writer.drain()
        writer.write(rest)
        await writer.drain()

    async def test(bench: Bench) -> None:
        reader, writer = await bench.connect()
        writer.write(request(b"{}"))
        head, rest = await head_of(reader), b""
        try:
            while piece := await reader.read(65_536):
                rest += piece
        except ConnectionError:
            pass
        writer.close()

        assert b"200 OK" in head
        assert not rest.endswith(b"0\r\n\r\n")
        assert b"HTTP/1.1" not in rest
        await until(lambda: bool(bench.seen))
        assert (bench.seen[0].status, bench.seen[0].aborted) == (200, True)

    run(model, test)


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", b"HTTP/1.1 204 No Content\r\n"),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", b"HTTP/1.1 304 Not Modified\r\n"),
        (b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", b"HTTP/1.1 200 \r\n"),
        (b"HTTP/1.1 200 O\x01K\r\nContent-Length: 0\r\n\r\n", b"HTTP/1.1 200 \r\n"),
        (b"\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", OK),
        (b"HTTP/1.1 599 Odd\r\nContent-Length: 0\r\n\r\n", b"HTTP/1.1 599 Odd\r\n"),
        (OK + b"Transfer-Encoding: Chunked\r\n\r\n0\r\n\r\n", OK),
    ],
)
def test_odd_and_clear_answers_pass(answer: bytes, text: bytes) -> None:
    """They have one meaning; the connection serves the next request, too, and 204 has no length."""

    async def model(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await reader.readexactly(length_of(await head_of(reader)))
            writer.write(answer)

    async def test(bench: Bench) -> None:
        reader, writer = await bench.connect()
        writer.write(request(b"{}"))
        first = await head_of(reader)
        if b"chunked" in first:
            assert await reader.readexactly(5) == b"0\r\n\r\n"
        writer.write(request(b"{}"))
        second = await head_of(reader)
        writer.close()

        assert first.startswith(text)
        assert second.startswith(text)
        assert b"content-length" not in first or not text.startswith(b"HTTP/1.1 204")
        assert bench.connected == 1

    run(model, test)


def test_an_answer_too_many_is_nobodys() -> None:
    """What a model sends after its answer is not taken for the answer to the next request, pipelined or not."""

    async def model(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        body = await reader.readexactly(length_of(await head_of(reader)))
        true = OK + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
        writer.write(true + OK + b"Content-Length: 4\r\n\r\nevil")
        await writer.drain()
        await reader.read()

    async def test(bench: Bench) -> None:
        answer = await bench.exchange(request(b"one") + request(b"two") + request(b"three", b"Connection: close"))

        assert b"evil" not in answer
        assert [b"".join(seen.response.chunks) for seen in bench.seen] == [b"one", b"two", b"three"]
        assert bench.connected == 3

    run(model, test)


@pytest.mark.parametrize("extra", [b"x", b"HTTP/1.1 20", OK, b"\r\n\r\nH"])
def test_the_beginning_of_an_answer_too_many_spoils_the_connection(extra: bytes) -> None:
    """Half a head left behind would be joined to the next answer."""

    async def model(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await reader.readexactly(length_of(await head_of(reader)))
            writer.write(OK + b"Content-Length: 2\r\n\r\nok" + extra)

    async def test(bench: Bench) -> None:
        reader, writer = await bench.connect()
        for _ in range(3):
            writer.write(request(b"{}"))
            assert (await answer_of(reader)).endswith(b"ok")
        writer.close()

        assert bench.connected == 3

    run(model, test)


def test_bytes_on_an_idle_connection_end_it() -> None:
    """They answer nothing that was asked."""
    speak = asyncio.Event()
    ended = asyncio.Event()

    async def model(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(length_of(await head_of(reader)))
        writer.write(OK + b"Content-Length: 2\r\n\r\nok")
        if not speak.is_set():
            await speak.wait()
            writer.write(OK + b"Content-Length: 4\r\n\r\nevil")
        try:
            await reader.read()
        finally:
            ended.set()

    async def test(bench: Bench) -> None:
        reader, writer = await bench.connect()
        writer.write(request(b"{}"))
        assert (await answer_of(reader)).endswith(b"ok")
        speak.set()
        await asyncio.wait_for(ended.wait(), 60)
        writer.write(request(b"{}"))
        second = await answer_of(reader)
        writer.close()

        assert second.endswith(b"ok")
        assert bench.connected == 2

    run(model, test)


def test_an_answer_without_length_ends_with_its_connection() -> None:
    """It reaches a client of HTTP/1.1 in chunks; the model's connection is not used again."""

    async def model(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(length_of(await head_of(reader)))
        writer.write(b"HTTP/1.0 200 OK\r\nConnection: x-hop\r\nX-Hop: 1\r\n\r\nall of it")
        await writer.drain()

    async def test(bench: Bench) -> None:
        reader, writer = await bench.connect()
        writer.write(request(b"{}"))
        answer = await reader.readuntil(b"0\r\n\r\n")
        writer.close()

        assert b"transfer-encoding: chunked\r\n" in answer
        assert b"date: " in answer
        assert b"x-hop" not in answer.lower()
        assert answer.endswith(b"9\r\nall of it\r\n0\r\n\r\n")
        assert not bench.seen[0].aborted

    run(model, test)


def test_a_client_of_http_1_0_gets_no_chunks() -> None:
    """It reads until the end of the connection."""

    async def model(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(length_of(await head_of(reader)))
        writer.write(OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n3\r\ndef\r\n0\r\n\r\n")
        await writer.drain()
        await reader.read()

    async def test(bench: Bench) -> None:
        answer = await bench.exchange(request(b"{}").replace(b"HTTP/1.1", b"HTTP/1.0"))

        assert b"chunked" not in answer
        assert answer.endswith(b"\r\n\r\nabcdef")

    run(model, test)
