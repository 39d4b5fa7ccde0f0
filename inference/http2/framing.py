"""One side of an HTTP/2 connection: what comes in, frame by frame, by the `h2` library's rules.

A call is heads, content and windows: those frames are read here, without an object for each. All others, and all that
is out of order, go the library's way (`rare.py`). What both do is the same, and `make fuzz` compares them. Sending:
`sending.py`.
"""

from __future__ import annotations

from typing import Final

from h2.config import H2Configuration
from h2.connection import ConnectionInputs, ConnectionState
from h2.errors import ErrorCodes
from h2.exceptions import (
    FrameTooLargeError,
    ProtocolError,
    StreamIDTooLowError,
)
from h2.stream import H2Stream, StreamClosedBy
from hpack.exceptions import HPACKError, OversizedHeaderListError
from hpack.struct import HeaderTuple
from hyperframe.exceptions import InvalidPaddingError

from inference.http2.fields import ANSWER, REQUEST, TRAILERS, Head, misplaced
from inference.http2.rare import FRAME_BYTES, HeadTooLarge, Rare, Taker
from inference.http2.sending import (
    CLOSED,
    DATA,
    END_HEADERS,
    END_STREAM,
    FRAME,
    HALF_LOCAL,
    HALF_REMOTE,
    HEADERS,
    INCREMENT,
    OPEN,
    PADDED,
    PRIORITY,
    SLACK,
    SLACK_PER_STREAM,
    WINDOW_UPDATE,
)  # fmt: skip

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_KIND_AT: Final = 3
_STREAM: Final = (1 << 31) - 1
_WIDEST: Final = (1 << 31) - 1
_WIDENED: Final = (OPEN, HALF_LOCAL, HALF_REMOTE)
_HEADS, _HEAD_LIMIT = 32, 2_048
"""Heads of a connection that are remembered, of each kind, and bytes of the largest."""


