"""The frames that no call needs, or that are out of order: they go the `h2` library's way, an object for each.

Who is told what the peer says is a `Taker`. Used by `framing.py`, which reads the frames of every call.
"""

from __future__ import annotations

from typing import Final, Protocol

from h2.config import H2Configuration
from h2.errors import ErrorCodes
from h2.events import ConnectionTerminated, DataReceived, Event, WindowUpdated
from h2.exceptions import DenialOfServiceError, StreamClosedError, StreamIDTooLowError
from h2.stream import H2Stream
from hpack.struct import HeaderTuple
from hyperframe.frame import Frame, GoAwayFrame, HeadersFrame, RstStreamFrame

from inference.http2.fields import Head, Reader
from inference.http2.sending import CONTINUATION, DATA, HEADERS, RST_STREAM, WINDOW_UPDATE, Sending

FRAME_BYTES: Final = 64 * 1024
"""The largest frame that is taken."""
_SPENDING: Final = frozenset({DATA, RST_STREAM})
_SILENT: Final = frozenset({DATA, HEADERS, RST_STREAM, WINDOW_UPDATE, CONTINUATION})


class Stray(Event):
    """A frame that says nothing: it came for a stream that is over, or nobody asked for it."""


class HeadTooLarge(DenialOfServiceError):
    """A head of more bytes than were offered to be read."""


class Taker(Protocol):
    """Who is told what the peer says, frame by frame."""

    closed: bool
    """Nothing more is taken."""

    def take_head(self, stream: int, head: Head, *, end: bool) -> None:
        """Take a request's or an answer's head."""

    def take_content(self, stream: int, data: bytes, credit: int, *, end: bool) -> None:
        """Take content, and what it took of the window."""

    def take_trailers(self, stream: int, head: Head) -> None:
        """Take the fields that end a stream."""

    def take_window(self, stream: int) -> None:
        """Take the news of more room on a stream; 0 is the connection."""

    def take_event(self, event: Event) -> None:
        """Take anything else."""


class Rare(Sending):
    """The part of a connection that reads through the library."""

    def __init__(self, config: H2Configuration, taker: Taker) -> None:
        super().__init__(config)
        self.decoder: Reader = Reader()
        self.incoming_buffer._preamble_len = 0  # noqa: SLF001 - it gets single frames; the preface is read elsewhere
        self.incoming_buffer.max_frame_size = self.max_inbound_frame_size = FRAME_BYTES
        self._taker = taker
        self._within_head = False
        """A head has begun: only its continuation may come."""

    def _head(self, stream_id: int, block: bytes, *, end: bool) -> None:
        """Take a head or trailers."""
        raise NotImplementedError

    def _rare(self, data: bytes, kind: int) -> None:
        """Take any other frame, the library's way."""
        buffer, taker = self.incoming_buffer, self._taker
        buffer.add_data(data)
        for frame in buffer:
            events = self._receive_frame(frame)
            self._forget(frame.stream_id)
            if not events and kind in _SPENDING:
                self._spend()
            for event in events or ((Stray(),) if kind not in _SILENT else ()):
                if isinstance(event, DataReceived):
                    taker.take_content(
                        event.stream_id, event.data or b"", event.flow_controlled_length or 0,
                        end=event.stream_ended is not None,
                    )  # fmt: skip
                elif isinstance(event, WindowUpdated):
                    taker.take_window(event.stream_id)
                else:
                    taker.take_event(event)
        begun = buffer._headers_buffer  # noqa: SLF001 - a head in many frames is refused by what has come of it
        self._within_head = bool(begun)
        if begun and sum(len(frame.data) for frame in begun) > self.decoder.max_header_list_size:
            raise HeadTooLarge(f"a head of more than {self.decoder.max_header_list_size} bytes")

    def _spend(self) -> None:
        """Count a frame that an honest peer sends only so often for what it was sent, and for what it asked."""
        self._slack -= 1
        if self._slack < 0:
            raise DenialOfServiceError("too many window updates, or frames of streams that are over")

    def _receive_frame(self, frame: Frame) -> list[Event]:
        try:
            frames, events = self._frame_dispatch_table[type(frame)](frame)
        except (StreamClosedError, StreamIDTooLowError) as exc:
            return self._over(exc)
        if frames:
            self._prepare_for_sending(frames)
        found: list[Event] = events
        return found

    def _receive_headers_frame(self, frame: HeadersFrame) -> tuple[list[Frame], list[Event]]:
        self._head(frame.stream_id, frame.data, end="END_STREAM" in frame.flags)
        return self._receive_priority_frame(frame) if "PRIORITY" in frame.flags else ([], [])

    def _receive_goaway_frame(self, frame: GoAwayFrame) -> tuple[list[Frame], list[Event]]:
        event = ConnectionTerminated()
        event.error_code, event.last_stream_id = frame.error_code, frame.last_stream_id
        event.additional_data = frame.additional_data
        return [], [event]

    def _misplaced_head(self, stream: H2Stream, fields: list[HeaderTuple], *, end: bool) -> None:
        """Take fields for a stream that its peer has ended, or that is over."""
        try:
            stream.receive_headers(fields, end, None)
        except StreamClosedError as exc:
            events = self._over(exc)
            self._forget(stream.stream_id)
            for event in events:
                self._taker.take_event(event)

    def _over(self, exc: StreamClosedError | StreamIDTooLowError) -> list[Event]:
        """Answer a frame that came for a stream that is over.

        Raises:
            ProtocolError: it was not reset, so nothing was under way.
        """
        if not self._stream_is_closed_by_reset(exc.stream_id):
            raise exc
        # It was under way when the stream was reset: the peer is told again, and nothing else is wrong.
        reset = RstStreamFrame(exc.stream_id)
        reset.error_code = ErrorCodes.STREAM_CLOSED
        self._prepare_for_sending([reset])
        return [*getattr(exc, "_events", ()), Stray()]
