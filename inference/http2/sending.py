"""What one side of an HTTP/2 connection sends: heads, content, windows. The states of its streams are `h2`'s.

Written here, without an object for each frame: these are the frames of every call. The library writes all others.
Next: `framing.py` reads.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

from h2.config import H2Configuration
from h2.connection import ConnectionInputs, H2Connection
from h2.errors import ErrorCodes
from h2.exceptions import (
    FlowControlError,
    FrameTooLargeError,
    ProtocolError,
    StreamClosedError,
    TooManyStreamsError,
)
from h2.stream import H2Stream, StreamClosedBy, StreamState

from inference.http2.fields import StaticEncoder

DATA, HEADERS, RST_STREAM, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 8, 9
END_STREAM, END_HEADERS, PADDED, PRIORITY = 0x1, 0x4, 0x8, 0x20
FRAME: Final = Struct(">HBBBL")
"""A frame's head: two parts of its length, its kind, its flags, its stream."""
INCREMENT: Final = Struct(">L")
OPEN, HALF_LOCAL, HALF_REMOTE, CLOSED = (
    StreamState.OPEN, StreamState.HALF_CLOSED_LOCAL, StreamState.HALF_CLOSED_REMOTE, StreamState.CLOSED,
)  # fmt: skip
SLACK: Final = 1_000
SLACK_PER_FRAME, SLACK_PER_STREAM = 10, 20
"""Frames about nothing that a peer may send: at once, for each piece of content that it got, and for each stream."""


