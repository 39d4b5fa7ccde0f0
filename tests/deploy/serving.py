"""A small HTTP server on loopback whose answers a test chooses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler

from tests.httpserver import httpserver


@dataclass(slots=True)
class Answering:
    """What is answered, and what was asked."""

    body: bytes = b""
    status: int = 200
    raw: bytes = b""
    """When set, this instead of an HTTP answer."""
    url: str = ""
    asked: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)
    """Path, headers with names in lower case, and body of each request."""


@contextmanager
def answering(body: bytes = b"", status: int = 200, raw: bytes = b"") -> Iterator[Answering]:
    """Serve until the block ends."""
    answers = Answering(body, status, raw)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            answers.asked.append((self.path, headers, self.rfile.read(int(headers.get("content-length", 0)))))
            if answers.raw:
                self.wfile.write(answers.raw)
                return
            self.send_response(answers.status)
            self.send_header("content-length", str(len(answers.body)))
            self.end_headers()
            self.wfile.write(answers.body)

        do_GET = do_POST  # noqa: N815 - http.server looks for this name

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with httpserver(Handler) as answers.url:
        yield answers
