"""The page of a stage's process: `/metrics` for Prometheus, `/healthz` and `/readyz` for probes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, make_wsgi_app

from deploy.errors import UserError
from streams import pages

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

_TEXT: Final = ("content-type", "text/plain")


def serve(
    host: str, port: int, registry: CollectorRegistry, alive: Callable[[], str], ready: Callable[[], str]
) -> None:
    """Serve the page from threads until the process ends.

    Raises:
        UserError: the port cannot be listened on.
    """
    app = application(make_wsgi_app(registry), {"/healthz": alive, "/readyz": ready})
    try:
        pages.serve(host, port, app)
    except OSError as exc:
        raise UserError(f"--metrics-host {host} --metrics-port {port}: cannot be listened on: {exc}") from exc


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
