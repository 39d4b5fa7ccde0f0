"""The page of a stage's process, whoever asks for it."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from http.client import HTTPConnection

import pytest

from deploy.kafka.ports import free_port
from tests.inference.serving import ROOT, eventually

_SERVING = """
import sys
from prometheus_client import CollectorRegistry
from deploy import page
page.serve("127.0.0.1", int(sys.argv[1]), CollectorRegistry(), lambda: "", lambda: "starting")
sys.stdin.read()
"""


@pytest.fixture(name="port")
def _port() -> Iterator[int]:
    """Give the port of a page in a process of its own."""
    port = free_port()
    command = [sys.executable, "-c", _SERVING, str(port)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        eventually(lambda: status(port, "/healthz") == 200 or process.poll() is not None, "the page")
        yield port
        _, said = process.communicate(timeout=30)

    assert said == ""


def status(port: int, path: str) -> int:
    """Ask for a path; give the status, 0 as long as nobody answers."""
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
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
