"""Prometheus pages of several processes, added up; what does not answer, or with something else, adds nothing."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

from deploy import environment, scrape
from deploy.kafka.ports import free_port
from tests.deploy.serving import answering


def page(captured: int, dropped: dict[str, int]) -> bytes:
    """Make a page as our processes do."""
    registry = CollectorRegistry()
    Counter("captured", "Events.", registry=registry).inc(captured)
    gauge = Gauge("dropped", "Events.", ("reason", "service"), registry=registry)
    for reason, count in dropped.items():
        gauge.labels(reason, "a b\n").set(count)
    return generate_latest(registry)


def test_pages_add_up() -> None:
    """Two workers' numbers are one sum; labels choose and part; a name that nobody has is nothing."""
    with answering(page(3, {"full": 1})) as one, answering(page(4, {"full": 2, "late": 5})) as other:
        samples = scrape.read_all([one.url, f"http://127.0.0.1:{free_port()}", other.url])

    assert samples.total("captured_total") == 7
    assert samples.total("dropped") == 8
    assert samples.total("dropped", reason="full", service="a b\n") == 3
    assert samples.total("dropped", reason="full", service="other") == 0
    assert samples.by("dropped", "reason") == {"full": 3, "late": 5}
    assert samples.by("dropped", "nothing") == {"": 8}
    assert samples.by("nothing", "reason") == {}


@pytest.mark.parametrize(
    ("body", "status", "raw"),
    [
        (b"<html>no page of ours</html>", 200, b""),
        (b"\xff\xfe", 200, b""),
        (page(1, {}), 503, b""),
        (b"", 200, b"SSH-2.0-OpenSSH_9.2\r\n"),
        (b"", 200, b"HTTP/1.1 200 OK\r\ncontent-length: 90\r\n\r\ncaptured_total 1\n"),
    ],
)
def test_what_is_no_page_counts_as_silence(body: bytes, status: int, raw: bytes) -> None:
    """Another program on the port, an error, half an answer: no numbers, and no failure of the one who asks."""
    with answering(body, status, raw) as server:
        assert scrape.read(server.url) is None


def test_a_process_that_hangs_is_not_waited_for() -> None:
    """The kernel of a stopped process still takes connections; nobody answers on them."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert scrape.read(f"http://127.0.0.1:{server.getsockname()[1]}", timeout_s=0.1) is None


def test_a_proxy_is_not_asked() -> None:
    """Our processes are on loopback, where a company's proxy cannot reach them."""
    code = "import sys; from deploy import scrape; print(scrape.read(sys.argv[1]).total('captured_total'))"
    proxy = {"http_proxy": f"http://127.0.0.1:{free_port()}", "no_proxy": ""}
    with answering(page(3, {})) as server:
        command = (sys.executable, "-c", code, server.url)
        run = subprocess.run(command, env=environment.inherited() | proxy, capture_output=True, text=True, check=False)

    assert run.stdout == "3.0\n", run.stderr
