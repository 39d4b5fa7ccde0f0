"""A proxy without sockets: its client's bytes go in, its answers and what the model saw come out, both read by h11.

h11 is no part of the product and shares no code with it; what it reads differently from the proxy is a fault.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import cast

import h11
from hypothesis import strategies as st

from logger.connection import Connection
from logger.lane import Lane
from logger.proxy import Proxy
from logger.settings import ProxySettings
from logger.tap import Seen
from logger.upstream import Pool, Upstream

TOKEN = b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
TURNS = 4_000
_OK = 200


class Wire:
    """A transport that keeps what is written and says who closed it."""

    def __init__(self, written: Callable[[bytes], None]) -> None:
        self._written = written
        self.closed = False
        self.reading = True

    def write(self, data: bytes) -> None:
        if not self.closed:
            self._written(bytes(data))

    def writelines(self, pieces: Sequence[bytes]) -> None:
        self.write(b"".join(pieces))

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    abort = write_eof = close

    def get_write_buffer_size(self) -> int:
        return 0

    def get_extra_info(self, _name: str) -> None:
        return None


@dataclass(frozen=True, slots=True)
class Call:
    """A request, or what was read of one."""

    method: bytes
    target: bytes
    body: bytes
    fields: tuple[tuple[bytes, bytes], ...] = ()


@dataclass(frozen=True, slots=True)
class Reply:
    """How the model answers: bytes after the status line, in pieces."""

    body: bytes = b"ok"
    framing: str = "length"
    interim: bool = False
    cuts: tuple[int, ...] = ()


@dataclass
class Model:
    """Answers what h11 reads on any number of connections."""

    replies: Sequence[Reply]
    seen: list[Call] = field(default_factory=list)

    def connect(self, upstream: Upstream) -> None:
        """Serve one connection."""
        reader = h11.Connection(h11.SERVER)
        head: list[h11.Request] = []
        body: list[bytes] = []

        def later(data: bytes) -> None:
            # As on a socket: never within the call that writes.
            asyncio.get_running_loop().call_soon(take, data)

        def take(data: bytes) -> None:
            reader.receive_data(data)
            while type(event := reader.next_event()) not in {h11.NEED_DATA, h11.PAUSED, h11.ConnectionClosed}:
                if isinstance(event, h11.Request):
                    head[:] = [event]
                    body.clear()
                elif isinstance(event, h11.Data):
                    body.append(bytes(event.data))
                elif isinstance(event, h11.EndOfMessage):
                    self._answer(head[0], b"".join(body), reader, upstream, wire)

        wire = Wire(later)
        upstream.connection_made(cast("asyncio.BaseTransport", wire))

    def _answer(
        self, head: h11.Request, body: bytes, reader: h11.Connection, upstream: Upstream, wire: Wire
    ) -> None:  # fmt: skip
        reply = self.replies[len(self.seen) % len(self.replies)]
        self.seen.append(
            Call(bytes(head.method), bytes(head.target), body, tuple((bytes(n), bytes(v)) for n, v in head.headers))
        )
        text = _reply(reply, b"" if head.method == b"HEAD" else reply.body, reader)
        for piece in _cut(text, reply.cuts):
            if not wire.closed:
                upstream.data_received(piece)
        if reply.framing == "close":
            wire.close()
            upstream.eof_received()
            upstream.connection_lost(None)
        elif reader.our_state is h11.DONE and reader.their_state is h11.DONE:
            reader.start_next_cycle()


def _reply(reply: Reply, body: bytes, writer: h11.Connection) -> bytes:
    headers = [("content-length", str(len(reply.body)))] if reply.framing == "length" else []
    if reply.framing == "chunked":
        headers.append(("transfer-encoding", "chunked"))
    elif reply.framing == "close":
        headers.append(("connection", "close"))
    early = writer.send(h11.InformationalResponse(status_code=103, headers=[("link", "x")])) if reply.interim else b""
    if reply.framing == "close":
        # h11 itself would write chunks.
        return bytes(early or b"") + b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n" + body
    events = [
        h11.Response(status_code=200, headers=headers),
        *([h11.Data(data=body)] if body else []),
        h11.EndOfMessage(),
    ]
    return bytes(early or b"") + b"".join(bytes(writer.send(event) or b"") for event in events)


class MemoryPool(Pool):
    """Connections that lead to a model in memory."""

    def __init__(self, proxy: Proxy, model: Model) -> None:
        super().__init__(proxy.settings, proxy.turn)
        self._proxy, self._model = proxy, model

    async def connect(self) -> Upstream:
        """Open a connection."""
        await asyncio.sleep(0)
        upstream = Upstream(self._proxy.turn, self.settings)
        self._model.connect(upstream)
        return upstream


@dataclass
class Outcome:
    """What came of a stream of bytes."""

    seen: list[Call]
    logged: list[Seen]
    output: bytes
    closed: bool


def play(pieces: Sequence[bytes], replies: Sequence[Reply]) -> Outcome:
    """Send pieces to a proxy and wait until nothing happens any more."""

    async def main() -> Outcome:
        logged: list[Seen] = []
        output: list[bytes] = []
        model = Model(replies)

        def offer(seen: Seen) -> bool:
            logged.append(seen)
            return True

        proxy = Proxy(ProxySettings(), 1 << 20, offer, Lane(1 << 20).tally)
        proxy.pool = MemoryPool(proxy, model)
        connection, wire = Connection(proxy), Wire(output.append)
        connection.connection_made(cast("asyncio.BaseTransport", wire))
        for piece in pieces:
            for _ in range(TURNS):
                if wire.reading or wire.closed:
                    break
                await asyncio.sleep(0)
            assert wire.reading or wire.closed, "never read from again"
            if wire.closed:
                break
            connection.data_received(piece)
            await asyncio.sleep(0)
        quiet = 0
        while quiet < 20 and not wire.closed:
            before = len(output)
            await asyncio.sleep(0)
            quiet = quiet + 1 if len(output) == before else 0
        closed = wire.closed
        connection.connection_lost(None)
        return Outcome(model.seen, logged, b"".join(output), closed)

    return asyncio.run(main())


def answers(output: bytes, methods: Sequence[bytes], *, closed: bool) -> Iterator[tuple[int, bytes]]:
    """Read the client's side: status and body of each whole answer.

    Raises:
        h11.RemoteProtocolError: it is no HTTP.
    """
    reader = h11.Connection(h11.CLIENT)
    reader.receive_data(output)
    if closed:
        reader.receive_data(b"")
    for number in range(len(methods) + 1):
        if not reader.trailing_data[0] and reader.their_state is h11.IDLE:
            return
        method = methods[number] if number < len(methods) else b"POST"
        reader.send(h11.Request(method=method, target="/", headers=[("host", "h"), ("content-length", "0")]))
        reader.send(h11.EndOfMessage())
        status, body = 0, b""
        while type(event := reader.next_event()) not in {h11.NEED_DATA, h11.PAUSED, h11.ConnectionClosed}:
            if isinstance(event, h11.Response):
                status = event.status_code
                if status != _OK:
                    # The proxy's own, and the last: whether it has content depends on a method that nobody may know.
                    yield status, b""
                    return
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                yield status, body
                break
        if reader.our_state is not h11.DONE or reader.their_state is not h11.DONE:
            return
        reader.start_next_cycle()


def _cut(data: bytes, cuts: Sequence[int]) -> Iterator[bytes]:
    places = [0, *sorted({cut % (len(data) + 1) for cut in cuts}), len(data)]
    return (data[start:end] for start, end in pairwise(places) if start < end)


@dataclass(frozen=True, slots=True)
class Stream:
    """Requests as they are meant, their bytes, and where the bytes are cut."""

    calls: tuple[Call, ...]
    data: bytes
    cuts: tuple[int, ...]

    def pieces(self) -> list[bytes]:
        """Give the bytes in pieces."""
        return list(_cut(self.data, self.cuts))


names = st.binary(min_size=1, max_size=12).map(lambda raw: b"x-" + bytes(TOKEN[byte % len(TOKEN)] for byte in raw))
values = st.binary(max_size=20).map(
    lambda raw: bytes(byte if byte == 9 or 32 <= byte != 127 else 46 for byte in raw).strip(b" \t")
)
targets = st.sampled_from([
    b"/v1/models/m:predict", b"/v2/models/m/infer", b"/v2/models/m/versions/1/infer?a=%20b", b"/", b"//x",
    b"/a;b?c=/?d", b"/v2/health/live",
])  # fmt: skip
methods = st.sampled_from([b"POST", b"POST", b"POST", b"GET", b"PUT", b"DELETE", b"HEAD", b"OPTIONS", b"PATCH"])
spaces = st.sampled_from([b"", b" ", b"\t", b" \t "])
extensions = st.sampled_from([b"", b";a", b";a=b", b';a="b;c"', b";a;b=1"])
replies = st.builds(
    Reply,
    st.binary(max_size=40),
    st.sampled_from(["length", "chunked", "close"]),
    st.booleans(),
    st.tuples(st.integers(0, 500), st.integers(0, 500)),
)


@st.composite
def streams(draw: st.DrawFn) -> Stream:
    """Draw legal requests, pipelined, odd in all that may be odd."""
    calls, text = [], b""
    for _ in range(draw(st.integers(1, 5))):
        method, target, body = draw(methods), draw(targets), draw(st.binary(max_size=60))
        fields = draw(st.lists(st.tuples(names, values), max_size=4))
        lines = [b"Host: h", *(name + b":" + draw(spaces) + value + draw(spaces) for name, value in fields)]
        content = b""
        if draw(st.booleans()):
            lines.append(
                b"transfer-encoding:" + draw(spaces) + draw(st.sampled_from([b"chunked", b"Chunked", b"CHUNKED"]))
            )
            for piece in _cut(body, draw(st.lists(st.integers(0, 60), max_size=3))):
                content += b"%x%b\r\n%b\r\n" % (len(piece), draw(extensions), piece)
            content += b"0" + draw(extensions) + b"\r\n" + draw(st.sampled_from([b"", b"X-T: 1\r\n"])) + b"\r\n"
        elif body or draw(st.booleans()):
            lines.append(
                b"content-length:" + draw(spaces) + draw(st.sampled_from([b"", b"0", b"00"])) + b"%d" % len(body)
            )
            content = body
        lines[1:] = draw(st.permutations(lines[1:]))
        calls.append(Call(method, target, body, tuple((name.lower(), value) for name, value in fields)))
        text += (
            draw(st.sampled_from([b"", b"\r\n"]))
            + method
            + b" "
            + target
            + b" HTTP/1.1\r\n"
            + b"\r\n".join(lines)
            + b"\r\n\r\n"
            + content
        )
    return Stream(tuple(calls), text, tuple(draw(st.lists(st.integers(0, 2_000), max_size=8))))


@st.composite
def damaged(draw: st.DrawFn) -> Stream:
    """Draw a stream and damage it: bytes replaced, put in, taken out, parts repeated."""
    stream = draw(streams())
    data = bytearray(stream.data)
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, len(data)))
        kind = draw(st.integers(0, 3))
        if kind == 0:
            data[at : at + 1] = draw(_BITS)
        elif kind == 1:
            data[at:at] = draw(_BITS)
        elif kind == 2:
            del data[at : at + draw(st.integers(1, 20))]
        else:
            data[at:at] = data[at : at + draw(st.integers(1, 60))]
    return Stream(stream.calls, bytes(data), stream.cuts)


_BITS = st.sampled_from([
    b"\r\n", b"\n", b"\r", b"\x00", b" ", b"\t", b":", b"0", b"5", b"\r\n\r\n", b"0\r\n\r\n", b",", b";", b"\xff",
    b"Transfer-Encoding: chunked\r\n",
    b"Content-Length: 5\r\n", b"Connection: close\r\n", b"Expect: 100-continue\r\n",
    b"Upgrade: h2c\r\nConnection: upgrade\r\n", b"http://h", b"HTTP/1.0",
    b"GET / HTTP/1.1\r\nHost: h\r\n\r\n", b"Host: h\r\n", b"chunked", b"identity", b"#", b"*",
]) | st.binary(min_size=1, max_size=4)  # fmt: skip
