"""One gRPC call: a stream of the client's connection and one of the model's, and what is kept of it for the log.

Metadata, messages, trailers, resets and refusals pass in both directions as they come. Its time-outs: `patience.py`.
"""

from __future__ import annotations

import time
from typing import Final

from h2.errors import ErrorCodes

from inference.http2 import status
from inference.http2.fields import Head, block_of, identity
from inference.http2.flow import Flow
from inference.http2.guest import Guest
from inference.http2.link import Link
from inference.http2.status import Code
from logger.grpc.meter import Meter
from logger.heads import Fields
from logger.hold import Hold
from logger.settings import ProxySettings
from logger.tap import Body, Seen

_ANSWER: Final = block_of([(b":status", b"200"), (b"content-type", b"application/grpc")])
# gRPC over HTTP/2, "Errors": what a reset says to who waits for a status.
_OF_RESET: Final = {
    ErrorCodes.REFUSED_STREAM: Code.UNAVAILABLE,
    ErrorCodes.CANCEL: Code.CANCELLED,
    ErrorCodes.ENHANCE_YOUR_CALM: Code.RESOURCE_EXHAUSTED,
    ErrorCodes.INADEQUATE_SECURITY: Code.PERMISSION_DENIED,
}


class ClientLink(Guest["Call"]):
    """What a call needs of the client's connection."""

    settings: ProxySettings
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


