"""Answers that end with their connection: over TLS, only a model that says so has come to the end."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import uvloop

from inference.http2.outlet import Turn
from logger.batching.calls import Answer, Lost, Model
from logger.connector import Connector
from logger.heads import Fields
from logger.settings import ModelTls, ProxySettings
from logger.upstream import Upstream
from tests.logger.bench import Bench, Handler, request, run, until
from tests.secured import Authority

Run = Callable[[Coroutine[None, None, None]], None]
Tls = tuple[ssl.SSLContext, ModelTls]

_HEAD = b"HTTP/1.0 200 OK\r\n\r\n"


@pytest.fixture(name="tls")
def _tls(tmp_path: Path) -> Tls:
    """What a model proves with who it is, and how it is known by it."""
    authority = Authority(tmp_path, "own")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue("model"))
    return context, ModelTls(ca_file=str(authority.file))


def _model(go_on: asyncio.Event, *, cut: bool = False, head: bytes = _HEAD) -> Handler:
    """Answer without a length; then, when told to, close, or drop the connection below TLS."""

    async def model(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"{}")
        writer.write(head + b"[1, 2")
        await go_on.wait()
        if cut:
            writer.transport.abort()
        else:
            writer.write(b", 3]")
            writer.close()

    return model


@pytest.mark.parametrize("version", [b"HTTP/1.1", b"HTTP/1.0"])
@pytest.mark.parametrize("cut", [True, False])
def test_an_answer_that_tls_does_not_end_is_broken(tls: Tls, version: bytes, cut: bool) -> None:  # noqa: FBT001
    """Whoever cuts the wire cannot make a part pass for the whole: the client and the log see it break off."""
    go_on = asyncio.Event()

    async def test(bench: Bench) -> None:
        reader, writer = await bench.connect()
        writer.write(request(b"{}", b"Connection: close").replace(b"HTTP/1.1", version))
        answer = await reader.readuntil(b"[1, 2")
        go_on.set()
        broken = False
        try:
            rest = await asyncio.wait_for(reader.read(), 60)
        except ConnectionResetError:
            broken, rest = True, b""
        writer.close()
        await until(lambda: bool(bench.seen))

        assert b"200 OK" in answer
        assert rest.endswith(b"0\r\n\r\n") == (not cut and version == b"HTTP/1.1")
        assert bench.seen[0].aborted == cut
        assert broken == (cut and version == b"HTTP/1.0")

    run(_model(go_on, cut=cut), test, tls=tls[0], upstream_tls=tls[1])


@pytest.mark.parametrize("runs", [uvloop.run, asyncio.run])
@pytest.mark.parametrize("cut", [True, False])
def test_the_batcher_takes_no_part_for_the_whole(tls: Tls, runs: Run, cut: bool) -> None:  # noqa: FBT001
    """Nor does what it asks with, on either loop."""
    go_on = asyncio.Event()
    answer = Answer(most=1_000)

    async def test() -> None:
        async with await asyncio.start_server(_model(go_on, cut=cut), "127.0.0.1", 0, ssl=tls[0]) as server:
            model = Model(ProxySettings(upstream_port=server.sockets[0].getsockname()[1], upstream_tls=tls[1]))
            asking = asyncio.create_task(model.call(request(b"{}"), answer))
            await until(lambda: answer.size > 0)
            go_on.set()
            if cut:
                with pytest.raises(Lost, match="before its answer was whole"):
                    await asking
            else:
                await asking

    runs(test())

    assert answer.body == (b"[1, 2" if cut else b"[1, 2, 3]")


def test_an_answer_that_tls_has_ended_is_whole(tls: Tls) -> None:
    """Though the model resets the connection then, as one does that has not read all that came."""
    answer = Answer(most=1_000)

    async def test() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            settings = ProxySettings(upstream_port=listening.getsockname()[1], upstream_tls=tls[1])
            asking = asyncio.create_task(Model(settings).call(request(b"{}"), answer))
            ending = await asyncio.to_thread(_answering, listening, tls[0])
            # On this thread, so that all of it has come when the other side reads.
            ending()
            await asking

    uvloop.run(test())

    assert answer.body == b"[1, 2, 3]"


def _answering(listening: socket.socket, context: ssl.SSLContext) -> Callable[[], None]:
    """Take a request; give what answers it, says that this was all, and resets the connection."""
    listening.settimeout(60)
    connection, _ = listening.accept()
    connection.settimeout(60)
    came, goes = ssl.MemoryBIO(), ssl.MemoryBIO()
    veil = context.wrap_bio(came, goes, server_side=True)
    asked = b""
    while not asked.endswith(b"{}"):
        try:
            veil.do_handshake()
            asked += veil.read()
        except ssl.SSLWantReadError:
            connection.sendall(goes.read())
            came.write(connection.recv(65_536))

    def end() -> None:
        veil.write(_HEAD + b"[1, 2, 3]")
        with pytest.raises(ssl.SSLWantReadError):
            veil.unwrap()
        connection.sendall(goes.read())
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()

    return end


def test_why_a_model_turns_us_away_is_told(tls: Tls) -> None:
    """TLS 1.3 refuses a client without a certificate when the connection seems to be open already."""
    tls[0].load_verify_locations(tls[1].ca_file)
    tls[0].verify_mode = ssl.CERT_REQUIRED

    async def test() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            refusing = asyncio.create_task(asyncio.to_thread(_refuse, listening, tls[0]))
            model = Model(ProxySettings(upstream_port=listening.getsockname()[1], upstream_tls=tls[1]))
            with pytest.raises(Lost, match=r"before its answer was whole: .*certificate required"):
                await model.call(request(b"{}"), Answer(most=1_000))
            await refusing

    uvloop.run(test())


def _refuse(listening: socket.socket, context: ssl.SSLContext) -> None:
    """Shake hands in vain, and close when the other side has."""
    listening.settimeout(60)
    connection, _ = listening.accept()
    raw = connection.dup()
    raw.settimeout(60)
    with raw, context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False) as veil:
        with pytest.raises(ssl.SSLError, match="did not return a certificate"):
            veil.do_handshake()
        with suppress(ConnectionResetError):
            while raw.recv(65_536):
                pass


@dataclass
class _Slow:
    """A listener that takes the first piece, and then nothing until the connection is over."""

    upstream: Upstream | None = None
    read: asyncio.Event = field(default_factory=asyncio.Event)
    over: asyncio.Event = field(default_factory=asyncio.Event)
    content: bytes = b""
    lost: str = ""

    def answer_interim(self, status: int, reason: bytes, fields: Fields) -> None:
        """See `Listener`."""

    def answer_head(
        self, status: int, reason: bytes, fields: Fields, first: dict[bytes, bytes], length: int | None, *, body: bool
    ) -> None:
        """See `Listener`."""

    def answer_data(self, data: bytes) -> None:
        """See `Listener`."""
        assert self.upstream is not None
        if not self.content:
            self.upstream.transport.pause_reading()
        self.content += data
        self.read.set()

    def answer_end(self) -> None:
        """See `Listener`."""
        self.over.set()

    def answer_lost(self, problem: str, *, silent: bool) -> None:
        """See `Listener`."""
        self.lost = f"{problem}, {silent=}"
        self.over.set()

    def upstream_pressure(self, *, full: bool) -> None:
        """See `Listener`."""


@pytest.mark.parametrize("head", [_HEAD, b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"])
def test_what_came_while_nobody_read_is_not_lost(tls: Tls, head: bytes) -> None:
    """A client that reads slowly gets all of an answer, though its model closed the connection meanwhile."""

    async def test() -> None:
        found = _Slow()
        # As most servers do, this one does not wait until its goodbye is answered.
        serving = asyncio.start_server(
            _model(found.read, head=head), "127.0.0.1", 0, ssl=tls[0], ssl_shutdown_timeout=0.01
        )
        async with await serving as server:
            settings = ProxySettings(upstream_port=server.sockets[0].getsockname()[1], upstream_tls=tls[1])
            found.upstream = await Connector(settings).http(lambda: Upstream(Turn(), settings))
            found.upstream.serve(found, 0.0, head_only=False)
            found.upstream.write(request(b"{}"))
            await asyncio.wait_for(found.over.wait(), 60)

        assert (found.content, found.lost) == (b"[1, 2, 3]", "")

    uvloop.run(test())
