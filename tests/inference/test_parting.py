"""The end of TLS connections that the server closes."""

from __future__ import annotations

import asyncio
import socket
from typing import Any, cast

from inference.parting import Parting


class Wire:
    """A transport over a socket, which waits for a goodbye when it is closed."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self.closed = self.cut = False

    def write(self, data: bytes) -> None:
        """Send."""
        self._socket.sendall(data)

    def close(self) -> None:
        """Begin to close."""
        self.closed = True

    def is_closing(self) -> bool:
        """Tell whether that has begun."""
        return self.closed

    def abort(self) -> None:
        """End."""
        self.cut = True

    def get_extra_info(self, _name: str) -> Any:  # noqa: ANN401 - as in asyncio
        """Give the socket."""
        return self._socket


def _pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        return server.accept()[0], client


def _filled(connection: socket.socket) -> None:
    """Send until nothing fits any more."""
    connection.setblocking(False)  # noqa: FBT003 - the library names no parameter
    try:
        while True:
            connection.send(bytes(65_536))
    except BlockingIOError:
        connection.setblocking(True)  # noqa: FBT003 - as above


def test_who_has_everything_is_cut() -> None:
    """A client that says no goodbye does not keep its connection; one that still reads does, until it has read."""

    async def main() -> None:
        near, far = _pair()
        with near, far:
            _filled(near)
            wire = Wire(near)
            parting = Parting(cast("asyncio.Transport", wire), asyncio.get_running_loop())
            parting.close()
            for _ in range(5):
                await asyncio.sleep(0.25)  # as often as it looks
            kept = not wire.cut
            far.settimeout(0.5)
            while not wire.cut:
                try:
                    await asyncio.to_thread(far.recv, 1 << 20)
                except TimeoutError:
                    await asyncio.sleep(0)

        assert kept
        assert wire.closed

    asyncio.run(asyncio.wait_for(main(), 60))
