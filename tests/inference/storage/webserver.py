"""A web server on loopback that serves bytes, and misbehaves as it is told."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import ClassVar

from tests.httpserver import httpserver


@dataclass
class Web:
    """What is served, and what was asked for."""

    files: dict[str, bytes] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    failures: list[int] = field(default_factory=list)
    """Statuses of the next answers."""
    cuts: list[int] = field(default_factory=list)
    """Bytes after which the next answers with a body break off."""
    ranges: bool = True
    authorization: str = ""
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    """Path and range of each request."""
    url: str = ""


class _Handler(BaseHTTPRequestHandler):
    state: ClassVar[Web]

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        """Serve a file."""
        state, place = self.state, self.headers.get("Range")
        state.asked.append((self.path, place))
        if state.failures:
            self.send_error(state.failures.pop(0))
        elif state.authorization and self.headers.get("Authorization") != state.authorization:
            self.send_error(403)
        elif self.path.partition("?")[0] not in state.files:
            self.send_error(404)
        else:
            self._answer(self.path.partition("?")[0], place)

    def _answer(self, path: str, place: str | None) -> None:
        state = self.state
        body, tag = state.files[path], state.tags.get(path, "")
        start = re.fullmatch(r"bytes=(\d+)-", place or "")
        partial = state.ranges and start is not None and self.headers.get("If-Range") == tag
        if partial and start is not None:
            body = body[int(start[1]) :]
        self.send_response(206 if partial else 200)
        self.send_header("Content-Length", str(len(body)))
        if tag:
            self.send_header("ETag", tag)
        self.end_headers()
        if state.cuts and len(body) > state.cuts[0]:
            body = body[: state.cuts.pop(0)]
            self.close_connection = True
        try:
            self.wfile.write(body)
        except OSError:
            # Whoever only looks at the head goes away.
            self.close_connection = True


@contextmanager
def web() -> Iterator[Web]:
    """Serve until the block ends."""
    state = Web()
    handler = type("_Serving", (_Handler,), {"state": state})
    with httpserver(handler) as state.url:
        yield state