class Sending(H2Connection):
    """The half of a connection that sends."""

    MAX_CLOSED_STREAMS = 8_192

    def __init__(self, config: H2Configuration) -> None:
        super().__init__(config)
        self.encoder: StaticEncoder = StaticEncoder()
        self._slack = SLACK
        self.pieces = 0
        """Pieces of content that were sent."""

    def room(self, stream_id: int) -> int:
        """Give how many bytes of content may be sent on a stream now.

        Raises:
            StreamClosedError: none, it is over.
        """
        stream = self.streams.get(stream_id)
        if stream is None:
            raise StreamClosedError(stream_id)
        mine, shared = stream.outbound_flow_control_window, self.outbound_flow_control_window
        return mine if mine < shared else shared  # noqa: FURB136 - `min` costs twice as much

    def send_head(self, stream_id: int, block: bytes, *, end: bool) -> None:
        """Send written fields: a head or, with `end`, maybe trailers. On the model's side the first one opens a stream.

        Raises:
            ProtocolError: the stream is over, or cannot be opened.
        """
        stream = self.streams.get(stream_id) or self._open_outbound(stream_id)
        machine = stream.state_machine
        trailers = machine.headers_sent
        if trailers and not end:
            raise ProtocolError("trailers end a stream")
        self._sent(stream_id, stream, end=end)
        machine.headers_sent, machine.trailers_sent = True, trailers
        block = self.encoder.begin(block)
        most = self.max_outbound_frame_size
        flags = END_STREAM if end else 0
        if len(block) <= most:
            self._write(HEADERS, flags | END_HEADERS, stream_id, block)
            return
        self._write(HEADERS, flags, stream_id, block[:most])
        for at in range(most, len(block), most):
            last = at + most >= len(block)
            self._write(CONTINUATION, END_HEADERS if last else 0, stream_id, block[at : at + most])

    def send_content(self, stream_id: int, data: bytes | memoryview, *, end: bool) -> None:
        """Send content of at most one frame.

        Raises:
            ProtocolError: the stream is over, or there is no room.
        """
        size = len(data)
        if size > self.max_outbound_frame_size:
            raise FrameTooLargeError(f"{size} bytes in a frame")
        if size and size > self.room(stream_id):
            raise FlowControlError(f"no room for {size} bytes")
        stream = self.streams.get(stream_id)
        if stream is None or not stream.state_machine.headers_sent:
            raise StreamClosedError(stream_id)
        self._sent(stream_id, stream, end=end)
        stream.outbound_flow_control_window -= size
        self.outbound_flow_control_window -= size
        self.pieces += 1
        if self._slack < SLACK:
            self._slack += SLACK_PER_FRAME
        self._write(DATA, END_STREAM if end else 0, stream_id, data)

    def send_whole(self, stream_id: int, head: bytes, content: bytes, trailers: bytes) -> bool:
        """Send a whole answer to a whole request, if it fits into one frame now; tell whether it was sent.

        Raises:
            StreamClosedError: the stream is over.
        """
        stream = self.streams.get(stream_id)
        if stream is None:
            raise StreamClosedError(stream_id)
        machine, size = stream.state_machine, len(content)
        if (
            machine.state is not HALF_REMOTE
            or machine.headers_sent
            or size > stream.outbound_flow_control_window
            or size > self.outbound_flow_control_window
            or size > self.max_outbound_frame_size
        ):
            return False
        head = self.encoder.begin(head)
        self.outbound_flow_control_window -= size
        machine.state, machine.stream_closed_by = CLOSED, StreamClosedBy.SEND_END_STREAM
        self._forget(stream_id)
        self.pieces += 1
        if self._slack < SLACK:
            self._slack += SLACK_PER_FRAME
        self._write(HEADERS, END_HEADERS, stream_id, head)
        self._write(DATA, 0, stream_id, content)
        self._write(HEADERS, END_HEADERS | END_STREAM, stream_id, trailers)
        return True

    def taken(self, stream_id: int, amount: int) -> None:
        """Give back what content took of the windows."""
        increment = self._inbound_flow_control_window_manager.process_bytes(amount)
        if increment:
            self._write(WINDOW_UPDATE, 0, 0, INCREMENT.pack(increment))
        stream = self.streams.get(stream_id)
        # A peer that has ended its stream needs no window for it.
        if stream is not None and (stream.state_machine.state is OPEN or stream.state_machine.state is HALF_LOCAL):
            increment = stream._inbound_window_manager.process_bytes(amount)  # noqa: SLF001 - as `h2` itself does
            if increment:
                self._write(WINDOW_UPDATE, 0, stream_id, INCREMENT.pack(increment))

    def reset_stream(self, stream_id: int, error_code: ErrorCodes | int = 0) -> None:
        """End a stream at once."""
        super().reset_stream(stream_id, error_code)
        self._forget(stream_id)

    @property
    def unsent(self) -> int:
        """Give how many bytes are framed and not yet taken to be sent."""
        return len(self._data_to_send)

    def framed(self) -> bytearray:
        """Give what is to be sent, once."""
        data, self._data_to_send = self._data_to_send, bytearray()
        return data

    def _open_outbound(self, stream_id: int) -> H2Stream:
        """Open a stream to the model."""
        if not self.config.client_side or stream_id <= self.highest_outbound_stream_id:
            raise StreamClosedError(stream_id)
        if len(self.streams) >= self.remote_settings.max_concurrent_streams:
            raise TooManyStreamsError(f"{len(self.streams)} streams are open")
        self.state_machine.process_input(ConnectionInputs.SEND_HEADERS)
        stream = self._stream(stream_id)
        self.highest_outbound_stream_id = stream_id
        stream.state_machine.client = True
        stream.state_machine.state = OPEN
        if self._slack < SLACK:
            self._slack += SLACK_PER_STREAM
        return stream

    def _stream(self, stream_id: int) -> H2Stream:
        stream = self.streams[stream_id] = H2Stream(
            stream_id, self.config, self.local_settings.initial_window_size, self.remote_settings.initial_window_size
        )
        stream.max_outbound_frame_size = self.max_outbound_frame_size
        return stream

    def _sent(self, stream_id: int, stream: H2Stream, *, end: bool) -> None:
        """Something is sent on a stream, and maybe ends it."""
        machine = stream.state_machine
        if machine.state is OPEN:
            if end:
                machine.state = HALF_LOCAL
        elif machine.state is not HALF_REMOTE:
            raise StreamClosedError(stream_id)
        elif end:
            machine.state, machine.stream_closed_by = CLOSED, StreamClosedBy.SEND_END_STREAM
            self._forget(stream_id)

    def _forget(self, stream_id: int) -> None:
        """Let go of a stream that is over, but for how it ended."""
        stream = self.streams.get(stream_id)
        if stream is not None and stream.state_machine.state is CLOSED:
            del self.streams[stream_id]
            self._closed_streams[stream_id] = stream.state_machine.stream_closed_by

    def _write(self, kind: int, flags: int, stream_id: int, body: bytes | memoryview) -> None:
        size = len(body)
        out = self._data_to_send
        out += FRAME.pack(size >> 8, size & 0xFF, kind, flags, stream_id)
        out += body
