"""What the connections of one event loop write in one turn goes out together: a head and its body are one packet.

A system call costs more than everything else that is done for a small request, so none is spent twice.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

_JOINED: Final = 16 * 1024
"""Up to here pieces are copied into one; beyond it the copy would cost more than the system call."""


class Turn:
    """One turn of the event loop: while it is open, outlets gather what they are given."""

    def __init__(self) -> None:
        self.open = False
        self.waiting: list[Outlet] = []

    def begin(self) -> None:
        """Gather from now on."""
        self.open = True

    def end(self) -> None:
        """Write what was gathered."""
        self.open = False
        if self.waiting:
            waiting, self.waiting = self.waiting, []
            for outlet in waiting:
                outlet.flush()


class Outlet(asyncio.Protocol):
    """A connection that can be written to."""

    def __init__(self, turn: Turn) -> None:
        self._turn = turn
        self._pieces: list[bytes] = []
        self.transport: Any = None

    def write(self, data: bytes) -> None:
        """Send, at the end of this turn at the latest."""
        if not self._turn.open:
            self.transport.write(data)
            return
        if not self._pieces:
            self._turn.waiting.append(self)
        self._pieces.append(data)

    def flush(self) -> None:
        """Send what was gathered."""
        pieces, self._pieces = self._pieces, []
        if not pieces or self.transport is None or self.transport.is_closing():
            return
        if len(pieces) == 1:
            self.transport.write(pieces[0])
        elif sum(map(len, pieces)) <= _JOINED:
            self.transport.write(b"".join(pieces))
        else:
            self.transport.writelines(pieces)

    def end(self) -> None:
        """Send what was gathered and close."""
        self.flush()
        self.transport.close()

    def abort(self) -> None:
        """Close at once; what was not sent is not sent."""
        self._pieces = []
        if self.transport is not None:
            self.transport.abort()
