"""HTTP/1.1 connections to one server, kept and shared by threads. Blocks. Used by `inference/upstream/rest.py`."""

from __future__ import annotations

import http.client
import ssl
import threading
import time
from collections import deque
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from inference.upstream.settings import UpstreamSettings

_PIECE = 1 << 20
_END_S = 0.05
"""How long the end of a body is waited for that nobody wants the rest of, so that its connection can be kept."""
_Sent: TypeAlias = tuple[str, str, bytes | None, Mapping[str, str]]
"""Method, path, body, headers."""


Pieces: TypeAlias = Generator[bytes, bool | None, None]
"""A body as it comes, to be read to its end or closed. Sent True, it takes its end if that is there, and is over."""


class NotReached(Exception):
    """No connection, or one that ended before the request could have been worked on."""


class Broken(Exception):
    """The connection ended between the request and the end of the answer."""


class _Unanswered(Exception):
    """The connection ended before the answer began."""


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """Status, headers with names in lower case, body."""

    status: int
    head: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class HttpStream:
    """An answer whose body is still coming."""

    status: int
    head: Mapping[str, str]
    pieces: Pieces


class Connections:
    """Each request takes a connection that is idle, or a new one."""

    def __init__(self, settings: UpstreamSettings) -> None:
        self._settings = settings
        self._tls = ssl.create_default_context() if settings.tls else None
        self._idle: deque[http.client.HTTPConnection] = deque()
        self._lock = threading.Lock()

    def request(self, method: str, path: str, body: bytes | None, head: Mapping[str, str], left_s: float) -> HttpAnswer:
        """Send a request and read all of the answer.

        Raises:
            NotReached, Broken: see their docstrings.
            TimeoutError: not done in time.
        """
        until = time.monotonic() + left_s
        connection, answer = self._answered((method, path, body, head), until)
        try:
            content = b"".join(iter(_Body(connection, answer, until).read, b""))
        except (http.client.HTTPException, OSError) as exc:
            raise self._given_up(connection, exc) from exc
        self._done(connection, answer)
        return HttpAnswer(answer.status, _head(answer), content)

    def stream(self, method: str, path: str, body: bytes | None, head: Mapping[str, str], left_s: float) -> HttpStream:
        """Send a request and read the answer as it comes. Raises what `request` raises, also while it is read."""
        until = time.monotonic() + left_s
        connection, answer = self._answered((method, path, body, head), until)
        return HttpStream(answer.status, _head(answer), self._pieces(connection, answer, until))

    def close(self) -> None:
        """Close what is idle."""
        while (connection := self._take()) is not None:
            connection.close()

    def _pieces(self, connection: http.client.HTTPConnection, answer: http.client.HTTPResponse, until: float) -> Pieces:
        body, whole = _Body(connection, answer, until), False
        try:
            while piece := body.read():
                if (yield piece):
                    whole = body.ends()
                    return
            whole = True
        except (http.client.HTTPException, OSError) as exc:
            raise self._given_up(connection, exc) from exc
        finally:
            if whole:
                self._done(connection, answer)
            else:
                # Closed, it tells the server that nobody reads any more.
                answer.close()
                connection.close()

    def _answered(self, sent: _Sent, until: float) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        kept = self._take()
        if kept is not None:
            try:
                return kept, self._exchange(kept, sent, until)
            except _Unanswered:
                # The server ended it while it was idle, as servers do: that is no answer to this request.
                pass
        connection = self._new(_left(until))
        try:
            connection.connect()
        except TimeoutError:
            raise
        except OSError as exc:
            raise NotReached(str(exc)) from exc
        try:
            return connection, self._exchange(connection, sent, until)
        except _Unanswered as exc:
            raise Broken(str(exc)) from exc

    def _exchange(self, connection: http.client.HTTPConnection, sent: _Sent, until: float) -> http.client.HTTPResponse:
        method, path, body, head = sent
        try:
            connection.sock.settimeout(_left(until))
            connection.request(method, path, body, dict(head))
            connection.sock.settimeout(_left(until))
            return connection.getresponse()
        except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError) as exc:
            connection.close()
            raise _Unanswered(str(exc)) from exc
        except (http.client.HTTPException, OSError) as exc:
            raise self._given_up(connection, exc) from exc

    def _done(self, connection: http.client.HTTPConnection, answer: http.client.HTTPResponse) -> None:
        if not answer.will_close and connection.sock is not None:
            self._keep(connection)

    def _given_up(self, connection: http.client.HTTPConnection, error: Exception) -> Exception:
        connection.close()
        return error if isinstance(error, TimeoutError) else Broken(f"{type(error).__name__}: {error}")

    def _new(self, left_s: float) -> http.client.HTTPConnection:
        host, port = self._settings.host, self._settings.port
        if self._tls is None:
            return http.client.HTTPConnection(host, port, timeout=left_s)
        return http.client.HTTPSConnection(host, port, timeout=left_s, context=self._tls)

    def _take(self) -> http.client.HTTPConnection | None:
        with self._lock:
            return self._idle.pop() if self._idle else None

    def _keep(self, connection: http.client.HTTPConnection) -> None:
        with self._lock:
            if len(self._idle) < self._settings.connections:
                self._idle.append(connection)
                return
        connection.close()


def _head(answer: http.client.HTTPResponse) -> dict[str, str]:
    return {name.lower(): value for name, value in answer.getheaders()}


class _Body:
    """Reads a body piece by piece, so that a server that drips does not begin the time anew with each drop."""

    def __init__(self, connection: http.client.HTTPConnection, answer: http.client.HTTPResponse, until: float) -> None:
        self._connection, self._answer, self._until = connection, answer, until
        # Python 3.11's own `read1` does not count what it gives, so that a body of known length is counted here.
        self._counted = not answer.chunked and answer.length is not None
        self._left = answer.length or 0

    def read(self) -> bytes:
        """Wait for a piece; nothing at the end."""
        answer = self._answer
        if self._counted and not self._left:
            answer.length = 0
            return answer.read()
        if self._connection.sock is not None:
            self._connection.sock.settimeout(_left(self._until))
        piece = answer.fp.read1(min(self._left, _PIECE)) if self._counted else answer.read1(_PIECE)
        if self._counted:
            if not piece:
                raise http.client.IncompleteRead(b"", self._left)
            self._left -= len(piece)
        return piece

    def ends(self) -> bool:
        """Say whether this is the end, without waiting long."""
        if self._connection.sock is None:
            return False
        self._until = min(self._until, time.monotonic() + _END_S)
        return not self.read()


def _left(until: float) -> float:
    left = until - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
