"""The page of a stage's process: `/metrics` for Prometheus, `/healthz` and `/readyz` for probes."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app

from deploy.errors import UserError

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

_TEXT: Final = ("content-type", "text/plain")
_PATIENCE_S: Final = 5.0
"""How long a client may say nothing, or take nothing: each holds a thread."""


def serve(
    host: str, port: int, registry: CollectorRegistry, alive: Callable[[], str], ready: Callable[[], str]
) -> None:
    """Serve the page from threads until the process ends.

    Raises:
        UserError: the port cannot be listened on.
    """
    app = application(make_wsgi_app(registry), {"/healthz": alive, "/readyz": ready})
    try:
        kind = _Server6 if ":" in host else _Server
        server = make_server(host.strip("[]"), port, app, server_class=kind, handler_class=_Quiet)
    except OSError as exc:
        raise UserError(f"--metrics-host {host} --metrics-port {port}: cannot be listened on: {exc}") from exc
    threading.Thread(target=server.serve_forever, name="page", daemon=True).start()


def application(metrics: WSGIApplication, probes: dict[str, Callable[[], str]]) -> WSGIApplication:
    """Give the page as a WSGI application; a probe that says what is wrong answers 503 with it."""

    def app(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        # A new list of headers each time: the server puts the length of this answer into it.
        path = environ.get("PATH_INFO", "/")
        if path == "/metrics":
            return metrics(environ, start)
        probe = probes.get(path)
        if probe is None:
            start("404 Not Found", [_TEXT])
            return [f"expected /metrics or {' or '.join(probes)}\n".encode()]
        wrong = probe()
        start("503 Service Unavailable" if wrong else "200 OK", [_TEXT])
        return [f"not now: {wrong}\n".encode("utf-8", "replace") if wrong else b"ok\n"]

    return app


class _Server(ThreadingMixIn, WSGIServer):
    """A thread for each request: a client that does not read must not keep probes from their answer."""

    daemon_threads = True


class _Server6(_Server):
    """The same at an IPv6 address; `::` is every address of both kinds, whatever the system's default is."""

    address_family = socket.AF_INET6

    def server_bind(self) -> None:
        """See the base class."""
        if socket.has_dualstack_ipv6():
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


class _Quiet(WSGIRequestHandler):
    timeout = _PATIENCE_S

    def handle(self) -> None:
        """Answer one request, unless the client leaves or says nothing."""
        with contextlib.suppress(OSError):
            super().handle()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
        """Keep scrapes out of the log."""
