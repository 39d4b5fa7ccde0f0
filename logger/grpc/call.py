"""One gRPC call: a stream of the client's connection and one of the model's, and what is kept of it for the log.

Metadata, messages, trailers, resets and refusals pass in both directions as they come.
"""

from __future__ import annotations

import time
from typing import Final

from h2.errors import ErrorCodes
from hpack.struct import NeverIndexedHeaderTuple

from logger.grpc import status
from logger.grpc.flow import Flow
from logger.grpc.link import Link
from logger.heads import Fields
from logger.hold import Hold
from logger.tap import Body, Seen

DROPPED: Final = frozenset({b"x-request-id", b"proxy-authorization", b"proxy-authenticate", b"http2-settings"})
_GRPC: Final = (b"content-type", b"application/grpc")
# gRPC over HTTP/2, "Errors": what a reset says to who waits for a status.
_OF_RESET: Final = {
    ErrorCodes.REFUSED_STREAM: 14, ErrorCodes.CANCEL: 1, ErrorCodes.ENHANCE_YOUR_CALM: 8,
    ErrorCodes.INADEQUATE_SECURITY: 7,
}  # fmt: skip
_INTERNAL: Final = 13


class ClientLink(Link):
    """What a call needs of the client's connection."""

    capture: int
    """Bytes kept of each body."""
    hold: Hold | None
    """Audit mode: it lets the end of an answer go."""

    def finished(self, call: Call) -> None:
        """Take the news that a call is over."""
        raise NotImplementedError

    def count(self, seen: Seen) -> None:
        """Count a call by its status."""
        raise NotImplementedError

    def seen(self, seen: Seen) -> None:
        """Hand what was seen of a call to the outbox."""
        raise NotImplementedError


class ServerLink(Link):
    """What a call needs of the model's connection."""

    def freed(self, call: Call, stream: int) -> None:
        """Take the news that a call is over."""
        raise NotImplementedError


def identity(correlation: bytes) -> tuple[bytes, bytes]:
    """Give the field of a correlation id; the other end need not index what never comes again."""
    return NeverIndexedHeaderTuple(b"x-request-id", correlation)