class Call:
    """One call, from its head to its last trailer."""

    __slots__ = (
        "_back", "_correlation", "_front", "_head", "_seen", "_to", "answer_begun", "answer_whole", "asked", "began",
        "down", "heard", "meter", "moved", "over", "pace", "stream", "up",
    )  # fmt: skip

    def __init__(self, front: ClientLink, stream: int, head: Head, correlation: bytes, seen: Seen | None) -> None:
        self._front, self.stream, self._head, self._correlation, self._seen = front, stream, head, correlation, seen
        self.began = self.heard = time.monotonic()
        """`heard`: when either side last sent something."""
        self.asked = 0.0
        """When the request was complete; 0 before."""
        self.pace: tuple[float, int] | None = None
        self.meter = Meter(front.settings.max_body)
        self._back: ServerLink | None = None
        self._to = 0
        self.up = Flow(front, stream)
        self.down: Flow | None = None
        self.answer_begun = self.answer_whole = False
        self.over = False
        self.moved = False
        """It was once given to a connection that ended before it began there."""

    @property
    def timeout(self) -> float | None:
        """Give the seconds that the client has for it, by its own word."""
        return status.seconds_of(self._head.found.get(b"grpc-timeout"))

    def begin(self, back: ServerLink, stream: int) -> None:
        """Go on with the model on a stream of its connection."""
        self._back, self._to = back, stream
        self.down = Flow(back, stream, self._finish)
        self.down.into(self._front, self.stream)
        back.head(stream, self._head.block + identity(self._correlation), end=False)
        self.up.into(back, stream)

    def request_data(self, data: bytes, credit: int, *, end: bool) -> None:
        """Pass on a piece of the request."""
        self.heard = time.monotonic()
        if end:
            self.asked = self.heard
        long = self.meter.add(data) if data else 0
        if self._seen is not None:
            self._seen.request.add(data, self._front.capture)
        if long and not self.over:
            self._front.refused(413)
            self._front.taken(self.stream, credit)
            most = self._front.settings.max_body
            self.refuse(Code.RESOURCE_EXHAUSTED, f"a message of {long} bytes: expected at most {most}")
            return
        self.up.add(data, credit, end=end)

    def request_end(self, trailers: Head | None) -> None:
        """Pass on the end of the request."""
        self.asked = self.heard = time.monotonic()
        self.up.end(trailers.block if trailers is not None else None)

    def answer_head(self, head: Head, *, end: bool) -> None:
        """Pass on the answer's head; with `end` it is all there is."""
        self.heard = time.monotonic()
        if self._too_many(head):
            return
        self.answer_begun = True
        if self._seen is not None:
            self._seen.first_byte_us = self._elapsed_us()
            self._note(head, end=end)
        self._front.head(self.stream, head.block + identity(self._correlation), end=end)
        if end:
            self.answer_whole = True
            self._finish()

    def answer_data(self, data: bytes, credit: int, *, end: bool) -> None:
        """Pass on a piece of the answer."""
        self.heard = time.monotonic()
        if self.down is None:
            return
        self.answer_whole = end
        if self._seen is not None:
            self._seen.response.add(data, self._front.capture)
            if end:
                self._note(Head([]), end=True)
        self.down.add(data, credit, end=end)

    def answer_end(self, trailers: Head) -> None:
        """Pass on the status, and with it the end of the answer."""
        if self.down is None or self._too_many(trailers):
            return
        self.answer_whole = True
        self._note(trailers, end=True)
        down, seen, hold = self.down, self._seen, self._front.hold
        if hold is None or seen is None:
            down.end(trailers.block)
            return
        self._seen = None
        seen.latency_us = self._elapsed_us()
        self._front.count(seen)
        hold.until_safe(seen, lambda: down.end(trailers.block))

    def answer_reset(self, code: int) -> None:
        """Pass on that the model breaks the call off."""
        if self.answer_whole:
            # The status has come: this is only about the rest of the request, which the model does not want.
            self.up.stop()
            return
        self._front.reset(self.stream, code)
        self._break_off(_OF_RESET.get(ErrorCodes(code), Code.INTERNAL) if code in _KNOWN else Code.INTERNAL)

    def refuse(self, code: int, message: str) -> None:
        """Give a status in the model's place, after what the model has said."""
        if self.over:
            return
        if self._seen is not None:
            self._seen.aborted = self.answer_begun or not self.asked
        if self.down is not None and self.down.ended:
            # All has been said, and the client does not read it.
            self._front.reset(self.stream, ErrorCodes.CANCEL)
            self._finish()
            return
        own = Head(status.trailers(code, message))
        self._note(own, end=True)
        if self.answer_begun and self.down is not None:
            self.down.end(own.block)
            return
        self._front.head(self.stream, _ANSWER + own.block + identity(self._correlation), end=True)
        self._finish()

    def cut(self) -> None:
        """End both sides at once: the client takes nothing, so nothing can be said."""
        self._front.reset(self.stream, ErrorCodes.CANCEL)
        self._break_off(Code.CANCELLED)

    def client_reset(self, code: int) -> None:
        """Pass on that the client breaks the call off."""
        if self._back is not None:
            self._back.reset(self._to, code)
        timeout = self.timeout
        late = timeout is not None and time.monotonic() - self.began >= timeout
        self._break_off(Code.DEADLINE_EXCEEDED if late else Code.CANCELLED)

    def rapid(self, now: float) -> bool:
        """Tell whether a reset now would come before the model could have done anything."""
        return not self.answer_begun and now - self.began < _RAPID_S

    def _too_many(self, head: Head) -> bool:
        """Refuse an answer of more fields than allowed; tell whether it is."""
        most = self._front.settings.max_headers
        if len(head.fields) <= most:
            return False
        self.refuse(Code.RESOURCE_EXHAUSTED, f"the model's answer has more than {most} fields of metadata")
        return True

    def _break_off(self, code: int) -> None:
        if self._seen is not None:
            self._seen.aborted = True
            self._note(Head(status.trailers(code, "")), end=True)
        self._finish()

    def _finish(self) -> None:
        """Free both streams and log; the client has its answer, or never will."""
        if self.over:
            return
        self.over = True
        if not self.up.ended:
            # RFC 9113 section 8.1: the answer is whole, and the rest of the request is not wanted.
            self._front.reset(self.stream, ErrorCodes.NO_ERROR)
        if self._back is not None and not (self.up.over and self.answer_whole):
            self._back.reset(self._to, ErrorCodes.CANCEL)
        self.up.stop()
        if self.down is not None:
            self.down.stop()
        if self._back is not None:
            self._back.freed(self, self._to)
        if self._seen is not None:
            self._seen.latency_us = self._elapsed_us()
            self._front.seen(self._seen)
        self._front.finished(self)

    def _note(self, head: Head, *, end: bool) -> None:
        """Keep a head or trailers, and with the end what they make of the status."""
        seen = self._seen
        if seen is None:
            return
        http = head.found.get(b":status", b"")
        if http.isdigit():
            seen.status = int(http)
        # A new list: a head is shared by all calls that have the same.
        seen.response_fields = [*seen.response_fields, *head.plain]
        if not end:
            return
        code = head.found.get(b"grpc-status")
        if code is not None or seen.status == status.HTTP[Code.OK]:
            seen.status = status.http_status(code)

    def _elapsed_us(self) -> int:
        return int((time.monotonic() - self.began) * 1_000_000)


def kept(head: Head, path: str, correlation: bytes) -> Seen:
    """Begin what is kept of a call."""
    return Seen(
        correlation=correlation.decode("latin-1"), method="POST", path=path, request_fields=head.plain,
        started_us=time.time_ns() // 1000, request=Body(), response=Body(),
    )  # fmt: skip


def refusal(fields: Fields, correlation: bytes) -> bytes:
    """Write a head of our own."""
    return block_of(fields) + identity(correlation)


_RAPID_S: Final = 0.1
_KNOWN: Final = frozenset(int(code) for code in ErrorCodes)
