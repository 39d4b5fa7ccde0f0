"""One HTTP/2 connection of either side: frames in and out, flow control, and what waits for room.

Framing and its rules are the `h2` library's; here is what it leaves to its user. Next: `flow.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, Protocol

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import ConnectionTerminated, Event, RemoteSettingsChanged, WindowUpdated
from h2.exceptions import (
    DenialOfServiceError,
    FrameTooLargeError,
    ProtocolError,
    StreamClosedError,
    StreamIDTooLowError,
)
from h2.settings import SettingCodes, Settings
from hyperframe.frame import Frame, GoAwayFrame, RstStreamFrame

from logger.grpc.fields import StaticEncoder
from logger.heads import Fields
from logger.outlet import Outlet, Turn

STREAM_WINDOW: Final = 128 * 1024
"""Bytes of one stream that may come in before the other side has taken any of them."""
CONNECTION_WINDOW: Final = 1 << 20
"""The same for all streams of a connection together: what bounds memory, whoever stops reading."""
_FRAME_BYTES: Final = 64 * 1024
_BACKLOG: Final = 1 << 20
"""Bytes that may wait for a peer that does not read. No content is sent to it meanwhile, so these answer its frames."""
_FIRST_WINDOW: Final = 65_535
_LENGTH_BYTES: Final = 3


class Framing(H2Connection):
    """`h2` with four changes.

    A GOAWAY that came in ends no running stream, as RFC 9113 section 6.8 has it; what is too large is refused before
    all of it is there; no description of every frame is made for a log that nobody reads; and fewer closed streams are
    remembered, for connections live for days.
    """

    MAX_CLOSED_STREAMS = 8_192

    def receive_data(self, data: Any) -> list[Event]:  # noqa: ANN401 - bytes of any kind, as its base has it
        """Take bytes; give what they say.

        Raises:
            ProtocolError: the peer broke the protocol; a GOAWAY that says how is framed.
        """
        events = super().receive_data(data)
        begun = self.incoming_buffer._data  # noqa: SLF001 - a frame's length is known long before its end
        if int.from_bytes(begun[:3], "big") > self.max_inbound_frame_size and len(begun) >= _LENGTH_BYTES:
            self._terminate_connection(ErrorCodes.FRAME_SIZE_ERROR)
            raise FrameTooLargeError(f"a frame of more than {self.max_inbound_frame_size} bytes")
        head = self.incoming_buffer._headers_buffer  # noqa: SLF001 - as above, for a head in many frames
        if head and sum(len(frame.data) for frame in head) > self.decoder.max_header_list_size:
            self._terminate_connection(ErrorCodes.ENHANCE_YOUR_CALM)
            raise DenialOfServiceError(f"a head of more than {self.decoder.max_header_list_size} bytes")
        return events

    def _receive_goaway_frame(self, frame: GoAwayFrame) -> tuple[list[Frame], list[Event]]:
        event = ConnectionTerminated()
        event.error_code, event.last_stream_id = frame.error_code, frame.last_stream_id
        event.additional_data = frame.additional_data
        return [], [event]

    def _receive_frame(self, frame: Frame) -> list[Event]:
        try:
            frames, events = self._frame_dispatch_table[type(frame)](frame)
        except (StreamClosedError, StreamIDTooLowError) as exc:
            if not self._stream_is_closed_by_reset(exc.stream_id):
                raise
            # It was under way when the stream was reset: the peer is told again, and nothing else is wrong.
            reset = RstStreamFrame(exc.stream_id)
            reset.error_code = ErrorCodes.STREAM_CLOSED
            frames, events = [reset], []
        if frames:
            self._prepare_for_sending(frames)
        found: list[Event] = events
        return found


class Waiting(Protocol):
    """What waits for room on a connection."""

    def pump(self) -> None:
        """Send what there is room for."""


class Link(Outlet):
    """One connection. Its subclasses say what events mean."""

    def __init__(self, turn: Turn, *, client_side: bool, settings: dict[int, int]) -> None:
        super().__init__(turn)
        self.h2 = Framing(
            H2Configuration(
                client_side=client_side,
                header_encoding=None,
                # What goes out came in through the other side's validation, or was written here.
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
                normalize_inbound_headers=False,
            )
        )
        initial = {SettingCodes.INITIAL_WINDOW_SIZE: STREAM_WINDOW, SettingCodes.MAX_FRAME_SIZE: _FRAME_BYTES}
        self.h2.local_settings = Settings(client=client_side, initial_values={**initial, **settings})  # type: ignore[dict-item] # the codes are integers
        self.h2.encoder = StaticEncoder()
        self.h2.max_inbound_frame_size = _FRAME_BYTES
        self.h2.decoder.max_header_list_size = self.h2.local_settings.max_header_list_size or _FIRST_WINDOW
        self.paused = False
        self.closed = False
        """The connection is gone, or going: nothing more is read or written."""
        self._marked = False
        self._blocked: dict[Waiting, None] = {}
        self.on: dict[type[Event], Callable[[Any], None]] = {
            WindowUpdated: self._window_updated,
            RemoteSettingsChanged: self._settings_changed,
        }

    def connection_made(self, transport: asyncio.BaseTransport) -> None:  # noqa: D102 - asyncio's contract
        self.transport = transport
        self.h2.initiate_connection()
        self.h2.increment_flow_control_window(CONNECTION_WINDOW - _FIRST_WINDOW)
        self.touch()

    def data_received(self, data: bytes) -> None:  # noqa: D102
        if self.closed:
            return
        self._turn.begin()
        try:
            on = self.on
            for event in self.h2.receive_data(data):
                found = on.get(type(event))
                if found is not None:
                    found(event)
                    if self.gone():
                        return
            self.read()
            # Some frames are answered without a word: settings, pings, resets of what is over.
            self.touch()
        except ProtocolError as exc:
            self.broken(str(exc))
        finally:
            self._turn.end()

    def pause_writing(self) -> None:  # noqa: D102
        self.paused = True

    def resume_writing(self) -> None:  # noqa: D102
        self.paused = False
        self.unblock()

    def gone(self) -> bool:
        """Tell whether the connection is closed, or closing."""
        return self.closed

    def read(self) -> None:
        """All events of one read were handled."""

    def broken(self, problem: str) -> None:
        """The peer broke the protocol; the goodbye is already framed."""
        raise NotImplementedError

    def wait_for_room(self, waiting: Waiting) -> None:
        """Have something pumped when there may be room for it."""
        self._blocked[waiting] = None

    def unblock(self) -> None:
        """Pump what waits, in the order of its coming."""
        blocked, self._blocked = self._blocked, {}
        for waiting in blocked:
            waiting.pump()

    def forget(self, waiting: Waiting) -> None:
        """What waited needs no room any more."""
        self._blocked.pop(waiting, None)

    def room(self, stream: int) -> int:
        """Give how many bytes of content may be sent on a stream now."""
        return 0 if self.paused else self.h2.local_flow_control_window(stream)

    def headers(self, stream: int, fields: Fields, *, end: bool) -> None:
        """Send fields: a head, or with `end` maybe trailers."""
        if self.closed:
            return
        try:
            self.h2.send_headers(stream, fields, end_stream=end)
        except StreamClosedError:
            # Its reset came in the same read, and is handled after this event.
            return
        self.touch()

    def content(self, stream: int, data: bytes | memoryview, *, end: bool) -> None:
        """Send content; there has to be room for it."""
        most = self.h2.max_outbound_frame_size
        if len(data) <= most:
            self.h2.send_data(stream, data, end_stream=end)
        else:
            view = memoryview(data)
            for at in range(0, len(view), most):
                last = at + most >= len(view)
                self.h2.send_data(stream, view[at : at + most], end_stream=end and last)
        self.touch()

    def taken(self, stream: int, amount: int) -> None:
        """Let the peer send as much again: it has gone on."""
        if amount and not self.closed:
            self.h2.acknowledge_received_data(amount, stream)
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

    def say_goodbye(self, code: ErrorCodes) -> None:
        """Say that no further stream is served; those that run go on."""
        # By hand: `h2` takes a GOAWAY of its own for the end of everything.
        frame = GoAwayFrame(0)
        frame.last_stream_id, frame.error_code = self.h2.highest_inbound_stream_id, code
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
        data = self.h2.data_to_send()
        if not data or self.transport is None or self.transport.is_closing():
            return
        self.transport.write(data)
        if self.paused and self.transport.get_write_buffer_size() > _BACKLOG:
            self.abort()

    def _window_updated(self, _event: WindowUpdated) -> None:
        if self._blocked:
            self.unblock()

    def _settings_changed(self, _event: RemoteSettingsChanged) -> None:
        if self._blocked:
            self.unblock()
