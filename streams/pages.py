"""A page of a process's own, such as `/metrics`, served from threads until the process ends."""

from __future__ import annotations

import contextlib
import socket
import threading
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from streams.addresses import bound

if TYPE_CHECKING:
    from wsgiref.types import WSGIApplication

_PATIENCE_S: Final = 5.0
"""How long a client may say nothing, or take nothing: each holds a thread."""
_MOST: Final = 128
"""Requests at once: beyond it, connections are closed, so that no crowd takes all of the process's memory and files."""


def serve(host: str, port: int, app: WSGIApplication, most: int = _MOST) -> None:
    """Serve an application at an address, so many requests at once, and go on with the caller's work.

    Raises:
        OSError: the port cannot be listened on.
    """
    server = _Server(bound(host, port, shared=False), most)
    server.set_app(app)
    threading.Thread(target=server.serve_forever, name="page", daemon=True).start()


class _Server(ThreadingMixIn, WSGIServer):
    """A thread for each request: a client that does not read must not keep probes from their answer."""

    daemon_threads = True

    def __init__(self, listening: socket.socket, most: int) -> None:
        self._free = threading.BoundedSemaphore(most)
        self.address_family = listening.family
        super().__init__(listening.getsockname(), _Quiet, bind_and_activate=False)
        self.socket.close()
        self.socket = listening
        self.server_name, self.server_port = listening.getsockname()[:2]
        self.setup_environ()
        self.server_activate()

    def process_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 - as the base class has it
        """Begin a thread, if there may be another."""
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            # No thread could be had.
            self._free.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 - as above
        """Answer in a thread of its own."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()


class _Quiet(WSGIRequestHandler):
    timeout = _PATIENCE_S

    def handle(self) -> None:
        """Answer one request, unless the client leaves or says nothing."""
        with contextlib.suppress(OSError):
            super().handle()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
        """Keep scrapes out of the log."""
