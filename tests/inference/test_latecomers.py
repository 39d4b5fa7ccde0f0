"""Connections over HTTP that find no room, and what they are answered all the same."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from http import HTTPStatus
from http.client import HTTPResponse
from urllib.parse import urlsplit

import pytest

from tests.inference.serving import DEADLINE_S, ECHO, Server, eventually, predictor

_PROBES = [
    "/",
    "/v2/health/live",
    "/v2/health/ready",
    "/v1/models/m",
    "/v2/models/m/ready",
    "/v2/models/m/versions/1/ready",
]
_OTHERS = ["/metrics", "/v2", "/v1/models", "/v2/models/m", "/v2/health/live/more", "/v1/models/m:predict", "/?x"]


@pytest.fixture(name="full", scope="module")
def _full(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Serve one connection at a time, which is taken: half of a request is on it."""
    folder = tmp_path_factory.mktemp("full")
    (folder / "model").mkdir()
    words = ("--runtime", ECHO, "--max-connections", "1", "--body-timeout", "600")
    with predictor(folder / "model", folder, *words) as server, _connection(server) as taken:
        taken.sendall(b"POST /v1/models/m:predict HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
        eventually(lambda: _asked(server, "/v2") == HTTPStatus.SERVICE_UNAVAILABLE, "it is full")
        yield server


@contextmanager
def _connection(server: Server) -> Iterator[socket.socket]:
    address = urlsplit(server.url)
    with socket.create_connection((address.hostname, address.port), timeout=DEADLINE_S) as connection:
        yield connection


def _head(path: str, method: str = "GET") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode()


def _answered(connection: socket.socket) -> int:
    """Read an answer, and see the connection end after it; give the status."""
    with closing(HTTPResponse(connection)) as answer:
        answer.begin()
        answer.read()
    assert connection.recv(1) == b""
    return answer.status


def _asked(server: Server, path: str) -> int:
    with _connection(server) as connection:
        connection.sendall(_head(path))
        return _answered(connection)


@pytest.mark.parametrize("path", _PROBES)
def test_probes_are_answered_when_all_places_are_taken(full: Server, path: str) -> None:
    """Each on a connection that ends with it; a kubelet would restart a process that is merely busy."""
    assert _asked(full, path) == HTTPStatus.OK


def test_a_probe_says_what_is_not_ready(full: Server) -> None:
    """It is answered by those who know, and not with a word of its own."""
    assert _asked(full, "/v1/models/absent") == HTTPStatus.NOT_FOUND


@pytest.mark.parametrize("path", _OTHERS)
def test_nothing_else_is_answered(full: Server, path: str) -> None:
    """There is no room for it."""
    assert _asked(full, path) == HTTPStatus.SERVICE_UNAVAILABLE


def test_a_probe_may_come_in_pieces(full: Server) -> None:
    """Wherever it is cut."""
    head = _head("/v2/health/live")
    with _connection(full) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(len(head)):
            connection.sendall(head[at : at + 1])

        assert _answered(connection) == HTTPStatus.OK


def test_behind_a_probe_nothing_gets_in(full: Server) -> None:
    """What comes on its connection after it is not answered."""
    with _connection(full) as connection:
        connection.sendall(_head("/v2/health/live") + _head("/metrics"))

        assert _answered(connection) == HTTPStatus.OK


def test_a_probe_s_head_is_bounded(full: Server) -> None:
    """However it begins: who sends one without an end must not fill the memory."""
    with _connection(full) as connection:
        try:
            connection.sendall(_head("/v2/health/live")[:-2] + b"x: %s\r\n\r\n" % (b"x" * 100_000))
            answer = connection.recv(1)
        except ConnectionError:
            answer = b""

    assert answer == b""
    assert _asked(full, "/v2/health/live") == HTTPStatus.OK


def test_a_probe_finds_its_way_through_a_crowd(full: Server) -> None:
    """Of those who came and do not ask, the first goes for it."""
    with ExitStack() as stack:
        for _ in range(600):
            stack.enter_context(_connection(full))

        assert _asked(full, "/v2/health/live") == HTTPStatus.OK
