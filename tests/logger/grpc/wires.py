"""A gRPC proxy without sockets: drawn frames go in, its answers and what the model saw come out.

Client and model are the `h2` library as it is, which checks what the proxy writes, flow control included.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    DataReceived,
    Event,
    RequestReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)
from h2.exceptions import ProtocolError

from logger.grpc.back import Back
from logger.grpc.front import Front, Host
from logger.lane import Lane
from logger.proxy import Proxy
from logger.settings import ProxySettings
from logger.tap import Seen
from tests.logger.grpc.drafts import Draft, Reply, Stream, connection, cut
from tests.logger.wires import Wire

TURNS = 2_000


@dataclass
class Heard:
    """An answer as the client read it."""

    fields: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytes = b""
    trailers: list[tuple[bytes, bytes]] = field(default_factory=list)
    ended: bool = False
    reset: int | None = None


@dataclass
class Outcome:
    """What came of a stream of bytes."""

    seen: dict[int, list[Draft]]
    """What the model read whole, by connection."""
    logged: list[Seen]
    output: bytes
    heard: dict[int, Heard]
    left: int
    """Calls that were still open when everything was over."""
    faults: list[str]
    """What client or model could not read."""


class Model:
    """Answers on any number of connections."""

    def __init__(self, replies: Sequence[Reply], settings: dict[int, int]) -> None:
        self._replies, self._settings = replies, settings
        self.seen: dict[int, list[Draft]] = {}
        self.faults: list[str] = []

    def connect(self, back: Back) -> None:
        """Serve one connection."""
        number = len(self.seen)
        self.seen[number] = []
        peer = _Server(self._replies, self._settings, self.seen[number])

        def later(data: bytes) -> None:
            # As on a socket: never within the call that writes.
            asyncio.get_running_loop().call_soon(take, data)

        def take(data: bytes) -> None:
            try:
                out = peer.take(data)
            except ProtocolError as exc:
                self.faults.append(f"model: {exc!r}")
                return
            if out and not wire.closed:
                back.data_received(out)

        wire = Wire(later)
        back.connection_made(cast("asyncio.BaseTransport", wire))


class _Server:
    """The model's end of a connection."""

    def __init__(self, replies: Sequence[Reply], settings: dict[int, int], seen: list[Draft]) -> None:
        self._h2 = connection(client_side=False, settings=settings)
        self._replies, self._seen = replies, seen
        self._open: dict[int, tuple[list[tuple[bytes, bytes]], bytearray, list[tuple[bytes, bytes]]]] = {}
        self._waiting: dict[int, tuple[deque[bytes], Reply]] = {}

    def take(self, data: bytes) -> bytes:
        """Take bytes; give bytes."""
        for event in self._h2.receive_data(data):
            if isinstance(event, RequestReceived):
                self._open[event.stream_id] = (_pairs(event.headers), bytearray(), [])
            elif isinstance(event, DataReceived):
                self._open[event.stream_id][1].extend(event.data or b"")
                self._h2.acknowledge_received_data(event.flow_controlled_length or 0, event.stream_id)
            elif isinstance(event, TrailersReceived):
                self._open[event.stream_id][2].extend(_pairs(event.headers))
            elif isinstance(event, StreamEnded):
                self._answer(event.stream_id)
            elif isinstance(event, StreamReset):
                self._open.pop(event.stream_id, None)
                self._waiting.pop(event.stream_id, None)
        for stream in list(self._waiting):
            self._pump(stream)
        return self._h2.data_to_send()

    def _answer(self, stream: int) -> None:
        fields, body, trailers = self._open.pop(stream)
        self._seen.append(Draft(dict(fields)[b":path"], tuple(fields), bytes(body), tuple(trailers)))
        reply = self._replies[(stream // 2) % len(self._replies)]
        if not self._goes_on(stream):
            return
        head = [(b":status", b"200"), (b"content-type", b"application/grpc"), *reply.fields]
        if reply.kind == "reset":
            self._h2.reset_stream(stream, ErrorCodes.INTERNAL_ERROR)
        elif reply.kind == "head":
            self._h2.send_headers(stream, [*head, (b"grpc-status", b"5"), *reply.trailers], end_stream=True)
        else:
            self._h2.send_headers(stream, head)
            self._waiting[stream] = (deque(cut(reply.body, (7, 30))), reply)

    def _goes_on(self, stream: int) -> bool:
        """Tell whether a stream may still be written to; its reset may have come in the same read."""
        found = self._h2.streams.get(stream)
        return found is not None and found.open

    def _pump(self, stream: int) -> None:
        pieces, reply = self._waiting[stream]
        if not self._goes_on(stream):
            del self._waiting[stream]
            return
        while pieces:
            room = min(self._h2.local_flow_control_window(stream), self._h2.max_outbound_frame_size)
            if room <= 0:
                return
            piece = pieces.popleft()
            self._h2.send_data(stream, piece[:room])
            if piece[room:]:
                pieces.appendleft(piece[room:])
        del self._waiting[stream]
        self._h2.send_headers(stream, [(b"grpc-status", b"0"), *reply.trailers], end_stream=True)


class MemoryFront(Front):
    """A client's connection that leads to a model in memory."""

    def __init__(self, host: Host, model: Model) -> None:
        super().__init__(host, lambda _exc: None)
        self._model = model

    async def _connect(self, back: Back) -> None:
        await asyncio.sleep(0)
        if not back.closed:
            self._model.connect(back)


def play(stream: Stream, replies: Sequence[Reply], settings: dict[int, int], *, listen: bool) -> Outcome:
    """Send a stream to a proxy and wait until nothing happens any more; `listen` when its client can read answers."""

    async def main() -> Outcome:
        logged: list[Seen] = []
        model = Model(replies, settings)

        def offer(seen: Seen) -> bool:
            logged.append(seen)
            return True

        proxy = Proxy(ProxySettings(grpc_log_other=True), 1 << 20, offer, Lane(1 << 20).tally)
        front = MemoryFront(proxy, model)
        talk = await driven(front, stream, listen=listen)
        front.connection_lost(None)
        await asyncio.sleep(0)
        faults = [*model.faults, *talk.faults]
        return Outcome(model.seen, logged, b"".join(talk.output), talk.heard, len(front._calls), faults)

    return asyncio.run(main())


@dataclass
class Talk:
    """What came of a stream of bytes at its client's end; written to for as long as the connection is there."""

    output: list[bytes]
    heard: dict[int, Heard]
    faults: list[str]
    """What the client could not read."""


async def driven(connection: asyncio.Protocol, stream: Stream, *, listen: bool) -> Talk:
    """Send a stream to a connection and wait until nothing happens any more; `listen` when its client can read."""
    talk = Talk([], {}, [])
    wire = Wire(talk.output.append)
    connection.connection_made(cast("asyncio.BaseTransport", wire))
    for piece in stream.pieces():
        if wire.closed:
            break
        connection.data_received(piece)
        await asyncio.sleep(0)
    read, quiet, turns = 0, 0, 0
    while quiet < 20 and turns < TURNS:
        turns += 1
        await asyncio.sleep(0)
        fresh, read = talk.output[read:], len(talk.output)
        quiet = 0 if fresh else quiet + 1
        if listen and not wire.closed:
            try:
                back = listened(stream.client, b"".join(fresh), talk.heard, stream.window)
            except ProtocolError as exc:
                talk.faults.append(f"client: {exc!r}")
                break
            if back:
                connection.data_received(back)
    return talk


def listened(client: H2Connection, data: bytes, heard: dict[int, Heard], window: int) -> bytes:
    """Read answers, and give room for more of them; give what the client has to say."""
    for event in client.receive_data(data):
        stream = getattr(event, "stream_id", None) or 0
        _note(heard.setdefault(stream, Heard()), event)
        if isinstance(event, DataReceived):
            client.increment_flow_control_window(max(1, event.flow_controlled_length or 0))
            _widen(client, stream, max(1, window))
    if not window:
        # Room comes only now, and little of it.
        for stream in list(client.streams):
            if not heard.get(stream, Heard()).ended:
                _widen(client, stream, 5)
    return client.data_to_send()


def _widen(client: H2Connection, stream: int, amount: int) -> None:
    found = client.streams.get(stream)
    if found is not None and found.open:
        client.increment_flow_control_window(amount, stream)


def _note(mine: Heard, event: Event) -> None:
    if isinstance(event, ResponseReceived):
        mine.fields += _pairs(event.headers)
    elif isinstance(event, DataReceived):
        mine.body += event.data or b""
    elif isinstance(event, TrailersReceived):
        mine.trailers += _pairs(event.headers)
    elif isinstance(event, StreamEnded):
        mine.ended = True
    elif isinstance(event, StreamReset):
        mine.reset = int(event.error_code or 0)


def _pairs(headers: Any) -> list[tuple[bytes, bytes]]:  # noqa: ANN401 - the library's own kinds of pairs
    return [(bytes(name), bytes(value)) for name, value in headers or ()]
