"""The model's side: one HTTP/2 connection for one client connection.

Not shared between clients: a client that reads slowly fills the window of its own connection and nobody else's, and
the model sees the same connections, limits and goodbyes as without a proxy.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from h2.errors import ErrorCodes
from h2.events import ConnectionTerminated, RemoteSettingsChanged, StreamReset
from h2.exceptions import NoAvailableStreamIDError, ProtocolError
from h2.settings import SettingCodes

from inference.http2.fields import Head
from inference.http2.outlet import Turn
from inference.http2.status import Code
from logger import endings
from logger.grpc.call import Call, ServerLink


class Back(ServerLink):
    """One connection to the model. Calls wait here until it is open and the model takes another stream.

    Args:
        turn: of the event loop.
        max_head: bytes of metadata that the model may send at once.
        again: takes calls that this connection will not serve and that the model has not seen.
    """

    def __init__(self, turn: Turn, max_head: int, again: Callable[[Iterable[Call]], None]) -> None:
        super().__init__(
            turn, client_side=True, settings={SettingCodes.ENABLE_PUSH: 0, SettingCodes.MAX_HEADER_LIST_SIZE: max_head}
        )
        self._again = again
        self._calls: dict[int, Call] = {}
        self._waiting: dict[Call, None] = {}
        self._open = False
        self.leaving = False
        """It serves no further call."""
        self.on |= {StreamReset: self._reset, ConnectionTerminated: self._goaway}

    def take(self, call: Call) -> None:
        """Serve a call as soon as possible."""
        self._waiting[call] = None
        self._begin()

    def freed(self, call: Call, stream: int) -> None:
        """Take the news that a call is over."""
        self._waiting.pop(call, None)
        if self._calls.pop(stream, None) is None or self.closed:
            return
        if self._waiting:
            self._begin()
        if self.leaving and not self._calls:
            self.goodbye()

    def fail(self, problem: str) -> None:
        """There is no connection, or none any more: every call hears why."""
        if self.closed:
            return
        self.closed = True
        waiting, self._waiting = list(self._waiting), {}
        for call in (*self._calls.values(), *waiting):
            call.refuse(Code.UNAVAILABLE, problem)

    def goodbye(self) -> None:
        """Close; the model hears that it was on purpose."""
        if self.closed:
            return
        self.closed = True
        if self.transport is not None:
            self.say_goodbye(ErrorCodes.NO_ERROR)
            self.end()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:  # noqa: D102 - asyncio's contract
        super().connection_made(transport)
        if self.closed:
            self.abort()
            return
        self._open = True
        self._turn.begin()
        self._begin()
        self._turn.end()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: D102
        self._turn.begin()
        self.fail(endings.problem(exc))
        self._turn.end()

    def broken(self, problem: ProtocolError) -> None:
        """Give up on a model that does not speak HTTP/2."""
        self.fail(f"the model's answer is no HTTP/2: {problem}")
        self.end()

    def take_head(self, stream: int, head: Head, *, end: bool) -> None:
        """Pass on an answer's head."""
        call = self._calls.get(stream)
        if call is not None:
            call.answer_head(head, end=end)

    def take_content(self, stream: int, data: bytes, credit: int, *, end: bool) -> None:
        """Pass on a piece of an answer."""
        call = self._calls.get(stream)
        if call is None:
            self.taken(stream, credit)
        else:
            call.answer_data(data, credit, end=end)

    def take_trailers(self, stream: int, head: Head) -> None:
        """Pass on a status."""
        call = self._calls.get(stream)
        if call is not None:
            call.answer_end(head)

    def settings_changed(self, event: RemoteSettingsChanged) -> None:
        """Take the model's settings: it may take more streams."""
        super().settings_changed(event)
        self._begin()

    def _begin(self) -> None:
        """Begin what waits, while the model takes streams."""
        if not self._open or self.leaving:
            return
        most = self.h2.remote_settings.max_concurrent_streams
        while self._waiting and len(self._calls) < most:
            call = next(iter(self._waiting))
            try:
                stream = self.h2.get_next_available_stream_id()
            except NoAvailableStreamIDError:
                self._leave()
                return
            del self._waiting[call]
            self._calls[stream] = call
            call.begin(self, stream)

    def _leave(self) -> None:
        self.leaving = True
        waiting, self._waiting = list(self._waiting), {}
        self._again(waiting)
        if not self._calls:
            self.goodbye()

    def _reset(self, event: StreamReset) -> None:
        call = self._calls.get(event.stream_id)
        if call is not None:
            call.answer_reset(int(event.error_code or 0))

    def _goaway(self, event: ConnectionTerminated) -> None:
        last = event.last_stream_id or 0
        self.leaving = True
        # The model has not seen these, and says so: the client may send them again without a doubt.
        for stream, call in list(self._calls.items()):
            if stream > last:
                call.answer_reset(ErrorCodes.REFUSED_STREAM)
        self._leave()
