"""One HTTP/2 connection of either side: what waits for room, what is written when, and its end.

Frames are `framing.py`'s. Next: `flow.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, Protocol

from h2.config import H2Configuration
from h2.errors import ErrorCodes
from h2.events import Event, RemoteSettingsChanged
from h2.exceptions import ProtocolError, StreamClosedError
from h2.settings import SettingCodes, Settings
from hyperframe.frame import GoAwayFrame

from inference.http2.fields import Head
from inference.http2.framing import Framing
from inference.http2.outlet import Outlet, Turn
from inference.http2.rare import FRAME_BYTES

STREAM_WINDOW: Final = 128 * 1024
"""Bytes of one stream that may come in before the other side has taken any of them."""
CONNECTION_WINDOW: Final = 1 << 20
"""The same for all streams of a connection together: what bounds memory, whoever stops reading."""
_BACKLOG: Final = 1 << 20
"""Bytes that may wait for a peer that does not read. No content is sent to it meanwhile, so these answer its frames."""
_FIRST_WINDOW: Final = 65_535
_PIECE: Final = 128 * 1024
"""Bytes of content that are framed at once, wide as the peer's windows may be."""


class Waiting(Protocol):
    """What waits for room on a connection."""

    def pump(self) -> None:
        """Send what there is room for."""


