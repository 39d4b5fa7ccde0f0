"""A connection that a client opened: what it may not do too often or too slowly, and how it is sent away.

What is served on it is its subclasses' to say: `logger/grpc/front.py`, `inference/grpc/connection.py`.
"""

from __future__ import annotations

import time
from typing import Final, Generic, Protocol, TypeVar

from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    PingAckReceived,
    PingReceived,
    PriorityUpdated,
    RemoteSettingsChanged,
    SettingsAcknowledged,
    StreamReset,
    UnknownFrameReceived,
)
from h2.exceptions import DenialOfServiceError, ProtocolError

from inference.http2.fields import Head
from inference.http2.link import CONNECTION_WINDOW, STREAM_WINDOW, Link
from inference.http2.outlet import Turn
from inference.http2.rare import HeadTooLarge, Stray

LINGER_S: Final = 1.0
"""How long a client may take to close after the goodbye; a call that crossed it is told that it was not served."""
STARVED: Final = 16_384
"""With less of the connection's window left than a frame, a client's silence says nothing."""
_BURST: Final = 1_000
_PER_S: Final = 200.0
"""Frames beyond a call's own that a client may send: pings, settings, priorities, empty content, resets at once."""


class ClientCall(Protocol):
    """What a call is told of its client."""

    def request_data(self, data: bytes, credit: int, *, end: bool) -> None:
        """Take a piece of the request."""

    def request_end(self, trailers: Head | None) -> None:
        """Take the end of the request, where it comes by itself."""

    def client_reset(self, code: int) -> None:
        """The client has broken the call off, or is away."""

    def rapid(self, now: float) -> bool:
        """Tell whether a reset now would come before anything could have been done."""


C = TypeVar("C", bound=ClientCall)


class Guest(Link, Generic[C]):
    """One connection, seen from the server."""

    def __init__(
        self,
        turn: Turn,
        settings: dict[int, int],
        *,
        stream_window: int = STREAM_WINDOW,
        connection_window: int = CONNECTION_WINDOW,
    ) -> None:
        super().__init__(
            turn, client_side=False, settings=settings,
            stream_window=stream_window, connection_window=connection_window,
        )  # fmt: skip
        self._calls: dict[int, C] = {}
        """Those that run, by their streams."""
        self.leaving = False
        """It serves no further call."""
        self.idle_since = time.monotonic()
        self.gone_by: float | None = None
        """When it is closed, the goodbye being said."""
        self._patience, self._asked_at = float(_BURST), self.idle_since
        self._measured = 0
        """Pieces of content that were sent when the last ping came."""
        self._head = (0, 0.0)
        """Which head has begun and not ended, and when that was first noticed."""
        self._stuck: tuple[float, int] | None = None
        """Since when the client reads nothing, and how much is waiting for it."""
        self.on |= {
            ConnectionTerminated: self._goaway,
            PingReceived: self._pinged,
            StreamReset: self._reset,
            **dict.fromkeys((
                PingAckReceived, PriorityUpdated, SettingsAcknowledged, UnknownFrameReceived, Stray,
            ), self.extra),
        }  # fmt: skip

    def busy(self) -> bool:
        """Tell whether calls are running."""
        return bool(self._calls)

    def take_content(self, stream: int, data: bytes, credit: int, *, end: bool) -> None:
        """Hand a piece of a request to its call."""
        call = self._calls.get(stream)
        if call is None:
            self.taken(stream, credit)
        else:
            call.request_data(data, credit, end=end)
        if not (data or end):
            self.extra()

    def take_trailers(self, stream: int, head: Head) -> None:
        """Hand the end of a request to its call."""
        call = self._calls.get(stream)
        if call is not None:
            call.request_end(head)

    def refused(self, http_status: int) -> None:
        """Count a refusal, under the status that HTTP/1.1 has for it."""

    def broken(self, problem: ProtocolError) -> None:
        """Close: where the next frame would begin is unknown. The client has its code."""
        flood = 429 if isinstance(problem, DenialOfServiceError) else 400
        self.refused(431 if isinstance(problem, HeadTooLarge) else flood)
        self.close()

    def settings_changed(self, event: RemoteSettingsChanged) -> None:
        """Take the client's settings."""
        super().settings_changed(event)
        self.extra()

    def close_when_idle(self) -> None:
        """Serve no further call, and close when the running ones are over."""
        self.leave(ErrorCodes.NO_ERROR)

    def extra(self, _event: object = None) -> None:
        """Count a frame that no honest client sends in such numbers."""
        now = time.monotonic()
        self._patience = min(float(_BURST), self._patience + (now - self._asked_at) * _PER_S) - 1
        self._asked_at = now
        if self._patience < 0 and not self.closed:
            self.refused(429)
            self.say_goodbye(ErrorCodes.ENHANCE_YOUR_CALM)
            self.close()

    def freed(self) -> None:
        """Take the news that the last call is over."""
        self.idle_since = time.monotonic()
        if self.leaving:
            self.linger()

    def leave(self, code: ErrorCodes, reason: str = "") -> None:
        """Say goodbye; running calls go on."""
        if self.leaving or self.closed:
            return
        self.leaving = True
        self.say_goodbye(code, reason.encode())
        if not self.busy():
            self.linger()

    def linger(self) -> None:
        """Close soon, if the client does not."""
        self.gone_by = time.monotonic() + LINGER_S

    def close(self) -> None:
        """Close now; `connection_lost` tells the calls."""
        if not self.closed:
            self.closed = True
            self.end()

    def reads_nothing(self, now: float, most_s: float) -> bool:
        """Tell whether the client has taken no bytes of what waits for it for so long. Asked again and again."""
        left = self.transport.get_write_buffer_size()
        if not left:
            self._stuck = None
            return False
        if self._stuck is None or left < self._stuck[1]:
            self._stuck = (now, left)
        return now - self._stuck[0] > most_s

    def head_takes_too_long(self, now: float, most_s: float) -> bool:
        """Tell whether a head has begun and not ended for so long. Asked again and again."""
        begun = self.h2.head_begun()
        if begun != self._head[0]:
            self._head = (begun, now)
        return begun > 0 and now - self._head[1] > most_s

    def _pinged(self, _event: PingReceived) -> None:
        # Go's gRPC measures the connection with one ping after each piece of content, however many there are.
        if self._measured == self.h2.pieces:
            self.extra()
        self._measured = self.h2.pieces

    def _reset(self, event: StreamReset) -> None:
        call = self._calls.get(event.stream_id)
        if call is None:
            self.extra()
            return
        if call.rapid(time.monotonic()):
            self.extra()
        call.client_reset(int(event.error_code or 0))

    def _goaway(self, _event: ConnectionTerminated) -> None:
        # The client opens no further call, and closes when it has its answers.
        self.leaving = True
        if not self.busy():
            self.linger()
