"""A peer that speaks HTTP/2 frame by frame, for what grpcio never does: as a client, and as a model."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import ConnectionTerminated, Event
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes, Settings
from hyperframe.frame import Frame, GoAwayFrame

from logger.grpc.methods import INFER

TIMEOUT_S = 60
Kind = TypeVar("Kind", bound=Event)


class Patient(H2Connection):
    """Goes on after a GOAWAY, as real peers do (RFC 9113 section 6.8)."""

    def _receive_goaway_frame(self, frame: GoAwayFrame) -> tuple[list[Frame], list[Event]]:
        event = ConnectionTerminated()
        event.error_code, event.last_stream_id = ErrorCodes(frame.error_code), frame.last_stream_id
        event.additional_data = frame.additional_data
        return [], [event]


class Peer:
    """One end of a connection."""

    def __init__(self, sock: socket.socket, *, client_side: bool, settings: dict[int, int] | None = None) -> None:
        sock.settimeout(TIMEOUT_S)
        self.sock = sock
        config = H2Configuration(client_side=client_side, header_encoding="utf-8", validate_outbound_headers=False)
        self.h2 = Patient(config)
        if settings:
            self.h2.local_settings = Settings(client=client_side, initial_values=settings)  # type: ignore[arg-type] # codes are integers
        self.h2.initiate_connection()
        self.closed = False
        self.events: list[Event] = []
        self.flush()

    def flush(self) -> None:
        """Send what was framed; a connection that is gone takes nothing."""
        try:
            self.sock.sendall(self.h2.data_to_send())
        except OSError:
            self.closed = True

    def call(self, body: bytes | None = b"", path: str = INFER, *fields: tuple[str, str]) -> int:
        """Open a call, with its whole request unless `body` is None; give its stream."""
        stream = self.h2.get_next_available_stream_id()
        head = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "h"}
        if not any(name == "content-type" for name, _ in fields):
            fields = (*fields, ("content-type", "application/grpc"))
        self.h2.send_headers(stream, [*head.items(), *fields])
        if body is not None:
            self.h2.send_data(stream, b"\x00" + len(body).to_bytes(4, "big") + body, end_stream=True)
        return stream

    def answer(self, stream: int, body: bytes = b"", *, end: bool = True) -> None:
        """Answer a call, with its status unless told otherwise."""
        self.h2.send_headers(stream, [(":status", "200"), ("content-type", "application/grpc")])
        self.h2.send_data(stream, b"\x00" + len(body).to_bytes(4, "big") + body)
        if end:
            self.h2.send_headers(stream, [("grpc-status", "0")], end_stream=True)
        self.flush()

    def read(self) -> bool:
        """Read once, and answer what frames ask for; tell whether there was anything."""
        try:
            data = self.sock.recv(1 << 16)
        except ConnectionError:
            data = b""
        if not data:
            self.closed = True
            return False
        try:
            self.events += self.h2.receive_data(data)
        except ProtocolError:
            self.closed = True
        self.flush()
        return not self.closed

    def until(self, kind: type[Kind], stream: int | None = None) -> Kind:
        """Read until an event of a kind has come, perhaps of one stream; give it, once."""
        while True:
            for event in self.events:
                if isinstance(event, kind) and stream in {None, getattr(event, "stream_id", None)}:
                    self.events.remove(event)
                    return event
            if self.closed or not self.read():
                raise AssertionError(f"closed before {kind.__name__}; came: {self.events}")

    def until_closed(self) -> list[Event]:
        """Read to the end; give all that came."""
        while not self.closed and self.read():
            pass
        return self.events

    def close(self) -> None:
        """Close."""
        self.sock.close()


@contextmanager
def client(port: int, settings: dict[int, int] | None = None) -> Iterator[Peer]:
    """Connect to a proxy."""
    peer = Peer(socket.create_connection(("127.0.0.1", port), TIMEOUT_S), client_side=True, settings=settings)
    try:
        yield peer
    finally:
        peer.close()


@contextmanager
def scripted(script: Callable[[Peer], Any], settings: dict[int, int] | None = None) -> Iterator[int]:
    """Be a model that follows a script on each of its connections; give its port."""
    listener = socket.create_server(("127.0.0.1", 0))
    threads: list[threading.Thread] = []

    def follow(sock: socket.socket) -> None:
        peer = Peer(sock, client_side=False, settings=settings)
        try:
            script(peer)
        except (OSError, AssertionError, ProtocolError):
            # The proxy went away: the test says whether it should have.
            peer.closed = True
        finally:
            peer.close()

    def accept() -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            threads.append(threading.Thread(target=follow, args=(sock,), daemon=True))
            threads[-1].start()

    accepting = threading.Thread(target=accept, daemon=True)
    accepting.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        accepting.join(TIMEOUT_S)
        for thread in threads:
            thread.join(TIMEOUT_S)


WINDOW = SettingCodes.INITIAL_WINDOW_SIZE
STREAMS = SettingCodes.MAX_CONCURRENT_STREAMS
