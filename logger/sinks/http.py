"""CloudEvents by HTTP POST in binary mode, as KServe's agent sends them: to Knative brokers, collectors, anything.

A few threads with one kept-alive connection each; a bounded number of events waits for them. 2xx is delivered; 408,
425, 429 and 5xx, and whatever happens to the connection, may pass; any other status is for good.
"""

from __future__ import annotations

import http.client
import logging
import queue
import ssl
import threading
from collections import deque
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from streams.bindings import from_kafka, to_http
from streams.errors import PublishError, Refused, Unavailable
from streams.stage import Done, Output

log = logging.getLogger(__name__)

_PASSING: Final = frozenset({408, 425, 429})


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpSettings:
    """How to reach the sink."""

    url: str
    connections: int = 5
    """Requests at the same time; KServe's agent has five workers."""
    waiting: int = 1_000
    """Events that may wait for a connection; one more is refused at once."""
    timeout_s: float = 10.0
    """For connecting and for each silence of the sink."""
    ca_file: str = ""
    """Certificates to trust instead of the system's; one that is missing is an error."""
    verify: bool = True
    """Whether the sink's certificate is checked."""


class HttpPublisher:
    """A `Publisher` over HTTP. The topic of an output is not looked at: the URL says where.

    Raises:
        OSError: the CA file cannot be read.
    """

    def __init__(self, settings: HttpSettings) -> None:
        self._settings = settings
        parts = urlsplit(settings.url)
        self._host, self._target = parts.netloc, parts.path or "/"
        if parts.query:
            self._target += f"?{parts.query}"
        self._context = _context(settings) if parts.scheme == "https" else None
        self._queue: queue.Queue[tuple[Output, Done]] = queue.Queue(settings.waiting)
        self._answers: deque[tuple[Done, PublishError | None]] = deque()
        self._answered = threading.Event()
        self._open = 0
        for number in range(settings.connections):
            threading.Thread(target=self._work, name=f"http-{number}", daemon=True).start()

    def send(self, output: Output, done: Done) -> None:
        """See `streams.stage.Publisher`."""
        try:
            self._queue.put_nowait((output, done))
        except queue.Full:
            raise Unavailable(f"{self._settings.waiting} events wait for {self._host}") from None
        self._open += 1

    def poll(self, timeout_s: float) -> None:
        """See `streams.stage.Publisher`."""
        if not self._answers and timeout_s:
            self._answered.wait(timeout_s)
        self._answered.clear()
        while self._answers:
            done, error = self._answers.popleft()
            self._open -= 1
            done(error)

    def flush(self, timeout_s: float) -> int:
        """See `streams.stage.Publisher`."""
        pieces = max(1, int(timeout_s / 0.05))
        for _ in range(pieces):
            if not self._open:
                break
            self.poll(timeout_s / pieces)
        return self._open

    def _work(self) -> None:
        connection = self._connection()
        while True:
            output, done = self._queue.get()
            try:
                error = self._post(connection, output)
            except (OSError, http.client.HTTPException) as exc:
                connection.close()
                error = Unavailable(f"{self._host}: {exc}")
            self._answers.append((done, error))
            self._answered.set()

    def _connection(self) -> http.client.HTTPConnection:
        if self._context is None:
            return http.client.HTTPConnection(self._host, timeout=self._settings.timeout_s)
        return http.client.HTTPSConnection(self._host, timeout=self._settings.timeout_s, context=self._context)

    def _post(self, connection: http.client.HTTPConnection, output: Output) -> PublishError | None:
        headers, body = to_http(from_kafka(output.headers, output.value))
        connection.request("POST", self._target, body, dict(headers))
        answer = connection.getresponse()
        text = answer.read(65_536)
        if not answer.isclosed():
            connection.close()
        if 200 <= answer.status < 300:  # noqa: PLR2004 - success, RFC 9110 section 15.3
            return None
        problem = f"{self._host} answered {answer.status}: {text[:200].decode(errors='replace')}"
        if answer.status in _PASSING or answer.status >= 500:  # noqa: PLR2004 - server errors, section 15.6
            return Unavailable(problem)
        return Refused(problem)


def _context(settings: HttpSettings) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=settings.ca_file or None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if not settings.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
