"""The logger's own port: `/metrics` for Prometheus, `/debug` for a person, `/healthz` for a probe of the shipper."""

from __future__ import annotations

import dataclasses
import signal
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

import orjson
from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.registry import Collector

from logger import account
from logger.lane import Lane
from logger.metrics import LoggerCollector
from logger.way import Way
from streams import pages

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

_TEXT: Final = ("content-type", "text/plain")
_JSON: Final = ("content-type", "application/json")


def serve(
    host: str, port: int, lanes: Sequence[Lane], ways: Sequence[Way], events_each: int, more: Sequence[Collector] = ()
) -> None:
    """Serve the page from a thread until the process ends; `more` is shown on it for Prometheus.

    Raises:
        OSError: the port cannot be listened on.
    """
    registry = CollectorRegistry()
    for collector in (LoggerCollector(lanes, ways, events_each), *more):
        registry.register(collector)
    app = application(make_wsgi_app(registry), lambda: debug(lanes, ways, events_each))
    pages.serve(host, port, app)


def alone(served: Callable[[Sequence[Way]], None]) -> int:
    """Be the process that has the page where no shipper is; end at SIGTERM."""
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    served(())
    stopping.wait()
    return 0


def application(metrics: WSGIApplication, state: Callable[[], dict[str, Any]]) -> WSGIApplication:
    """Give the page as a WSGI application."""

    def app(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        # A new list of headers each time: the server puts the length of this answer into it.
        path = environ.get("PATH_INFO", "/")
        if path == "/metrics":
            return metrics(environ, start)
        if path == "/debug":
            start("200 OK", [_JSON])
            return [orjson.dumps(state(), option=orjson.OPT_INDENT_2)]
        found = path == "/healthz"
        start("200 OK" if found else "404 Not Found", [_TEXT])
        return [b"ok\n" if found else b"expected /metrics, /debug or /healthz\n"]

    return app


def debug(lanes: Sequence[Lane], ways: Sequence[Way], events_each: int) -> dict[str, Any]:
    """Give queue, disk and counters of every lane and sink. Never a payload, a header or a secret."""
    accounts = account.read(lanes, len(ways), events_each)
    return {
        "law": all(found.balanced() for found in accounts.ways),
        "sinks": [
            {"name": way.name, **dataclasses.asdict(found), **way.gauges()}
            for way, found in zip(ways, accounts.ways, strict=True)
        ],
        "lanes": [
            {
                "capacity_bytes": lane.ring.capacity,
                "used_bytes": lane.ring.used(),
                "waiting_exchanges": lane.ring.written() - lane.ring.settled_records(),
                "answers": {str(status): count for status, count in lane.tally.answers().items()},
                "refusals": {str(status): count for status, count in lane.tally.refusals().items()},
            }
            for lane in lanes
        ],
        "connections": accounts.connections,
        "events_without_body": accounts.stripped,
        "answers_held": accounts.held,
        "answers_let_go_unsafe": accounts.late,
    }
