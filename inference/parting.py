"""A TLS connection's transport that ends in time, and knows what it has not sent. Used by `inference/visitors.py`.

When the server closes, TLS gives its client half a minute to say goodbye, too. A client that is idle hardly ever does,
and would keep its place, and the end of the process, so long. So it is cut as soon as all that was sent has arrived,
the server's own goodbye last.
"""

from __future__ import annotations

import asyncio
import fcntl
import struct
import termios
from typing import Any, Final

_LOOK_S: Final = 0.25
_LOOKS: Final = 120
"""For half a minute: then TLS has ended it."""
_PIECE: Final = 256 * 1024
"""The socket's own transport takes whole pieces, and nobody can ask it for them: others wait before it, and count."""
_COUNT: Final = struct.Struct("i")


class Parting:
    """Stands before a TLS transport. What it does not know itself, the transport does."""

    __slots__ = ("_loop", "_transport")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop

    def write(self, data: bytes) -> None:
        """Send."""
        if len(data) <= _PIECE:
            self._transport.write(data)
            return
        whole = memoryview(data)
        for at in range(0, len(whole), _PIECE):
            self._transport.write(whole[at : at + _PIECE])

    def close(self) -> None:
        """Close, in time."""
        if not self._transport.is_closing():
            self._loop.call_later(_LOOK_S, self._look, _LOOKS, False)  # noqa: FBT003 - the loop names none
        self._transport.close()

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - the transport's
        return getattr(self._transport, name)

    def _look(self, looks: int, arrived: bool) -> None:  # noqa: FBT001 - as above
        """Cut it when two looks have found that all has arrived: between them, what waited would have been sent."""
        arrived_now = not _under_way(self._transport)
        if arrived and arrived_now:
            self._transport.abort()
        elif looks:
            self._loop.call_later(_LOOK_S, self._look, looks - 1, arrived_now)


def _under_way(transport: asyncio.Transport) -> int:
    """Count the bytes that the client has not yet confirmed."""
    connection = transport.get_extra_info("socket")
    if connection is None:
        # It is over.
        return 0
    try:
        found = fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, bytes(_COUNT.size))
    except (OSError, ValueError):
        return 0
    count: int = _COUNT.unpack(found)[0]
    return count