class Framing(Rare):
    """One side of a connection. It differs from `h2` in what follows.

    A GOAWAY that came in ends no running stream, as RFC 9113 section 6.8 has it. What is too large is refused before
    all of it is there. How many streams a client may open is the taker's to say, stream by stream (section 5.1.2).
    Frames about nothing have a limit in number. Interim answers, which gRPC does not have, go nowhere. No frame is
    described for a log, and fewer closed streams are remembered.
    """

    def __init__(self, config: H2Configuration, taker: Taker) -> None:
        super().__init__(config, taker)
        self._preface = b"" if config.client_side else PREFACE
        self._rest = bytearray()
        self._need = 0
        """Bytes that have to be there before anything can be read."""
        self._heads = 0
        """Heads that were read."""
        self._steady = ConnectionState.CLIENT_OPEN if config.client_side else ConnectionState.SERVER_OPEN
        self._first_kind = ANSWER if config.client_side else REQUEST
        self._known: tuple[dict[bytes, Head], ...] = ({}, {}, {})
        """Heads by kind and block, while the table that they were read with stays as it is."""
        self._known_at = 0

    def receive(self, data: bytes) -> None:
        """Read bytes and tell what they say.

        Raises:
            ProtocolError: the peer broke the protocol; a GOAWAY that says how is framed.
        """
        rest = self._rest
        if rest:
            rest += data
            if len(rest) < self._need:
                return
            data = bytes(rest)
            rest.clear()
        try:
            at = self._read_frames(data, self._skip_preface(data) if self._preface else 0)
        except InvalidPaddingError as exc:
            self._terminate_connection(ErrorCodes.PROTOCOL_ERROR)
            raise ProtocolError("a frame with more padding than content") from exc
        except ProtocolError as exc:
            self._terminate_connection(exc.error_code)
            raise
        if at < len(data):
            rest += data[at:]

    def head_begun(self) -> int:
        """Tell whether a head has begun and not ended: its number, or 0."""
        rest = self._rest
        begun = self._within_head or (len(rest) > _KIND_AT and rest[_KIND_AT] == HEADERS)
        return self._heads + 1 if begun and not self._preface else 0

    def _skip_preface(self, data: bytes) -> int:
        """Give where the first frame begins; 0 when it is not yet known."""
        if not data.startswith(self._preface[: len(data)]):
            raise ProtocolError("no HTTP/2 preface")
        self._need = len(self._preface)
        if len(data) < self._need:
            return 0
        self._preface = b""
        return self._need

    def _read_frames(self, data: bytes, at: int) -> int:
        """Read whole frames from a place on; give where the first that is not whole begins."""
        size, unpack, taker = len(data), FRAME.unpack_from, self._taker
        if self._preface:
            return at
        while size - at >= FRAME.size:
            high, low, kind, flags, stream = unpack(data, at)
            begin = at + FRAME.size
            end = begin + (high << 8 | low)
            if end - begin > FRAME_BYTES:
                raise FrameTooLargeError(f"a frame of more than {FRAME_BYTES} bytes")
            if end > size:
                self._need = end - at
                return at
            if self._within_head or not self._usual(kind, flags, stream & _STREAM, data[begin:end]):
                self._rare(data[at:end], kind)
            at = end
            if taker.closed:
                return size
        self._need = FRAME.size
        return at

    def _usual(self, kind: int, flags: int, stream: int, body: bytes) -> bool:
        """Take a frame of every call, if all is as it should be; tell whether it was taken."""
        if kind == DATA:
            return not flags & PADDED and self._content(stream, body, end=bool(flags & END_STREAM))
        if kind == WINDOW_UPDATE:
            return len(body) == INCREMENT.size and self._window(stream, INCREMENT.unpack(body)[0])
        if kind != HEADERS or not stream or flags & (END_HEADERS | PADDED | PRIORITY) != END_HEADERS:
            return False
        self._head(stream, body, end=bool(flags & END_STREAM))
        return True

    def _content(self, stream_id: int, data: bytes, *, end: bool) -> bool:
        """Take content if all is as it should be; tell whether it was."""
        stream, all_ = self.streams.get(stream_id), self._inbound_flow_control_window_manager
        size = len(data)
        if stream is None or size > all_.current_window_size or self.state_machine.state is not self._steady:
            return False
        machine, mine = stream.state_machine, stream._inbound_window_manager  # noqa: SLF001 - see the module
        state = machine.state
        if (
            (state is not OPEN and state is not HALF_LOCAL)
            or not machine.headers_received
            or size > mine.current_window_size
            or stream._expected_content_length is not None  # noqa: SLF001 - as above
        ):
            return False
        all_.current_window_size -= size
        mine.current_window_size -= size
        if end:
            self._ended(stream_id, stream)
        self._taker.take_content(stream_id, data, size, end=end)
        return True

    def _window(self, stream_id: int, increment: int) -> bool:
        """Widen a window if all is as it should be; tell whether it was."""
        self._spend()
        if not 0 < increment <= _WIDEST or self.state_machine.state is not self._steady:
            return False
        if not stream_id:
            if self.outbound_flow_control_window + increment > _WIDEST:
                return False
            self.outbound_flow_control_window += increment
        else:
            stream = self.streams.get(stream_id)
            if (
                stream is None
                or stream.state_machine.state not in _WIDENED
                or stream.outbound_flow_control_window + increment > _WIDEST
            ):
                return False
            stream.outbound_flow_control_window += increment
        self._taker.take_window(stream_id)
        return True

    def _head(self, stream_id: int, block: bytes, *, end: bool) -> None:
        """Take a head or trailers."""
        self._heads += 1
        if self.state_machine.state is not self._steady:
            self.state_machine.process_input(ConnectionInputs.RECV_HEADERS)
        stream = self.streams.get(stream_id)
        if stream is None:
            self._open_inbound(stream_id, block, end=end)
            return
        machine = stream.state_machine
        if machine.state is not OPEN and machine.state is not HALF_LOCAL:
            self._misplaced_head(stream, self._decoded(block), end=end)
            return
        kind = TRAILERS if machine.headers_received else self._first_kind
        head = self._read(block, kind)
        if kind == TRAILERS:
            if not end:
                raise ProtocolError("trailers end a stream")
            self._ended(stream_id, stream)
            self._taker.take_trailers(stream_id, head)
            return
        if head.found[b":status"][:1] == b"1":
            if end:
                raise ProtocolError("an interim answer ends no stream")
            return
        self._begun(stream, head)
        if end:
            self._ended(stream_id, stream)
        self._taker.take_head(stream_id, head, end=end)

    def _open_inbound(self, stream_id: int, block: bytes, *, end: bool) -> None:
        """Take a client's request."""
        if stream_id <= self.highest_inbound_stream_id or self.config.client_side or not stream_id % 2:
            self._decoded(block)
            own = self._stream_id_is_outbound(stream_id)
            highest = self.highest_outbound_stream_id if own else self.highest_inbound_stream_id
            if stream_id > highest:
                raise ProtocolError(f"stream {stream_id} is not the peer's to open")
            for event in self._over(StreamIDTooLowError(stream_id, highest)):
                self._taker.take_event(event)
            return
        head = self._read(block, REQUEST)
        stream = self._stream(stream_id)
        self.highest_inbound_stream_id = stream_id
        stream.state_machine.client = False
        stream.state_machine.state = HALF_REMOTE if end else OPEN
        self._begun(stream, head)
        if self._slack < SLACK:
            self._slack += SLACK_PER_STREAM
        self._taker.take_head(stream_id, head, end=end)

    def _begun(self, stream: H2Stream, head: Head) -> None:
        stream.state_machine.headers_received = True
        if b"content-length" in head.found:
            stream._initialize_content_length(head.fields)  # noqa: SLF001 - see the module

    def _ended(self, stream_id: int, stream: H2Stream) -> None:
        """The peer has ended its side."""
        machine = stream.state_machine
        if machine.state is OPEN:
            machine.state = HALF_REMOTE
        else:
            machine.state, machine.stream_closed_by = CLOSED, StreamClosedBy.RECV_END_STREAM
            self._forget(stream_id)

    def _read(self, block: bytes, kind: int) -> Head:
        """Read a head, or find it among those that were read."""
        decoder, known = self.decoder, self._known[kind]
        if self._known_at != decoder.changes:
            self._known_at = decoder.changes
            for heads in self._known:
                heads.clear()
        head = known.get(block)
        if head is not None:
            return head
        head = Head(self._decoded(block))
        problem = misplaced(head.fields, head.found, kind)
        if problem:
            raise ProtocolError(problem)
        if head.size <= _HEAD_LIMIT and decoder.changes == self._known_at:
            if len(known) >= _HEADS:
                known.clear()
            known[block] = head
        return head

    def _decoded(self, block: bytes) -> list[HeaderTuple]:
        try:
            return self.decoder.decode(block)
        except OversizedHeaderListError as exc:
            raise HeadTooLarge(str(exc)) from exc
        except HPACKError as exc:
            raise ProtocolError(f"a head that cannot be read: {exc}") from exc
