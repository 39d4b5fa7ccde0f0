"""Pages from threads: how many at once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from typing import Any

from deploy.kafka.ports import free_port
from streams import pages
from tests.inference.serving import eventually


def _status(port: int) -> int:
    """Ask; give the status, 0 where the connection is closed without an answer."""
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("GET", "/")
        return connection.getresponse().status
    except OSError:
        return 0
    finally:
        connection.close()


def test_no_more_than_so_many_are_served_at_once() -> None:
    """Each holds a thread: one too many is sent away, and comes in when another is done."""
    port, begun, end = free_port(), threading.Semaphore(0), threading.Event()

    def app(_environ: dict[str, Any], start: Callable[..., Any]) -> list[bytes]:
        begun.release()
        end.wait(60)
        start("200 OK", [("content-length", "0")])
        return []

    pages.serve("127.0.0.1", port, app, most=2)
    with ThreadPoolExecutor(2) as pool:
        served = [pool.submit(_status, port) for _ in range(2)]
        both = all(begun.acquire(timeout=60) for _ in served)
        refused = _status(port)
        end.set()
        found = [each.result() for each in served]
    eventually(lambda: _status(port) == 200, "a page again")

    assert both
    assert (refused, found) == (0, [200, 200])