class Link(Outlet):
    """One connection. Its subclasses say what is done with what the peer says: they are its framing's `Taker`."""

    def __init__(
        self,
        turn: Turn,
        *,
        client_side: bool,
        settings: dict[int, int],
        stream_window: int = STREAM_WINDOW,
        connection_window: int = CONNECTION_WINDOW,
    ) -> None:
        super().__init__(turn)
        self.closed = False
        """The connection is gone, or going: nothing more is read or written."""
        self.h2 = Framing(H2Configuration(client_side=client_side, header_encoding=None), self)
        initial = {SettingCodes.INITIAL_WINDOW_SIZE: stream_window, SettingCodes.MAX_FRAME_SIZE: FRAME_BYTES}
        self.h2.local_settings = Settings(client=client_side, initial_values={**initial, **settings})  # type: ignore[dict-item] # the codes are integers
        self.h2.decoder.max_header_list_size = self.h2.local_settings.max_header_list_size or _FIRST_WINDOW
        self._connection_window = connection_window
        self.paused = False
        self._marked = False
        self._blocked: dict[int, Waiting] = {}
        """What waits, by the stream that it waits for."""
        self.on: dict[type[Event], Callable[[Any], None]] = {RemoteSettingsChanged: self.settings_changed}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:  # noqa: D102 - asyncio's contract
        self.transport = transport
        self.h2.initiate_connection()
        self.h2.increment_flow_control_window(self._connection_window - _FIRST_WINDOW)
        self.touch()

    def data_received(self, data: bytes) -> None:  # noqa: D102
        if self.closed:
            return
        self._turn.begin()
        try:
            self.h2.receive(data)
            if not self.closed:
                self.read()
                # Some frames are answered without a word: settings, pings, resets of what is over.
                self.touch()
        except ProtocolError as exc:
            self.broken(exc)
        finally:
            self._turn.end()

    def pause_writing(self) -> None:  # noqa: D102
        self.paused = True

    def resume_writing(self) -> None:  # noqa: D102
        self.paused = False
        self._turn.begin()
        self.unblock()
        self._turn.end()

    def take_head(self, stream: int, head: Head, *, end: bool) -> None:
        """Take a request's or an answer's head."""
        raise NotImplementedError

    def take_content(self, stream: int, data: bytes, credit: int, *, end: bool) -> None:
        """Take content, and what it took of the window."""
        raise NotImplementedError

    def take_trailers(self, stream: int, head: Head) -> None:
        """Take the fields that end a stream."""
        raise NotImplementedError

    def take_window(self, stream: int) -> None:
        """Take the news of more room on a stream; 0 is the connection."""
        if not self._blocked:
            return
        if not stream:
            self.unblock()
        elif (waiting := self._blocked.pop(stream, None)) is not None:
            waiting.pump()

    def take_event(self, event: Event) -> None:
        """Take anything else."""
        found = self.on.get(type(event))
        if found is not None:
            found(event)

    def read(self) -> None:
        """All of one read was taken."""

    def broken(self, problem: ProtocolError) -> None:
        """The peer broke the protocol; the goodbye is already framed."""
        raise NotImplementedError

    def wait_for_room(self, stream: int, waiting: Waiting) -> None:
        """Have something pumped when there may be room on a stream."""
        self._blocked[stream] = waiting

    def unblock(self) -> None:
        """Pump what waits, in the order of its coming."""
        blocked, self._blocked = self._blocked, {}
        for waiting in blocked.values():
            waiting.pump()

    def forget(self, stream: int) -> None:
        """What waited needs no room any more."""
        self._blocked.pop(stream, None)

    def room(self, stream: int) -> int:
        """Give how many bytes of content may be sent on a stream now.

        Raises:
            ProtocolError: none, the stream is over.
        """
        if self.h2.unsent > _PIECE:
            # Now, and not at the end of the turn: the transport says when its peer does not keep up.
            self._turn_out()
        if self.paused:
            return 0
        room = self.h2.room(stream)
        return room if room < _PIECE else _PIECE  # noqa: FURB136 - `min` costs twice as much

    def head(self, stream: int, block: bytes, *, end: bool) -> None:
        """Send written fields: a head, or with `end` maybe trailers."""
        if self.closed:
            return
        try:
            self.h2.send_head(stream, block, end=end)
        except StreamClosedError:
            # It was reset in this read, which was not yet told.
            return
        self.touch()

    def content(self, stream: int, data: bytes | memoryview, *, end: bool) -> None:
        """Send content; there has to be room for it."""
        most = self.h2.max_outbound_frame_size
        if len(data) <= most:
            self.h2.send_content(stream, data, end=end)
        else:
            view = memoryview(data)
            for at in range(0, len(view), most):
                last = at + most >= len(view)
                self.h2.send_content(stream, view[at : at + most], end=end and last)
        self.touch()

    def whole(self, stream: int, head: bytes, content: bytes, trailers: bytes) -> bool:
        """Send a whole answer to a whole request, if there is room for it now; tell whether that is done."""
        if self.closed or self.paused:
            return False
        try:
            sent = self.h2.send_whole(stream, head, content, trailers)
        except StreamClosedError:
            # As above.
            return True
        if sent:
            self.touch()
        return sent

    def taken(self, stream: int, amount: int) -> None:
        """Let the peer send as much again: it has gone on."""
        if amount and not self.closed:
            self.h2.taken(stream, amount)
            self.touch()

    def reset(self, stream: int, code: int) -> None:
        """End a stream at once; one that is over already stays as it is."""
        if self.closed:
            return
        try:
            self.h2.reset_stream(stream, code)
        except ProtocolError:
            return
        self.touch()

    def say_goodbye(self, code: ErrorCodes, reason: bytes = b"") -> None:
        """Say that no further stream is served; those that run go on."""
        # By hand: `h2` takes a GOAWAY of its own for the end of everything.
        frame = GoAwayFrame(0)
        frame.last_stream_id, frame.error_code = self.h2.highest_inbound_stream_id, code
        frame.additional_data = reason
        self._turn_out()
        if not self.transport.is_closing():
            self.transport.write(frame.serialize())

    def touch(self) -> None:
        """Have sent what was framed, at the end of this turn at the latest."""
        if not self._turn.open:
            self.flush()
        elif not self._marked:
            self._marked = True
            self._turn.waiting.append(self)

    def flush(self) -> None:
        """Send what was framed."""
        self._marked = False
        self._turn_out()

    def _turn_out(self) -> None:
        data = self.h2.framed()
        if not data or self.transport is None or self.transport.is_closing():
            return
        self.transport.write(data)
        if self.paused and self.transport.get_write_buffer_size() > _BACKLOG:
            self.abort()

    def settings_changed(self, _event: RemoteSettingsChanged) -> None:
        """Take the peer's settings: its windows may be wider."""
        if self._blocked:
            self.unblock()
