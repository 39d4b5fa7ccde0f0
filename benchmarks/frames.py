"""A closed loop of unary gRPC calls on bare sockets: each connection sends the next call when it has its answer.

Written frames instead of a client library: a library's own cost per call is above that of the servers it would measure,
and shares their cores. For the same reason a call's frames are written once. Knows as much of HTTP/2 as that takes.
Sources: RFC 9113, RFC 7541, gRPC over HTTP/2.
"""

from __future__ import annotations

import selectors
import socket
import struct
import time

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
ACK = END_STREAM = 1
END_HEADERS = 4
INITIAL_WINDOW = 65_535
LARGE = (1 << 31) - 1
FRAME = 16_384
STREAM_AT = 5
READ = 64 * 1024
PATIENCE_S = 30.0


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Write a frame."""
    return struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + payload


def _field(name: str, value: str) -> bytes:
    # A literal that no table remembers, so that each call's bytes are the same.
    return b"".join((b"\x00", *(bytes((len(text),)) + text.encode() for text in (name, value))))


class _Connection:
    """One connection, with at most one call under way."""

    def __init__(self, port: int, path: str, message: bytes) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), PATIENCE_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        settings = struct.pack(">HI", 4, LARGE)
        greeting = frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", LARGE - INITIAL_WINDOW))
        self.socket.sendall(PREFACE + frame(SETTINGS, 0, 0, settings) + greeting)
        fields = {
            ":method": "POST", ":scheme": "http", ":path": path, ":authority": "bench", "te": "trailers",
            "content-type": "application/grpc",
        }  # fmt: skip
        head = b"".join(_field(name, value) for name, value in fields.items())
        body = b"\x00" + struct.pack(">I", len(message)) + message
        self._size = len(body)
        pieces = [body[at : at + FRAME] for at in range(0, len(body), FRAME)]
        frames = [frame(HEADERS, END_HEADERS, 0, head)]
        frames += [frame(DATA, 0, 0, piece) for piece in pieces[:-1]]
        frames.append(frame(DATA, END_STREAM, 0, pieces[-1]))
        self._call = bytearray(b"".join(frames))
        """The frames of a call; the next one has another stream at these places, and is else the same."""
        self._streams = [sum(map(len, frames[:index])) + STREAM_AT for index in range(len(frames))]
        self._stream = -1
        self._window = INITIAL_WINDOW
        self._waiting = False
        self._received = bytearray()
        self.size = 0
        self.begun = 0.0

    def begin(self) -> None:
        """Send the next call, once the server has room for it."""
        self._waiting = self._window < self._size
        if self._waiting:
            return
        self._stream += 2
        self.size = 0
        self._window -= self._size
        for at in self._streams:
            struct.pack_into(">I", self._call, at, self._stream)
        self.begun = time.perf_counter()
        self.socket.sendall(self._call)

    def read(self) -> bool:
        """Read what came; tell whether the call is over."""
        received = self._received
        received += self.socket.recv(READ)
        over, at = False, 0
        while len(received) - at >= 9:
            length = int.from_bytes(received[at : at + 3], "big")
            if len(received) - at < 9 + length:
                break
            kind, flags = received[at + 3], received[at + 4]
            stream = int.from_bytes(received[at + 5 : at + 9], "big")
            over = self._take(kind, flags, stream, bytes(received[at + 9 : at + 9 + length])) or over
            at += 9 + length
        del received[:at]
        return over

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> bool:
        if kind == DATA:
            self.size += len(payload)
        elif kind in {RST_STREAM, GOAWAY}:
            raise SystemExit(f"the server broke a call off: frame {kind}, {payload!r}")
        elif kind == SETTINGS and not flags & ACK:
            self.socket.sendall(frame(SETTINGS, ACK, 0))
        elif kind == PING and not flags & ACK:
            self.socket.sendall(frame(PING, ACK, 0, payload))
        elif kind == WINDOW_UPDATE and stream == 0:
            self._window += int.from_bytes(payload, "big")
            if self._waiting:
                self.begin()
        return kind in {DATA, HEADERS} and stream == self._stream and bool(flags & END_STREAM)


def load(port: int, path: str, message: bytes, connections: int, seconds: float, size: int) -> list[float]:
    """Call for some seconds; give how long each answer took. Answers must be of `size`, gRPC's five bytes included."""
    times: list[float] = []
    with selectors.DefaultSelector() as selector:
        opened = [_Connection(port, path, message) for _ in range(connections)]
        for connection in opened:
            selector.register(connection.socket, selectors.EVENT_READ, connection)
            connection.begin()
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            for key, _ in selector.select(1.0):
                connection = key.data
                if connection.read():
                    times.append(time.perf_counter() - connection.begun)
                    if connection.size != size:
                        raise SystemExit(f"an answer of {connection.size} bytes, expected {size}")
                    connection.begin()
        for connection in opened:
            connection.socket.close()
    return times
