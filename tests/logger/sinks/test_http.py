"""The HTTP sink against real servers: what passes, what may pass later, what never will."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from deploy.kafka.ports import free_port
from logger.settings import TapSettings
from logger.sinks.http import HttpPublisher, HttpSettings
from logger.tap import Tap
from streams.bindings import from_http, from_kafka
from streams.errors import Refused, Unavailable
from streams.events import Event
from streams.stage import Output
from tests.logger.test_outbox import seen


class Sink(ThreadingHTTPServer):
    """Keeps what is posted and answers with a status."""

    daemon_threads = True

    def __init__(self, status: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.status = status
        self.events: list[Event] = []
        self.connections: set[Any] = set()
        self.silent = threading.Event()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Sink

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.server.silent.is_set():
            self.close_connection = True
            return
        self.server.events += from_http(self.headers.items(), body)
        self.server.connections.add(self.client_address)
        self.send_response(self.server.status)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"no")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
        pass


@contextmanager
def sink(status: int = 202) -> Iterator[Sink]:
    """Run a sink."""
    server = Sink(status)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def publisher(server: Sink, **settings: Any) -> HttpPublisher:  # noqa: ANN401 - settings of any kind
    """Make a publisher for it."""
    return HttpPublisher(HttpSettings(url=f"http://127.0.0.1:{server.server_port}/in?x=1", **settings))


def outputs(count: int) -> list[Output]:
    """Make events."""
    letters = Tap(TapSettings(mode="request", service="caf\u00e9 %")).letters(seen(), 0)
    return [Output("", letters[0].key, b"%d" % number, letters[0].headers) for number in range(count)]


def answers(carrier: HttpPublisher, sent: list[Output]) -> list[Exception | None]:
    """Send and wait."""
    found: list[Exception | None] = []
    for output in sent:
        carrier.send(output, found.append)
    assert carrier.flush(60) == 0
    return found


def test_events_arrive_as_they_were() -> None:
    """Every attribute and the body, over a few connections that are used again."""
    sent = outputs(40)
    with sink() as server:
        found = answers(publisher(server, connections=3), sent)

    assert found == [None] * 40
    assert sorted(server.events, key=_number) == [from_kafka(output.headers, output.value) for output in sent]
    assert len(server.connections) <= 3


def _number(event: Event) -> int:
    return int(event.data or b"0")


@pytest.mark.parametrize(
    ("status", "kind"), [(400, Refused), (404, Refused), (413, Refused), (429, Unavailable), (503, Unavailable)]
)
def test_statuses(status: int, kind: type[Exception]) -> None:
    """What the sink will never take is told apart from what it may take later; the text says what it answered."""
    with sink(status) as server:
        (found,) = answers(publisher(server), outputs(1))

    assert type(found) is kind
    assert f"answered {status}: no" in str(found)


def test_a_sink_that_hangs_up_or_is_gone_may_come_back() -> None:
    """A broken connection is Unavailable; the next event opens a new one."""
    with sink() as server:
        carrier = publisher(server, connections=1)
        server.silent.set()
        (broken,) = answers(carrier, outputs(1))
        server.silent.clear()
        (whole,) = answers(carrier, outputs(1))
    # The sink's own port would be anybody's once it is closed.
    (gone,) = answers(HttpPublisher(HttpSettings(url=f"http://127.0.0.1:{free_port()}/")), outputs(1))

    assert type(broken) is Unavailable
    assert whole is None
    assert type(gone) is Unavailable


def test_a_full_queue_answers_at_once() -> None:
    """Beyond the bound an event is refused immediately; nobody waits."""
    with sink() as server:
        carrier = HttpPublisher(
            HttpSettings(url=f"http://127.0.0.1:{server.server_port}/", connections=0, waiting=2)
        )  # fmt: skip
        first, second, third = outputs(3)
        carrier.send(first, lambda _: None)
        carrier.send(second, lambda _: None)
        with pytest.raises(Unavailable, match="2 events wait"):
            carrier.send(third, lambda _: None)


def test_a_missing_ca_file_is_an_error() -> None:
    """It is never replaced by the system's certificates in silence."""
    with pytest.raises(OSError, match=r"No such file|\[Errno 2\]"):
        HttpPublisher(HttpSettings(url="https://127.0.0.1:1/", ca_file="/nowhere/ca.crt"))
