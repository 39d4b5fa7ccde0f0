"""The proxy over real sockets, between raw clients and a scripted model."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from logger.lane import CONNECTIONS
from tests.logger.bench import PREDICT, Bench, answer_of, echo, head_of, length_of, request, run, until


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
    begun, ended = asyncio.Event(), asyncio.Event()

    async def model(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(length_of(await head_of(reader)))
        begun.set()
        try:
            await reader.read()
        finally:
            ended.set()

    async def test(bench: Bench) -> None:
        _, writer = await bench.connect()
        writer.write(request(b"{}"))
        await asyncio.wait_for(begun.wait(), 60)
        writer.transport.abort()
        writer.close()
        await asyncio.wait_for(ended.wait(), 60)
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

    run(model, test, first_byte_s=0.2)


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


def test_a_head_has_no_content() -> None:
    """HEAD has no content whatever its length says."""

    async def model(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head_of(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")
        await writer.drain()

    async def test(bench: Bench) -> None:
        answer = await bench.exchange(b"HEAD /v2 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")

        assert b"content-length: 5" in answer
        assert answer.endswith(b"\r\n\r\n")

    run(model, test)


@pytest.mark.parametrize(
    ("came", "told"),
    [(b"", b"127.0.0.1"), (b"X-Forwarded-For: 192.0.2.1\r\n", b"192.0.2.1, 127.0.0.1")],
)
def test_the_model_is_told_who_asks(came: bytes, told: bytes) -> None:
    """Each request of a connection carries the client's address, as behind KServe's agent; the log has what came."""
    heads: list[bytes] = []

    async def model(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            heads.append(await head_of(reader))
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    async def test(bench: Bench) -> None:
        call = PREDICT + came + b"Content-Length: 0\r\n"
        await bench.exchange(call + b"\r\n", call + b"Connection: close\r\n\r\n")

        assert len(heads) == len(bench.seen) == 2
        for head, seen in zip(heads, bench.seen, strict=True):
            assert head.count(b"x-forwarded-for: " + told + b"\r\n") == head.lower().count(b"forwarded") == 1
            assert [name for name, _ in seen.request_fields].count(b"x-forwarded-for") == bool(came)

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


@pytest.mark.parametrize("size", [1, 2, 7, 1_000])
def test_trailers_go_nowhere(size: int) -> None:
    """What comes after the content is neither passed on nor logged: joined to the head it could mean something."""
    heads: list[bytes] = []

    async def model(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"0\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Evil: answer\r\n\r\n")
        await writer.drain()

    async def test(bench: Bench) -> None:
        text = (
            PREDICT + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n2\r\n{}\r\n0\r\nX-Evil: request\r\n\r\n"
        )
        answer = await bench.exchange(*(text[at : at + size] for at in range(0, len(text), size)))

        assert answer.endswith(b"2\r\nok\r\n0\r\n\r\n")
        (seen,) = bench.seen
        assert b"evil" not in b"".join((*heads, answer)).lower()
        assert not [name for name, _ in (*seen.request_fields, *seen.response_fields) if name == b"x-evil"]

    run(model, test)


@pytest.mark.parametrize(
    ("text", "status"),
    [
        (b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 1_000_000, 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"y" * 1_000_000, 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"y:\r\n" * 300_000, 431),
        (PREDICT + b"Content-Length: 1001\r\n\r\n", 413),
        (PREDICT + b"Content-Length: 18446744073709551615\r\n\r\n", 413),
        (PREDICT + b"Transfer-Encoding: chunked\r\n\r\n3e9\r\n" + b"x" * 1_001, 413),
        (PREDICT + b"Transfer-Encoding: chunked\r\n\r\n1;" + b"x" * 1_000_000, 431),
        (PREDICT + b"Transfer-Encoding: chunked\r\n\r\n0\r\nX: " + b"x" * 1_000_000, 431),
        (PREDICT + b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + b"x:\r\n" * 300_000, 431),
    ],
    ids=lambda value: str(value)[:60],
)
def test_every_size_has_a_limit(text: bytes, status: int) -> None:
    """Each limit has its status and is counted; what never ends is not gathered."""
    sent: list[int] = []

    async def model(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async def test(bench: Bench) -> None:
        reader, writer = await bench.connect()
        writer.write(text)
        answer = await asyncio.wait_for(reader.read(), 60)
        sent.append(len(text))
        writer.close()

        assert answer.startswith(b"HTTP/1.1 %d " % status)
        assert b"connection: close" in answer
        assert bench.refused() == {status: 1}

    run(model, test, max_body=1_000)


def test_a_client_that_still_sends_can_read_its_refusal() -> None:
    """The connection is closed in stages: a reset would take the answer away before the client has seen it."""

    async def test(bench: Bench) -> None:
        reader, writer = await bench.connect()
        writer.write(PREDICT + b"Content-Length: 9999\r\n\r\n")
        await writer.drain()
        for _ in range(50):
            writer.write(b"x" * 1_000)
            await writer.drain()
            await asyncio.sleep(0)
        answer = await asyncio.wait_for(reader.read(), 60)
        writer.close()

        assert answer.startswith(b"HTTP/1.1 413 Content Too Large")

    run(echo, test, max_body=1_000)


def test_connections_are_limited() -> None:
    """One more than the limit hears 503; when one of them goes, there is room again."""

    async def test(bench: Bench) -> None:
        await until(lambda: not bench.proxy.connections)
        _, first = await bench.connect()
        await until(lambda: len(bench.proxy.connections) == 1)
        answer = await bench.exchange()
        assert answer.startswith(b"HTTP/1.1 503")
        assert bench.refused() == {503: 1}
        first.close()
        await until(lambda: not bench.proxy.connections)
        assert (await bench.exchange(request(b"{}", b"Connection: close"))).startswith(b"HTTP/1.1 200")
        await until(lambda: bench.proxy.tally.get(CONNECTIONS) == 0)

    run(echo, test, max_connections=1)


def test_one_address_cannot_take_all_connections() -> None:
    """Beyond its share it hears 429; closed connections are given back to it."""

    async def test(bench: Bench) -> None:
        await until(lambda: not bench.proxy.connections)
        _, first = await bench.connect()
        await until(lambda: len(bench.proxy.connections) == 1)
        assert (await bench.exchange()).startswith(b"HTTP/1.1 429")
        first.close()
        await until(lambda: not bench.proxy.addresses)
        assert (await bench.exchange(request(b"{}", b"Connection: close"))).startswith(b"HTTP/1.1 200")

    run(echo, test, max_per_address=1)


def test_a_connection_serves_so_many_requests() -> None:
    """The last answer says that it is the last; what was pipelined behind it is not served."""

    async def test(bench: Bench) -> None:
        answer = await bench.exchange(request(b"one") + request(b"two") + request(b"three"))

        assert answer.count(b"HTTP/1.1 200") == 2
        assert answer.count(b"connection: close") == 1
        assert answer.endswith(b"two")
        assert len(bench.seen) == 2

    run(echo, test, max_requests=2)


def test_few_pipelined_requests_wait() -> None:
    """A flood of tiny requests in one read is served in part; the last answer closes, and every one is logged."""

    async def test(bench: Bench) -> None:
        answer = await bench.exchange(request(b"x") * 500)

        count = answer.count(b"HTTP/1.1 200")
        assert 1 < count < 500
        assert answer.count(b"connection: close") == 1
        assert len(bench.seen) == count

    run(echo, test)


def test_a_slow_body_is_408() -> None:
    """Content that trickles in holds neither the client's connection nor the model's for ever."""
    ended = asyncio.Event()

    async def model(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        try:
            await head_of(reader)
            await reader.read()
        finally:
            ended.set()

    async def test(bench: Bench) -> None:
        reader, writer = await bench.connect()
        writer.write(PREDICT + b"Content-Length: 1000\r\n\r\n")

        async def trickle() -> None:
            while not writer.is_closing():
                writer.write(b"x")
                await asyncio.sleep(0.05)

        trickling = asyncio.create_task(trickle())
        answer = await asyncio.wait_for(reader.read(), 60)
        trickling.cancel()
        writer.close()
        await asyncio.wait_for(ended.wait(), 60)

        assert answer.startswith(b"HTTP/1.1 408")
        assert bench.seen[0].aborted
        assert bench.refused() == {408: 1}

    run(model, test, body_s=0.5, min_rate=1_000)


def test_a_broken_body_ends_the_models_work() -> None:
    """A chunk that is none: 400 at once, the model's connection is cut, and the exchange is logged as aborted."""
    ended = asyncio.Event()

    async def model(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        try:
            await reader.read()
        finally:
            ended.set()

    async def test(bench: Bench) -> None:
        reader, writer = await bench.connect()
        writer.write(PREDICT + b"Transfer-Encoding: chunked\r\n\r\n2\r\nab")
        await until(lambda: bench.connected == 1)
        writer.write(b"X")
        answer = await reader.read()
        writer.close()
        await asyncio.wait_for(ended.wait(), 60)

        assert answer.startswith(b"HTTP/1.1 400")
        assert (bench.seen[0].status, bench.seen[0].aborted) == (400, True)

    run(model, test)


def test_a_client_that_reads_nothing_is_cut() -> None:
    """It holds neither memory nor the model for ever, and the exchange is logged as aborted."""

    async def model(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(length_of(await head_of(reader)))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (1 << 30))
        while True:
            writer.write(b"x" * 65_536)
            await writer.drain()

    async def test(bench: Bench) -> None:
        _, writer = await bench.connect()
        writer.write(request(b"{}"))
        writer.transport.pause_reading()  # type: ignore[attr-defined] # a transport that reads, too
        await until(lambda: bool(bench.seen))
        writer.transport.abort()

        assert bench.seen[0].aborted
        assert bench.seen[0].response.size < 64 << 20

    run(model, test, send_s=0.6)


def test_an_offer_of_http2_is_left_alone() -> None:
    """Java's own client offers h2c with its first request: it is served over HTTP/1.1, and the model sees no offer."""

    async def model(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await head_of(reader)
        assert b"upgrade" not in head
        assert b"http2-settings" not in head
        body = await reader.readexactly(length_of(head))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        await writer.drain()

    async def test(bench: Bench) -> None:
        offer = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABk")
        reader, writer = await bench.connect()
        writer.write(request(b"first", *offer))
        first = await answer_of(reader)
        writer.write(request(b"second", b"Connection: close"))
        second = await reader.read()
        writer.close()

        assert first.endswith(b"first")
        assert second.endswith(b"second")
        assert [b"".join(seen.request.chunks) for seen in bench.seen] == [b"first", b"second"]

    run(model, test)


def test_offers_of_http2_may_come_at_once() -> None:
    """As many as fit in one read are served, and what is no request behind one is refused as anywhere else."""
    offer = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABk")

    async def test(bench: Bench) -> None:
        reader, writer = await bench.connect()
        writer.write(request(b"{}", *offer) * 20 + request(b"{}", *offer).replace(b"Host:", b"ost:"))
        answers = [await answer_of(reader) for _ in range(20)]
        refusal = await reader.read()
        writer.close()

        assert all(answer.endswith(b"{}") for answer in answers)
        assert refusal.startswith(b"HTTP/1.1 400 ")

    run(echo, test)


def test_a_unix_socket_leads_to_the_model(tmp_path: Path) -> None:
    """No TCP port is needed between proxy and model."""

    async def test(bench: Bench) -> None:
        answer = await bench.exchange(request(b"{}", b"Connection: close"))

        assert answer.endswith(b"{}")

    run(echo, test, upstream_socket=str(tmp_path / "m"))


def test_a_stop_under_load_loses_no_answer() -> None:
    """Every request that was taken is answered whole; the last answer of each connection says that it is the last."""
    whole: list[bytes] = []
    lost: list[bytes] = []

    async def test(bench: Bench) -> None:
        async def client() -> None:
            while True:
                try:
                    reader, writer = await bench.connect()
                except OSError:
                    return
                while True:
                    writer.write(request(b"{}"))
                    try:
                        answer = await answer_of(reader)
                    except (ConnectionError, asyncio.IncompleteReadError) as exc:
                        lost.append(getattr(exc, "partial", b""))
                        writer.close()
                        return
                    whole.append(answer)
                    if b"connection: close" in answer:
                        break
                writer.close()

        clients = [asyncio.create_task(client()) for _ in range(16)]
        await until(lambda: len(whole) > 200)
        before = bench.connected
        bench.stopping.set()
        await asyncio.gather(*clients)
        assert bench.serving is not None
        await bench.serving

        assert not any(lost)
        assert all(answer.startswith(b"HTTP/1.1 200") for answer in whole)
        assert sum(b"connection: close" in answer for answer in whole) >= 16 - len(lost)
        assert len(bench.seen) == len(whole)
        assert not any(seen.aborted for seen in bench.seen)
        assert bench.connected - before <= 16

    run(echo, test)


def test_a_stop_waits_for_the_answer_that_runs() -> None:
    """A slow answer comes whole although the stop came first; no new client gets in meanwhile."""
    go_on = asyncio.Event()

    async def model(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(length_of(await head_of(reader)))
        await go_on.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate")
        await writer.drain()

    async def test(bench: Bench) -> None:
        reader, writer = await bench.connect()
        writer.write(request(b"{}"))
        await until(lambda: bench.connected == 1)
        bench.stopping.set()
        while True:
            try:
                _, other = await bench.connect()
            except ConnectionRefusedError:
                break
            other.close()
            await asyncio.sleep(0.01)
        go_on.set()
        answer = await asyncio.wait_for(reader.read(), 60)
        writer.close()

        assert answer.endswith(b"late")
        assert b"connection: close" in answer

    run(model, test)


def test_a_bad_request_does_not_cost_the_one_before_it_its_answer() -> None:
    """Both come in one read, and the first one still runs when the second is refused."""

    async def test(bench: Bench) -> None:
        answer = await bench.exchange(request(b"good") + b"POST /h\r\n\r\n" + request(b"never"))

        assert answer.startswith(b"HTTP/1.1 200")
        assert answer.count(b"HTTP/1.1") == 2
        assert b"HTTP/1.1 400" in answer
        assert [(b"".join(seen.request.chunks), seen.aborted) for seen in bench.seen] == [(b"good", False)]

    run(echo, test)


@pytest.mark.parametrize("before", [b"", request(b"ok")])
def test_nothing_is_served_behind_a_refusal(before: bytes) -> None:
    """Also not what came in the same read: the client was told that the connection is over."""

    async def test(bench: Bench) -> None:
        large = PREDICT + b"Transfer-Encoding: chunked\r\n\r\nb\r\nelevenbytes\r\n0\r\n\r\n"
        answer = await bench.exchange(before + large + request(b"never"))

        assert answer.count(b"HTTP/1.1 413") == 1
        assert answer.count(b"HTTP/1.1 200") == bool(before)
        assert not [seen for seen in bench.seen if b"never" in seen.request.chunks]

    run(echo, test, max_body=10)


def test_a_queued_request_that_breaks_off_is_the_one_that_fails() -> None:
    """The one before it, which still ran when the fault was found, has its answer."""

    async def test(bench: Bench) -> None:
        broken = PREDICT + b"Transfer-Encoding: chunked\r\n\r\n2\r\nabX"
        answer = await bench.exchange(request(b"good") + broken)

        assert answer.startswith(b"HTTP/1.1 200")
        assert answer.count(b"HTTP/1.1 400") == 1
        assert [(seen.status, seen.aborted) for seen in bench.seen] == [(200, False), (400, True)]

    run(echo, test)