class Call:
    """One call, from its head to its last trailer."""

    __slots__ = (
        "_answer_begun", "_answer_whole", "_back", "_began", "_correlation", "_down", "_fields", "_front", "_seen",
        "_to", "heard", "moved", "over", "stream", "up",
    )  # fmt: skip

    def __init__(self, front: ClientLink, stream: int, fields: Fields, correlation: bytes, seen: Seen | None) -> None:
        self._front, self.stream, self._correlation, self._seen = front, stream, correlation, seen
        self._fields: Fields = [item for item in fields if item[0] not in DROPPED]
        self._fields.append(identity(correlation))
        self._began = self.heard = time.monotonic()
        """`heard`: when either side last sent something."""
        self._back: ServerLink | None = None
        self._to = 0
        self.up = Flow(front, stream)
        self._down: Flow | None = None
        self._answer_begun = self._answer_whole = False
        self.over = False
        self.moved = False
        """It was once given to a connection that ended before it began there."""

    def begin(self, back: ServerLink, stream: int) -> None:
        """Go on with the model on a stream of its connection."""
        self._back, self._to = back, stream
        self._down = Flow(back, stream, self._finish)
        self._down.into(self._front, self.stream)
        back.headers(stream, self._fields, end=False)
        self.up.into(back, stream)

    def request_data(self, data: bytes, credit: int, *, end: bool) -> None:
        """Pass on a piece of the request."""
        self.heard = time.monotonic()
        if self._seen is not None:
            self._seen.request.add(data, self._front.capture)
        self.up.add(data, credit, end=end)

    def request_end(self, trailers: Fields | None) -> None:
        """Pass on the end of the request."""
        self.up.end(trailers)

    def answer_head(self, fields: Fields, *, end: bool) -> None:
        """Pass on the answer's head; with `end` it is all there is."""
        self.heard = time.monotonic()
        self._answer_begun = True
        if self._seen is not None:
            self._seen.first_byte_us = self._elapsed_us()
            self._note(fields, end=end)
        out = [item for item in fields if item[0] not in DROPPED]
        out.append(identity(self._correlation))
        self._front.headers(self.stream, out, end=end)
        if end:
            self._answer_whole = True
            self._finish()

    def answer_data(self, data: bytes, credit: int, *, end: bool) -> None:
        """Pass on a piece of the answer."""
        self.heard = time.monotonic()
        if self._down is None:
            return
        self._answer_whole = end
        if self._seen is not None:
            self._seen.response.add(data, self._front.capture)
            if end:
                self._note([], end=True)
        self._down.add(data, credit, end=end)

    def answer_end(self, trailers: Fields) -> None:
        """Pass on the status, and with it the end of the answer."""
        if self._down is None:
            return
        self._answer_whole = True
        self._note(trailers, end=True)
        down, seen, hold = self._down, self._seen, self._front.hold
        if hold is None or seen is None:
            down.end(trailers)
            return
        self._seen = None
        seen.latency_us = self._elapsed_us()
        self._front.count(seen)
        hold.until_safe(seen, lambda: down.end(trailers))

    def answer_reset(self, code: int) -> None:
        """Pass on that the model breaks the call off."""
        if self._answer_whole:
            # The status has come: this is only about the rest of the request, which the model does not want.
            self.up.stop()
            return
        self._front.reset(self.stream, code)
        self._break_off(_OF_RESET.get(ErrorCodes(code), _INTERNAL) if code in _KNOWN else _INTERNAL)

    def refuse(self, code: int, message: str) -> None:
        """Give a status in the model's place, after what the model has said."""
        if self.over:
            return
        if self._seen is not None:
            self._seen.aborted = self._answer_begun
        if self._down is not None and self._down.ended:
            # All has been said, and the client does not read it.
            self._front.reset(self.stream, ErrorCodes.CANCEL)
            self._finish()
            return
        own = status.trailers(code, message)
        self._note(own, end=True)
        if self._answer_begun and self._down is not None:
            self._down.end(own)
            return
        self._front.headers(
            self.stream, [(b":status", b"200"), _GRPC, *own, identity(self._correlation)], end=True
        )  # fmt: skip
        self._finish()

    def client_reset(self, code: int) -> None:
        """Pass on that the client breaks the call off."""
        if self._back is not None:
            self._back.reset(self._to, code)
        timeout = status.seconds_of(dict(self._fields).get(b"grpc-timeout"))
        late = timeout is not None and time.monotonic() - self._began >= timeout
        self._break_off(status.DEADLINE if late else status.CANCELLED)

    def rapid(self, now: float) -> bool:
        """Tell whether a reset now would come before the model could have done anything."""
        return not self._answer_begun and now - self._began < _RAPID_S

    def _break_off(self, code: int) -> None:
        if self._seen is not None:
            self._seen.aborted = True
            self._note(status.trailers(code, ""), end=True)
        self._finish()

    def _finish(self) -> None:
        """Free both streams and log; the client has its answer, or never will."""
        if self.over:
            return
        self.over = True
        if not self.up.ended:
            # RFC 9113 section 8.1: the answer is whole, and the rest of the request is not wanted.
            self._front.reset(self.stream, ErrorCodes.NO_ERROR)
        if self._back is not None and not (self.up.over and self._answer_whole):
            self._back.reset(self._to, ErrorCodes.CANCEL)
        self.up.stop()
        if self._down is not None:
            self._down.stop()
        if self._back is not None:
            self._back.freed(self, self._to)
        if self._seen is not None:
            self._seen.latency_us = self._elapsed_us()
            self._front.seen(self._seen)
        self._front.finished(self)

    def _note(self, fields: Fields, *, end: bool) -> None:
        """Keep a head or trailers, and with the end what they make of the status."""
        seen = self._seen
        if seen is None:
            return
        found = dict(fields)
        http = found.get(b":status", b"")
        if http.isdigit():
            seen.status = int(http)
        seen.response_fields += [(name, value) for name, value in fields if name[:1] != b":"]
        if not end:
            return
        code = found.get(b"grpc-status")
        if code is not None or seen.status == status.HTTP[status.OK]:
            seen.status = status.http_status(code)

    def _elapsed_us(self) -> int:
        return int((time.monotonic() - self._began) * 1_000_000)


def kept(fields: Fields, path: str, correlation: bytes) -> Seen:
    """Begin what is kept of a call."""
    return Seen(
        correlation=correlation.decode("latin-1"), method="POST", path=path,
        request_fields=[(name, value) for name, value in fields if name[:1] != b":"],
        started_us=time.time_ns() // 1000, request=Body(), response=Body(),
    )  # fmt: skip


_RAPID_S: Final = 0.1
_KNOWN: Final = frozenset(int(code) for code in ErrorCodes)
