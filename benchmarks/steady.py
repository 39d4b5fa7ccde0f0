"""A load at a steady rate over a few connections, and how long every answer took from when its request was due.

A request that is due goes out on a connection that is idle, at once; if none is, it waits, and the wait counts. How
late the generator itself was is measured, too: what it is late is no fault of the server.
"""

from __future__ import annotations

import gc
import os
import select
import socket
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

CONNECTIONS = 16
PATIENCE_S = 30.0
_SLACK = Path("/proc/self/timerslack_ns")


@dataclass(slots=True)
class Answers:
    """What a load had: times in seconds."""

    times: list[float] = field(default_factory=list)
    late: list[float] = field(default_factory=list)
    failed: int = 0
    """Requests whose connection was closed before their answer's end."""

    def p(self, share: float) -> float:
        """Give a quantile of the answers' times."""
        return quantile(self.times, share)


class _Connection:
    """One connection, with at most one request under way."""

    def __init__(self, port: int, room: int) -> None:
        self._port, self._room = port, room
        self.due = self.freed = 0.0
        self.open()

    def open(self) -> None:
        """Connect, for the first time or anew."""
        self.socket = socket.socket()
        # A whole request fits, so that sending never waits and delays all others.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self._room)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.connect(("127.0.0.1", self._port))
        self._head, self._left = b"", -1

    def fileno(self) -> int:
        return self.socket.fileno()

    def read(self, size: int) -> bool:
        """Read what is there; tell whether the answer, with a body of `size`, is whole.

        Raises:
            OSError: the server has closed the connection.
        """
        data = self.socket.recv(1 << 18)
        if not data:
            raise ConnectionResetError
        if self._left < 0:
            self._head += data
            head, end, body = self._head.partition(b"\r\n\r\n")
            if not end:
                return False
            if not head.startswith(b"HTTP/1.1 200 "):
                raise SystemExit(f"expected 200, got {head[:200]!r}")
            self._head, self._left = b"", size - len(body)
        else:
            self._left -= len(data)
        if self._left:
            return False
        self._left = -1
        return True


def load(port: int, path: str, body: bytes, rate: float, seconds: float) -> Answers:
    """Send `body` at a steady rate and read answers with a body of the same length."""
    request = (
        f"POST {path}?size={len(body)} HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode() + body
    connections = [_Connection(port, 4 * len(request) + 65_536) for _ in range(CONNECTIONS)]
    try:
        with undisturbed():
            return _run(connections, request, len(body), rate, int(rate * seconds))
    finally:
        for connection in connections:
            connection.socket.close()


def _run(connections: list[_Connection], request: bytes, size: int, rate: float, count: int) -> Answers:
    idle, busy, found = deque(connections), set[_Connection](), Answers()
    clock, sent = time.perf_counter, 0
    began = clock() + 0.01
    while sent < count or busy:
        now = clock()
        while idle and sent < count and (due := began + sent / rate) <= now:
            connection = idle.popleft()
            connection.due = due
            connection.socket.sendall(request)
            busy.add(connection)
            found.late.append(now - max(due, connection.freed))
            sent += 1
            now = clock()
        wait = began + sent / rate - now if idle and sent < count else PATIENCE_S
        ready = select.select(busy, (), (), max(0.0, wait))[0]
        if not ready and wait == PATIENCE_S:
            raise SystemExit(f"no answer within {PATIENCE_S:g} s: {sent} requests, {len(found.times)} answers")
        now = clock()
        for connection in ready:
            try:
                if not connection.read(size):
                    continue
                found.times.append(now - connection.due)
            except OSError:
                found.failed += 1
                connection.socket.close()
                connection.open()
            connection.freed = now
            busy.discard(connection)
            idle.append(connection)
    return found


@contextmanager
def undisturbed() -> Iterator[None]:
    """Keep collector, timer slack and, where allowed, other processes out of the measurement."""
    gc.collect()
    gc.disable()
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    with suppress(OSError):
        _SLACK.write_text("1000")
    with suppress(PermissionError):
        # Stands for a client on another machine: it is not what is measured.
        os.setpriority(os.PRIO_PROCESS, 0, nice - 10)
    try:
        yield
    finally:
        os.setpriority(os.PRIO_PROCESS, 0, nice)
        with suppress(OSError):
            _SLACK.write_text("0")
        gc.enable()


def quantile(values: list[float], share: float) -> float:
    """Give a quantile."""
    return sorted(values)[min(int(len(values) * share), len(values) - 1)]
