"""One call: its messages as they come, the task that answers it, and its answer on its way out.

A call of one message, which most are, has its task when it is whole, and its answer goes out in one piece. Others have
it from the beginning. Whatever is raised becomes the status. Next: `predictions.py`, `service.py`.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING, Final

from h2.errors import ErrorCodes

from inference.eager import begun
from inference.errors import BodyTooLarge, BodyTooSlow, DeadlineExceeded, Overloaded
from inference.grpc import packing
from inference.grpc.assembly import PREFIX_BYTES, Assembly, prefixed
from inference.grpc.heads import OK, Wanted, ending
from inference.grpc.methods import Method
from inference.grpc.statuses import Refused, code_of, details_of, note, text_of
from inference.http2.fields import Head
from inference.http2.flow import Flow
from inference.http2.status import Code
from inference.protocol.errors import MalformedBody, ProtocolError

if TYPE_CHECKING:
    from inference.grpc.connection import Connection

_AHEAD: Final = 16
"""Messages of a call that may wait to be taken before its client is slowed down."""
_AHEAD_BYTES: Final = 512 * 1024
"""The same in bytes, for messages that are large."""
_EACH: Final = 100
"""Bytes that a message takes while it waits, besides its own: it may have none."""
_UNSENT: Final = 256 * 1024
"""Bytes of answers that may wait for a client that reads slowly before its method is slowed down."""
_RAPID_S: Final = 0.1
_GRACE_S: Final = 0.5
"""A prediction ends by itself when its deadline is over; what does not is ended after this."""


class Call:
    """From its head to its last trailer. All on the event loop."""

    __slots__ = (
        "_assembly", "_began", "_begun", "_drained", "_ended", "_flow", "_heard", "_held", "_inbox", "_kept", "_link",
        "_more", "_owed", "_task", "_unsent", "_wanted", "deadline", "head", "method", "over", "stream",
    )  # fmt: skip

    def __init__(self, link: Connection, stream: int, wanted: Wanted, method: Method) -> None:
        self._link, self.stream, self._wanted, self.method = link, stream, wanted, method
        self.head: Mapping[str, str] = wanted.metadata
        self._began = self._heard = time.monotonic()
        """`heard`: when the message that comes began to come."""
        self.deadline = None if wanted.timeout_s is None else self._began + wanted.timeout_s
        self._assembly = Assembly(link.host.settings.grpc_max_receive)
        self._inbox: deque[tuple[int, bytes]] = deque()
        self._ended = False
        """The request is whole."""
        self._held = self._owed = self._kept = 0
        """Bytes of the request that wait here, and those that its window was not given back for; messages that were
        taken and wait elsewhere."""
        self._more: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._flow: Flow | None = None
        self._unsent = 0
        self._drained: asyncio.Future[None] | None = None
        self._begun = False
        """A part of the answer has gone out, more than its head."""
        self.over = False
        if method.streaming is not None:
            self._task = link.host.loop.create_task(self._answer_stream())

    # What comes in.

    def request_data(self, data: bytes, credit: int, *, end: bool) -> None:
        """Take a piece of the request."""
        host = self._link.host
        if not self._assembly.size:
            self._heard = time.monotonic()
        try:
            found = self._assembly.add(data)
        except (BodyTooLarge, ProtocolError) as exc:
            self._link.taken(self.stream, credit)
            self.fail(exc)
            return
        self._hold(len(data) + _EACH * len(found))
        self._owed += credit
        self._inbox.extend(found)
        self._give_back()
        if host.held > host.settings.queue_bytes and (self._held < host.held or len(self._inbox) > 1):
            self.fail(Overloaded(host.waiting()))
        elif self.method.unary is not None and len(self._inbox) > 1:
            self.fail(Refused(Code.UNIMPLEMENTED, "expected one message, got several"))
        elif end:
            self.request_end(None)
        elif found:
            self._wake()

    def request_end(self, trailers: Head | None) -> None:  # noqa: ARG002 - gRPC has none in requests
        """Take the end of the request."""
        self._ended = True
        if self._assembly.size:
            self.fail(MalformedBody("message", "the request ends within it"))
        elif self.method.unary is None:
            self._wake()
        elif not self._inbox:
            self.fail(Refused(Code.UNIMPLEMENTED, "expected one message, got none"))
        else:
            self._task = begun(self._answer(), self._link.host.loop)

    def client_reset(self, code: int) -> None:  # noqa: ARG002 - whatever its reason, nobody waits for the answer
        """The client has broken the call off, or is away."""
        self._break_off()

    def stop(self) -> None:
        """The server ends."""
        self.fail(Refused(Code.UNAVAILABLE, "the server stops"))
        if not self.over:
            self._break_off()

    def rapid(self, now: float) -> bool:
        """Tell whether a reset now would come before anything could have been done."""
        return not self._begun and now - self._began < _RAPID_S

    def sweep(self, now: float, *, starved: bool) -> None:
        """Give up on what takes too long. Asked again and again; `starved` when other calls have the whole window."""
        most_s = self._link.host.settings.body_timeout_s
        if self._flow is not None and self._flow.stuck:
            if now - self._flow.stuck > most_s:
                self._link.host.unread += 1
                self._link.reset(self.stream, ErrorCodes.CANCEL)
                self._break_off()
        elif self.deadline is not None and now > self.deadline + _GRACE_S:
            self.fail(DeadlineExceeded(round(self.deadline - self._began, 3)))
        elif self._ended or not self._may_send(starved=starved):
            self._heard = now
        elif (self._assembly.size or self.method.unary) and now - self._heard > most_s:
            self.fail(BodyTooSlow(most_s))

    def keep(self, size: int) -> None:
        """See `methods.Asked`."""
        if not self.over:
            self._kept += 1
            self._hold(size + _EACH)

    def let_go(self, size: int) -> None:
        """See `methods.Asked`."""
        if not self.over:
            self._kept -= 1
            self._hold(-size - _EACH)
            if self._owed:
                self._give_back()

    # What goes out.

    def fail(self, error: Exception) -> None:
        """End the call with an error."""
        if self.over:
            return
        self._cancel()
        note(self.method.name, error)
        trailers = ending(code_of(error), text_of(error), details_of(error))
        if self._flow is not None:
            self._flow.end(trailers)
            return
        if self._wanted.identified:
            # As metadata of an answer, not of its end, where clients do not look for it.
            self._link.head(self.stream, self._wanted.answer, end=False)
            self._link.head(self.stream, trailers, end=True)
        else:
            self._link.head(self.stream, self._wanted.answer + trailers, end=True)
        self._finish()

    def taken(self, _stream: int, amount: int) -> None:
        """Take the news that a part of the answer has gone out."""
        self._unsent -= amount
        if self._drained is not None and self._unsent <= _UNSENT and not self._drained.done():
            self._drained.set_result(None)

    async def _answer(self) -> None:
        unary = self.method.unary
        assert unary is not None  # noqa: S101 - this is its task
        try:
            message = await self._take()
            answer = await unary(message, self)
            content = await self._written(answer)
        except Exception as exc:  # noqa: BLE001 - the edge: everything becomes an answer
            self._task = None
            self.fail(exc)
            return
        self._task = None
        if self._link.whole(self.stream, self._wanted.answer, content, OK):
            self._begun = True
            self._finish()
            return
        self._begin()
        self._send(content)
        self._end()

    async def _answer_stream(self) -> None:
        streaming = self.method.streaming
        assert streaming is not None  # noqa: S101 - this is its task
        self._begin()
        try:
            async with aclosing(streaming(self._messages(), self)) as answers:
                async for answer in answers:
                    self._send(await self._written(answer))
                    if self._unsent > _UNSENT:
                        self._drained = self._link.host.loop.create_future()
                        await self._drained
        except Exception as exc:  # noqa: BLE001 - the edge: everything becomes an answer
            self._task = None
            self.fail(exc)
            return
        self._task = None
        self._end()

    async def _messages(self) -> AsyncIterator[bytes]:
        while True:
            while self._inbox:
                yield await self._take()
            if self._ended:
                return
            self._more = self._link.host.loop.create_future()
            await self._more

    async def _take(self) -> bytes:
        """Take a message that is there."""
        packed, message = self._inbox.popleft()
        self._hold(-len(message) - PREFIX_BYTES - _EACH)
        if self._owed:
            self._give_back()
        if not packed:
            return message
        return await packing.unpacked(message, self._wanted.coding, self._link.host.settings.grpc_max_receive)

    async def _written(self, answer: bytes) -> bytes:
        """Give an answer as it goes out."""
        most, wanted = self._link.host.settings.grpc_max_send, self._wanted.packing
        if 0 <= most < len(answer):
            raise Refused(Code.RESOURCE_EXHAUSTED, f"the answer: expected at most {most} bytes, got {len(answer)}")
        if wanted and len(answer) >= packing.WORTH_IT:
            answer = await packing.packed(answer, wanted)
            return prefixed(answer, packed=True) + answer
        return prefixed(answer, packed=False) + answer

    def _begin(self) -> None:
        """Send the head."""
        if self.over:
            return
        self._link.head(self.stream, self._wanted.answer, end=False)
        self._flow = Flow(self, self.stream, self._finish)
        self._flow.into(self._link, self.stream)

    def _send(self, content: bytes) -> None:
        self._begun = True
        self._unsent += len(content)
        if self._flow is not None:
            self._flow.add(content, len(content), end=False)

    def _end(self) -> None:
        if self._flow is not None:
            self._flow.end(OK)

    def _wake(self) -> None:
        if self._more is not None and not self._more.done():
            self._more.set_result(None)

    def _give_back(self) -> None:
        """Let the client send as much again, unless more waits here than should."""
        waiting = len(self._inbox) + self._kept
        if not waiting or (waiting <= _AHEAD and self._held <= _AHEAD_BYTES):
            owed, self._owed = self._owed, 0
            self._link.taken(self.stream, owed)

    def _may_send(self, *, starved: bool) -> bool:
        """Tell whether the client can send what is missing: of a call of one message, that may be its end alone."""
        return self.method.unary is not None if self._owed else not starved

    def _hold(self, size: int) -> None:
        self._held += size
        self._link.host.held += size

    def _cancel(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()

    def _break_off(self) -> None:
        self._cancel()
        self._finish()

    def _finish(self) -> None:
        """Let go of everything; the client has its answer, or never will."""
        if self.over:
            return
        self.over = True
        self._hold(-self._held)
        self._inbox.clear()
        flow, self._flow = self._flow, None
        if flow is not None:
            flow.stop()
        self._link.taken(self.stream, self._owed)
        if not self._ended:
            # RFC 9113 section 8.1: the answer is whole, and the rest of the request is not wanted.
            self._link.reset(self.stream, ErrorCodes.NO_ERROR)
        self._link.finished(self)
