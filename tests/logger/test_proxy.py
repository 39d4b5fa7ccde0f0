"""The proxy over real sockets, between raw clients and a scripted model."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import pytest

from logger.lane import Lane
from logger.proxy import Proxy
from logger.settings import ProxySettings
from logger.tap import Seen

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
PREDICT = b"POST /v1/models/m:predict HTTP/1.1\r\nHost: h\r\n"


@dataclass
class Bench:
    """A proxy in front of a model, and what it handed to the outbox."""

    port: int
    proxy: Proxy
    seen: list[Seen] = field(default_factory=list)
    heads: list[bytes] = field(default_factory=list)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a client connection."""
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def exchange(self, *parts: bytes) -> bytes:
        """Send bytes, part by part, and read until the proxy closes."""
        reader, writer = await self.connect()
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0)
        answer = await asyncio.wait_for(reader.read(), 20)
        writer.close()
        return answer


def run(handler: Handler | None, test: Callable[[Bench], Awaitable[None]], **settings: float) -> None:
    """Run a test against a proxy whose model answers by `handler`; None is a model that is not there."""

    async def main() -> None:
        bench = Bench(0, Proxy(ProxySettings(), 0, lambda _seen: True, Lane(1 << 20).tally))

        async def model(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                if handler is not None:
                    await handler(reader, writer)
            except (ConnectionError, asyncio.IncompleteReadError):
                pass
            finally:
                writer.close()

        server = await asyncio.start_server(model, "127.0.0.1", 0)
        upstream = server.sockets[0].getsockname()[1]
        if handler is None:
            server.close()
            await server.wait_closed()
        free = await asyncio.start_server(model, "127.0.0.1", 0)
        bench.port = free.sockets[0].getsockname()[1]
        free.close()
        await free.wait_closed()
        proxy_settings = ProxySettings(
            host="127.0.0.1", port=bench.port, upstream_port=upstream, drain_s=5.0, **settings,  # type: ignore[arg-type]
        )  # fmt: skip

        def offer(seen: Seen) -> bool:
            bench.seen.append(seen)
            return True

        bench.proxy = Proxy(proxy_settings, 1 << 20, offer, Lane(1 << 20).tally)
        stopping = asyncio.Event()
        serving = asyncio.create_task(bench.proxy.serve(stopping))
        while True:
            try:
                _, writer = await bench.connect()
            except OSError:
                await asyncio.sleep(0.01)
            else:
                writer.close()
                break
        try:
            await asyncio.wait_for(test(bench), 30)
        finally:
            stopping.set()
            await serving
            server.close()

    asyncio.run(main())


async def head_of(reader: asyncio.StreamReader) -> bytes:
    """Read a request's head."""
    return await reader.readuntil(b"\r\n\r\n")


def length_of(head: bytes) -> int:
    """Give the content length of a head."""
    return next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.startswith(b"content-length"))


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer every request with its own body, over one connection."""
    while True:
        head = await head_of(reader)
        body = await reader.readexactly(length_of(head))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        await writer.drain()


def request(body: bytes, *lines: bytes) -> bytes:
    """Write an inference request."""
    fields = b"".join(line + b"\r\n" for line in (b"Content-Length: %d" % len(body), *lines))
    return PREDICT + fields + b"\r\n" + body


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what has to come."""
    for _ in range(1_000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it never came")


@pytest.mark.parametrize("size", [1, 2, 7, 1_000])
def test_any_split_of_the_bytes_gives_the_same_exchange(size: int) -> None:
    """Byte by byte or whole: one request reaches the model, one exchange is logged, with the exact bodies."""

    async def test(bench: Bench) -> None:
        text = request(b'{"instances":[[1]]}', b"X-Request-Id: r1", b"Connection: close")
        answer = await bench.exchange(*(text[at : at + size] for at in range(0, len(text), size)))

        assert answer.endswith(b'{"instances":[[1]]}')
        assert b"x-request-id: r1\r\n" in answer
        (seen,) = bench.seen
        assert b"".join(seen.request.chunks) == b"".join(seen.response.chunks) == b'{"instances":[[1]]}'
        assert (seen.status, seen.correlation, seen.aborted) == (200, "r1", False)

    run(echo, test)


def test_pipelined_requests_are_answered_in_order() -> None:
    """Several requests in one write: each gets its own answer, one after the other, and each is logged."""

    async def test(bench: Bench) -> None:
        last = request(b"three", b"Connection: close")
        answer = await bench.exchange(request(b"one") + request(b"two") + last)

        assert [answer.index(word) for word in (b"one", b"two", b"three")] == sorted(
            answer.index(word) for word in (b"one", b"two", b"three")
        )
        assert [b"".join(seen.request.chunks) for seen in bench.seen] == [b"one", b"two", b"three"]
        assert len({seen.correlation for seen in bench.seen}) == 3

    run(echo, test)


def test_a_stream_passes_as_it_comes() -> None:
    """The client has the first event before the model sends the second; the log has them together."""
    go_on = asyncio.Event()

    async def stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(length_of(await head_of(reader)))
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n8\r\ndata: 1\n\r\n")
        await writer.drain()
        await go_on.wait()
        writer.write(b"8\r\ndata: 2\n\r\n0\r\n\r\n")
        await writer.drain()

    async def test(bench: Bench) -> None:
        reader, writer = await bench.connect()
        writer.write(request(b"{}"))
        first = await reader.readuntil(b"data: 1\n\r\n")
        go_on.set()
        rest = await reader.readuntil(b"0\r\n\r\n")
        writer.close()

        assert b"data: 2" not in first
        assert b"data: 2" in rest
        await until(lambda: bool(bench.seen))
        assert b"".join(bench.seen[0].response.chunks) == b"data: 1\ndata: 2\n"
        assert 0 < bench.seen[0].first_byte_us <= bench.seen[0].latency_us

    run(stream, test)


def test_chunked_requests_are_framed_anew() -> None:
    """A request without length reaches the model as chunks of our own, and is logged whole."""
    got: list[bytes] = []

    async def model(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got.append(await head_of(reader))
        got.append(await reader.readuntil(b"0\r\n\r\n"))
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        await writer.drain()

    async def test(bench: Bench) -> None:
        chunks = b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n"
        answer = await bench.exchange(PREDICT + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n" + chunks)

        assert answer.startswith(b"HTTP/1.1 204")
        assert b"content-length" not in got[0]
        assert got[1] == b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
        assert b"".join(bench.seen[0].request.chunks) == b"abcde"

    run(model, test)


def test_a_model_that_is_not_there_is_503() -> None:
    """The client gets a clear answer in JSON; the failure is logged under its status."""

    async def test(bench: Bench) -> None:
        answer = await bench.exchange(request(b"{}"))

        assert answer.startswith(b"HTTP/1.1 503")
        assert b'{"error":"the model cannot be reached' in answer
        assert bench.seen[0].status == 503

    run(None, test)


def test_a_model_that_breaks_off_is_seen_by_both_sides() -> None:
    """A reset in mid-answer closes the client's connection, too, and the exchange is logged as aborted."""

    async def model(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(length_of(await head_of(reader)))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
        await writer.drain()

    async def test(bench: Bench) -> None:
        reader, writer = await bench.connect()
        writer.write(request(b"{}"))
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(1_000)
        writer.close()
        await until(lambda: bool(bench.seen))

        assert bench.seen[0].aborted
        assert b"".join(bench.seen[0].response.chunks) == b"half"

    run(model, test)


def test_a_client_that_leaves_ends_the_models_work() -> None:
    """The model's connection is closed, and what there was is logged as aborted."""
    ended = asyncio.Event()

    async def model(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(length_of(await head_of(reader)))
        try:
            await reader.read()
        finally:
            ended.set()

    async def test(bench: Bench) -> None:
        _, writer = await bench.connect()
        writer.write(request(b"{}"))
        await writer.drain()
        await asyncio.sleep(0.05)
        writer.transport.abort()
        writer.close()
        await asyncio.wait_for(ended.wait(), 10)
        await until(lambda: bool(bench.seen))

        assert bench.seen[0].aborted

    run(model, test)


@pytest.mark.parametrize(
    ("text", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", b"400"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", b"400"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\nHost: a\n\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", b"400"),
        (b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", b"400"),
        (b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", b"501"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n", b"501"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", b"501"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 70_000 + b"\r\n\r\n", b"431"),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 200 + b"\r\n", b"431"),
    ],
)
def test_doubtful_requests_never_reach_the_model(text: bytes, status: bytes) -> None:
    """They are answered with a clear status and the connection is closed."""
    reached: list[bytes] = []

    async def model(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        reached.append(await reader.read(1))

    async def test(bench: Bench) -> None:
        answer = await bench.exchange(text)

        assert answer.startswith(b"HTTP/1.1 " + status)
        assert b"connection: close" in answer
        assert not any(reached)

    run(model, test)


def test_a_slow_head_is_408() -> None:
    """A client that never finishes its head does not hold a connection for ever."""

    async def test(bench: Bench) -> None:
        answer = await bench.exchange(b"POST / HTTP/1.1\r\nHos")

        assert answer.startswith(b"HTTP/1.1 408")

    run(echo, test, head_s=0.2)


def test_a_silent_model_is_504() -> None:
    """No answer in time: the client hears so, and the exchange is logged under that status."""

    async def model(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async def test(bench: Bench) -> None:
        answer = await bench.exchange(request(b"{}"))

        assert answer.startswith(b"HTTP/1.1 504")
        assert bench.seen[0].status == 504

    run(model, test, answer_s=0.2)


def test_a_slow_reader_slows_the_model_down() -> None:
    """A client that does not read makes the model wait; the proxy's memory does not fill meanwhile."""
    sent = 0

    async def model(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await head_of(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (64 << 20))
        for _ in range(1_024):
            writer.write(b"x" * (64 << 10))
            await writer.drain()
            sent += 64 << 10

    async def test(bench: Bench) -> None:
        reader, writer = await bench.connect()
        writer.write(b"GET /big HTTP/1.1\r\nHost: h\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(0.5)
        stuck = sent
        assert stuck < 48 << 20
        total = 0
        while total < 64 << 20:
            total += len(await reader.read(1 << 20))
        writer.close()

        assert total == 64 << 20

    run(model, test)


def test_head_and_continue() -> None:
    """HEAD has no content whatever its length says; an expectation is answered before the content comes."""

    async def model(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await head_of(reader)
        if head.startswith(b"HEAD"):
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")
        else:
            body = await reader.readexactly(length_of(head))
            assert b"expect" not in head
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n" + body)
        await writer.drain()

    async def test(bench: Bench) -> None:
        answer = await bench.exchange(b"HEAD /v2 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        assert b"content-length: 5" in answer
        assert answer.endswith(b"\r\n\r\n")

        reader, writer = await bench.connect()
        writer.write(PREDICT + b"Content-Length: 2\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n")
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"ok")
        assert (await reader.read()).endswith(b"\r\n\r\nok")
        writer.close()

    run(model, test)


def test_only_inference_is_logged() -> None:
    """Metadata, probes and metrics pass, and make no events."""

    async def model(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await head_of(reader)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    async def test(bench: Bench) -> None:
        for path in (b"/v2/health/ready", b"/metrics", b"/v1/models/m"):
            answer = await bench.exchange(b"GET " + path + b" HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
            assert answer.endswith(b"ok")

        assert bench.seen == []

    run(model, test)
