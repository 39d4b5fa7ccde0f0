"""The clients' connections over HTTP: how many there may be, and how long one may say nothing. Used by `server.py`.

What is asked on them is uvicorn's to read, which bounds the time between requests alone, and waits for the first one,
for the rest of one that has begun, and for an answer to be read, for ever. Over gRPC, `inference/grpc/connection.py`
has the same limits. Next: `latecomers.py`, for those who find no room.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from functools import partial
from typing import Any, Final, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from inference.attendance import Count
from inference.joined import Joined
from inference.latecomers import Latecomers, Probe, answer
from inference.parting import Parting
from inference.places import Places
from inference.settings import ServerSettings
from inference.unread import Unread, too_many

log = logging.getLogger(__name__)

_HEAD_S: Final = 20.0
_HEAD_BYTES: Final = 64 * 1024
"""Of a head that is not whole yet. One that comes whole at once may be as long as one read."""
_SWEEP_S: Final = 1.0
_AHEAD: Final = 256 * 1024
"""Bytes of a body that may wait for the application, as much as one read gives. With uvicorn's 64 KiB, longer bodies
had it cease to read and begin again, each of which is a call of the system."""
_SLOW: Final = answer(b"408 Request Timeout", f"no whole head within {_HEAD_S:g} s")
_LONG: Final = answer(b"431 Request Header Fields Too Large", f"no whole head within {_HEAD_BYTES} bytes")
_TRAILING: Final = answer(
    b"431 Request Header Fields Too Large", f"{_HEAD_BYTES} bytes after a part of a body, and no other part or end"
)


class Visitor(HttpToolsProtocol):
    """One connection."""

    def __init__(self, *args: Any, door: Door, **kwargs: Any) -> None:  # noqa: ANN401 - uvicorn's
        super().__init__(*args, **kwargs)
        self._door = door
        self._since: tuple[object, float] | None = None
        """After which request it was first seen to owe one, or in which rest it was first seen, and when."""
        self._out: Joined | None = None
        self._head = 0
        """Bytes that came since a head began that is not whole, or since a part of a body that is not whole."""
        self._gained = False
        """A part of a body was in what came last."""
        self._read: Any = None
        """Whose head was whole when something came last."""
        self.unread = Unread()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # noqa: D102 - as in uvicorn
        if transport.get_extra_info("sslcontext") is not None:
            transport = cast("asyncio.Transport", Parting(transport, self.loop))
        self._out = Joined(transport, self.loop)
        super().connection_made(cast("asyncio.Transport", self._out))
        self._door.came(self)

    def data_received(self, data: bytes) -> None:
        """Take what came. Neither uvicorn nor its parser bounds a head, or the fields behind a body in chunks."""
        super().data_received(data)
        latest: Any = self.cycle
        heading = self._heading
        if not heading and (self._gained or latest is None or latest is not self._read or not latest.more_body):
            self._head, self._gained, self._read = 0, False, latest
            return
        self._head += len(data)
        if self._head > _HEAD_BYTES and not self.transport.is_closing():
            if heading:
                told = latest is None or latest.response_complete
            else:
                told = not (latest.response_started or self.pipeline)
            if told:
                self.transport.write(_LONG if heading else _TRAILING)
            self.transport.close()

    @property
    def _heading(self) -> bool:
        """Tell whether a head has begun that is not whole."""
        # Both are absent before the first request, whatever uvicorn's own types say.
        latest: Any = self.cycle
        scope: Any = self.scope
        return scope is not None and (latest is None or scope is not latest.scope)

    def on_body(self, body: bytes) -> None:
        """Take a piece of a body. Most are whole at once, and stay as they came."""
        self._gained = True
        cycle: Any = self.cycle
        if cycle.response_complete:
            return
        if not cycle.body:
            cycle.body = body
        else:
            if isinstance(cycle.body, bytes):
                cycle.body = bytearray(cycle.body)
            cycle.body += body
        if len(cycle.body) > _AHEAD:
            self.flow.pause_reading()
        cycle.message_event.set()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: D102
        self._door.places.leave(self)
        super().connection_lost(exc)

    def sweep(self, now: float, silent_s: float, unread_s: float) -> None:
        """Give up on a request that does not come, and on an answer that is not read. Asked again and again."""
        if (
            self._out is not None
            and self.unread.look(now, self._out.get_write_buffer_size(), self._out.sent) > unread_s
        ):
            self.cut()
            return
        # Absent before the first request, whatever uvicorn's own types say.
        latest: Any = self.cycle
        resting = self.timeout_keep_alive_task
        if resting is not None:
            # It has sent nothing since its last answer, for which uvicorn has a limit.
            if self._since is None or self._since[0] is not resting:
                self._since = (resting, now)
            return
        if not (latest is None or latest.response_complete):
            self._since = None
            return
        if self._since is None or self._since[0] is not latest:
            self._since = (latest, now)
        begun = self._heading
        if now - self._since[1] > (_HEAD_S if begun else silent_s) and not self.transport.is_closing():
            if begun:
                self.transport.write(_SLOW)
            self.transport.close()

    def idle_s(self, now: float) -> float:
        """Say for how long nothing was asked, as far as sweeps have seen; 0 while something is, or is not read."""
        if self.transport.get_write_buffer_size():
            return 0.0
        resting: Any = self.timeout_keep_alive_task
        if resting is None and self.scope is not None:
            # Something has come since.
            return 0.0
        return now - self._since[1] if self._since is not None and self._since[0] is resting else 0.0

    def give_way(self) -> None:
        """Close, as servers may between requests; its client connects anew when it has one."""
        self.transport.close()

    def cut(self) -> None:
        """Close, whatever its client has not read."""
        self._door.unread += 1
        self._door.places.leave(self)
        self.transport.abort()


class Door:
    """What the connections of a server share. On the event loop."""

    def __init__(self, settings: ServerSettings) -> None:
        self._settings = settings
        self.places = Places[Visitor](settings.connections)
        self.unread = 0
        """Clients that were cut for what they did not read."""
        self._late = Latecomers()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def visitors(self) -> set[Visitor]:
        """Those who are served."""
        return self.places.taken

    def protocol(self, **given: Any) -> Visitor:  # noqa: ANN401 - uvicorn's
        """Make a connection; what uvicorn calls."""
        return Visitor(**given, door=self)

    def came(self, visitor: Visitor) -> None:
        """Let a client in, if there is room. Other processes of this predictor always are."""
        transport = visitor.transport
        if transport.get_extra_info("socket").family == socket.AF_UNIX:
            return
        if self.places.take(visitor, asyncio.get_running_loop().time()):
            return
        visitor.connections.discard(visitor)
        made = partial(Probe, config=visitor.config, server_state=visitor.server_state, app_state=visitor.app_state)
        self._late.came(transport, made)

    def count(self) -> Count:
        """Count them."""
        return Count(len(self.places.taken), self.places.refused, self.unread)

    def open(self) -> None:
        """Look at the connections from now on."""
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(_SWEEP_S, self._sweep, loop)

    def close(self) -> None:
        """Stop that."""
        if self._timer is not None:
            self._timer.cancel()

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = loop.call_later(_SWEEP_S, self._sweep, loop)
        self.sweep(loop.time())

    def sweep(self, now: float) -> None:
        """Give up on who takes too long. Called again and again."""
        for visitor in list(self.visitors):
            visitor.sweep(now, self._settings.keep_alive_s, self._settings.body_timeout_s)
        for visitor in too_many(self.visitors, now, self._settings.queue_bytes):
            visitor.cut()
