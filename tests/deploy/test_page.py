"""The page of a stage's process, whoever asks for it."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.client import HTTPConnection

import pytest

from deploy.kafka.ports import free_port
from tests.inference.serving import ROOT, eventually
from tests.streams.test_addresses import has_ipv6

_SERVING = """
import sys
from prometheus_client import CollectorRegistry
from deploy import page
page.serve(sys.argv[2], int(sys.argv[1]), CollectorRegistry(), lambda: "", lambda: "starting")
sys.stdin.read()
"""


@pytest.fixture(name="port")
def _port() -> Iterator[int]:
    """Give the port of a page."""
    with serving("127.0.0.1") as port:
        yield port


@contextmanager
def serving(host: str, *asked: str) -> Iterator[int]:
    """Run a page in a process of its own; give its port once it answers at the addresses asked."""
    port = free_port()
    command = [sys.executable, "-c", _SERVING, str(port), host]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        for address in asked or (host,):
            answers = partial(status, port, "/healthz", address)
            eventually(lambda answers=answers: answers() == 200 or process.poll() is not None, f"the page at {address}")  # type: ignore[misc]
        yield port
        _, said = process.communicate(timeout=30)

    assert said == ""


def status(port: int, path: str, host: str = "127.0.0.1") -> int:
    """Ask for a path; give the status, 0 as long as nobody answers."""
    connection = HTTPConnection(host, port, timeout=10)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except OSError:
        return 0
    finally:
        connection.close()


def test_a_client_that_says_nothing_is_let_go(port: int) -> None:
    """Whoever connects and asks for nothing holds no thread for ever, nor fills the log; others are answered."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as silent:
        assert status(port, "/readyz") == 503
        assert silent.recv(1) == b""
    assert status(port, "/metrics") == 200


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
@pytest.mark.parametrize(
    ("host", "asked"), [("::1", ("::1",)), ("[::1]", ("::1",)), ("::", ("::1", "127.0.0.1"))], ids=["one", "url", "all"]
)
def test_the_page_is_where_it_was_told(host: str, asked: tuple[str, ...]) -> None:
    """At an IPv6 address, or at all addresses of both kinds."""
    with serving(host, *asked) as port:
        found = [status(port, "/metrics", address) for address in asked]

    assert found == [200] * len(asked)
