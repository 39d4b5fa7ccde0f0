"""An HTTP server that answers what it is told to, and keeps what it was asked: a predictor that may misbehave."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

Scripted = tuple[int, Mapping[str, str], bytes]

V1_ANSWER: Final[Scripted] = (200, {}, b'{"predictions": [1.5]}')
CLOSE: Final[Scripted] = (0, {}, b"")
"""Breaks the connection off instead of answering."""
HANG: Final[Scripted] = (-1, {}, b"")
"""Never answers."""


@dataclass
class Script:
    """What is to be answered next, and what was asked."""

    port: int = 0
    answers: list[Scripted] = field(default_factory=list)
    asked: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)
    connections: set[Any] = field(default_factory=set)
    over: threading.Event = field(default_factory=threading.Event)
    meeting: threading.Barrier | None = None
    """Where predictions wait for each other before they are answered; nobody waits for a question about the model."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    # The kernel drops connections beyond it, which are tried again after a second.
    request_queue_size = 128


@contextmanager
def scripted(*answers: Scripted, tls: ssl.SSLContext | None = None) -> Iterator[Script]:
    """Serve until the block ends, encrypted if asked; after the last answer, that one again."""
    script = Script(answers=list(answers))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer()

        def do_POST(self) -> None:
            self._answer()

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            script.connections.add(self.client_address)
            script.asked.append((self.path, {name.lower(): value for name, value in self.headers.items()}, body))
            if script.meeting is not None and self.command == "POST":
                script.meeting.wait(60)
            status, head, content = script.answers.pop(0) if len(script.answers) > 1 else script.answers[0]
            if status <= 0:
                if status < 0:
                    script.over.wait(60)
                self.close_connection = True
                return
            self.send_response(status)
            for name, value in ({"content-length": str(len(content))} | dict(head)).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:  # noqa: ANN401 - the library's
            pass

    server = _Server(("127.0.0.1", 0), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    script.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield script
    finally:
        script.over.set()
        server.shutdown()
        server.server_close()
        thread.join()
