"""How many connections there may be over HTTP, and how long one may say nothing."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from http import HTTPStatus
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib.parse import urlsplit

import orjson
import pytest
import uvloop

from inference.visitors import Visitor
from tests.inference.serving import ECHO, Server, eventually, predictor
from tests.inference.visiting import hosted

_WHAT = b"GET /v2 HTTP/1.1\r\nhost: x\r\n\r\n"
_FULL = {"error": "too many connections; retry later"}


@pytest.fixture(name="server", scope="module")
def _server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Serve two connections at a time."""
    folder = tmp_path_factory.mktemp("full")
    (folder / "model").mkdir()
    with predictor(folder / "model", folder, "--runtime", ECHO, "--max-connections", "2") as server:
        yield server


@contextmanager
def _connection(server: Server) -> Iterator[socket.socket]:
    address = urlsplit(server.url)
    with socket.create_connection((address.hostname, address.port), timeout=30) as connection:
        yield connection


def _all(connection: socket.socket) -> bytes:
    return b"".join(iter(lambda: connection.recv(65_536), b""))


def _served(connection: socket.socket) -> bool:
    """Ask, and tell whether there was an answer other than that there is no room."""
    try:
        return bool(_got(connection, "/v2"))
    except (ConnectionError, HTTPException):
        return False


def _got(connection: socket.socket, path: str) -> str:
    """Ask for a page; give it, or nothing if that is refused."""
    connection.sendall(f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
    with closing(HTTPResponse(connection)) as answer:
        answer.begin()
        page = answer.read().decode()
        return page if answer.status == HTTPStatus.OK else ""


def _counted(connection: socket.socket) -> list[float]:
    """Give how many connections there are, and how many were refused."""
    page = _got(connection, "/metrics")
    names = ("connections", "connections_refused_total")
    found = [re.search(rf'^sidelight_predictor_{name}{{protocol="http"}} (.+)$', page, re.MULTILINE) for name in names]
    return [float(each[1]) for each in found if each is not None]


def _let_in(stack: ExitStack, server: Server) -> socket.socket:
    """Connect, until there is room."""
    found: list[socket.socket] = []

    def tried() -> bool:
        found.append(stack.enter_context(_connection(server)))
        return _served(found[-1])

    eventually(tried, "room")
    return found[-1]


def _anew(server: Server) -> bool:
    with _connection(server) as connection:
        return _served(connection)


def test_one_more_is_told_and_sent_away(server: Server) -> None:
    """It hears 503 and when to come again, whether it asks or not; the others are served, and there is room again."""
    with ExitStack() as stack:
        one, two = (_let_in(stack, server) for _ in range(2))
        before = _counted(one)
        asking, silent = (stack.enter_context(_connection(server)) for _ in range(2))
        asking.sendall(_WHAT)
        told = [_all(asking), _all(silent)]
        served = [_served(one), _served(two)]
        after = _counted(one)
    eventually(lambda: _anew(server), "there is room again")

    assert served == [True] * 2
    assert (before[0], after) == (2.0, [2.0, before[1] + 2])
    for answer in told:
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 503 ")
        assert {b"retry-after: 1", b"connection: close"} <= set(head.split(b"\r\n"))
        assert orjson.loads(body) == _FULL


def test_a_crowd_is_cut(server: Server) -> None:
    """Hundreds at once are not all told: what is beyond costs hardly anything, and harms nobody who is in."""
    with ExitStack() as stack:
        one, two = (_let_in(stack, server) for _ in range(2))
        crowd = [stack.enter_context(_connection(server)) for _ in range(400)]
        served = [_served(one), _served(two)]
        told = [_ending(each) for each in crowd]
    eventually(lambda: _anew(server), "there is room again")

    assert served == [True, True]
    assert 0 < sum(told) < len(crowd)


def _ending(connection: socket.socket) -> bool:
    """Tell whether a connection is told anything before its end."""
    try:
        return bool(_all(connection))
    except ConnectionError:
        return False


def test_who_never_asks_is_sent_away(tmp_path: Path) -> None:
    """A connection on which nothing ever comes is closed as one that is idle between requests is."""
    (tmp_path / "model").mkdir()
    words = ("--runtime", ECHO, "--timeout_keep_alive", "1")
    with predictor(tmp_path / "model", tmp_path, *words) as server, _connection(server) as connection:
        assert _all(connection) == b""


def _slow(visitor: Visitor) -> bool:
    """Tell whether a part of a head has come."""
    return visitor.timeout_keep_alive_task is None and bool(visitor.headers)


_BEGUN = b"GET / HTTP/1.1\r\nhost: x\r\nx-slow: "


@pytest.mark.parametrize("before", [0, 1, 2])
def test_a_head_that_does_not_end_is_given_up(before: int) -> None:
    """Be it of the first request or of a later one: 408, twenty seconds after it was first seen."""

    async def run() -> tuple[int, bytes]:
        async with hosted() as (door, reader, writer):
            for _ in range(before):
                writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
                await reader.readuntil(b"ok")
            writer.write(_BEGUN)
            while not (found := [each for each in door.visitors if _slow(each)]):  # noqa: ASYNC110 - uvicorn tells nobody
                await asyncio.sleep(0)
            (visitor,) = found
            now = asyncio.get_running_loop().time()
            for passed in (0.0, 10.0, 20.0):
                visitor.sweep(now + passed, 5.0, 60.0)
            kept = not visitor.transport.is_closing()
            visitor.sweep(now + 20.1, 5.0, 60.0)
            return kept, await reader.read()

    kept, told = asyncio.run(run())

    assert kept
    assert told.startswith(b"HTTP/1.1 408 ")
    assert b"no whole head within 20 s" in told


@pytest.mark.parametrize("before", [0, 1])
@pytest.mark.parametrize("endless", [b"x-long: ", b"x: y\r\n", b""])
def test_a_head_without_an_end_is_refused(before: int, endless: bytes) -> None:
    """Be it one field, many, or the path itself: 431, before it fills the memory."""

    async def run() -> bytes:
        async with hosted() as (_, reader, writer):
            for _ in range(before):
                writer.write(_ASKED)
                await reader.readuntil(b"ok")
            # Not a byte more than is borne: what is not read when a connection closes may cost its client the answer.
            head = b"GET /" + (b" HTTP/1.1\r\n" + endless * 20_000 if endless else b"x" * 70_000)
            for at in range(0, 65_537, 4_096):
                writer.write(head[at : min(at + 4_096, 65_537)])
                await asyncio.sleep(0)
            return await reader.read()

    told = asyncio.run(run())

    assert told.startswith(b"HTTP/1.1 431 ")
    assert b"no whole head within 65536 bytes" in told


@pytest.mark.parametrize(
    ("begun", "endless"), [(b"0\r\nx-long: ", b"x"), (b"0\r\n", b"x: y\r\n"), (b"3;extension=", b"x")]
)
def test_fields_behind_a_body_without_an_end_are_refused(begun: bytes, endless: bytes) -> None:
    """As those before it: 431, before they fill the memory."""

    async def run() -> bytes:
        async with hosted() as (_, reader, writer):
            writer.write(_IN_CHUNKS)
            await reader.readuntil(b" 100 Continue\r\n\r\n")
            # Not a byte more than is borne, as above.
            fields = (begun + endless * 65_537)[:65_537]
            for at in range(0, 65_537, 4_096):
                writer.write(fields[at : at + 4_096])
                await asyncio.sleep(0)
            return await reader.read()

    told = asyncio.run(run())

    assert told.startswith(b"HTTP/1.1 431 ")
    assert b"65536 bytes after a part of a body, and no other part or end" in told


def test_chunks_and_fields_behind_them_are_read() -> None:
    """However small the chunks, and in however many pieces; and the connection goes on."""

    async def run() -> list[bytes]:
        async with hosted() as (_, reader, writer):
            answers = []
            for _ in range(2):
                writer.write(_IN_CHUNKS)
                await reader.readuntil(b" 100 Continue\r\n\r\n")
                for _ in range(100):
                    for piece in (b"1;extension=" + b"x" * 1_000, b"\r\n", b"y\r\n"):
                        writer.write(piece)
                        await asyncio.sleep(0)
                writer.write(b"0\r\nx: y\r\n\r\n")
                answers.append(await reader.readuntil(b"y" * 100))
            return answers

    assert [answer.startswith(b"HTTP/1.1 200 ") for answer in asyncio.run(run())] == [True, True]


def test_a_long_head_is_read() -> None:
    """As long as one is needed, in however many pieces."""

    async def run() -> bytes:
        async with hosted() as (_, reader, writer):
            writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n")
            for _ in range(50):
                writer.write(b"x: " + b"y" * 1_000 + b"\r\n")
                await asyncio.sleep(0)
            writer.write(b"\r\n")
            return await reader.readuntil(b"\r\n")

    assert asyncio.run(run()).startswith(b"HTTP/1.1 200 ")


_IN_CHUNKS = b"POST /echo HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ntransfer-encoding: chunked\r\n\r\n"
_ASKED = b"GET /x HTTP/1.1\r\nhost: x\r\n\r\n"


@pytest.mark.parametrize(
    ("before", "begun", "gives_way"),
    [(b"", b"", True), (_ASKED, b"", True), (b"", _BEGUN, False), (_ASKED, _BEGUN, False)],
)
def test_who_has_been_idle_gives_way(before: bytes, begun: bytes, *, gives_way: bool) -> None:
    """A gateway's idle connections keep out nobody, a probe least of all; one on which a request comes is no such."""

    async def run() -> tuple[bytes, bool]:
        async with hosted(connections=1) as (door, reader, writer):
            writer.write(before)
            if before:
                await reader.readuntil(b"ok")
            while not door.visitors:  # noqa: ASYNC110 - uvicorn tells nobody
                await asyncio.sleep(0)
            (visitor,) = door.visitors
            visitor.sweep(asyncio.get_running_loop().time() - 10.0, 65.0, 60.0)
            writer.write(begun)
            while begun and not _slow(visitor):  # noqa: ASYNC110 - as above
                await asyncio.sleep(0)
            other, asking = await asyncio.open_connection(*writer.get_extra_info("peername"))
            asking.write(_ASKED)
            told = await other.readuntil(b"\r\n")
            asking.close()
            return told, visitor.transport.is_closing()

    told, closed = asyncio.run(run())

    assert (told.startswith(b"HTTP/1.1 200 "), closed) == (gives_way, gives_way)


@pytest.mark.parametrize(("size", "piece"), [(5, 5), (5_000, 1), (100_000, 7_000), (3_000_000, 3_000_000)])
def test_a_body_comes_whole_in_whatever_pieces(size: int, piece: int) -> None:
    """One that is there at once, one of many small pieces, and one of more than may wait."""
    body = bytes(range(256)) * (size // 256) + bytes(size % 256)
    pieces = [body[at : at + piece] for at in range(0, size, piece)]
    chunks = [b"%x\r\n%b\r\n" % (len(each), each) for each in pieces]
    head = b"POST /echo HTTP/1.1\r\nhost: x\r\n"

    async def run() -> list[bytes]:
        found = []
        async with hosted() as (_, reader, writer):
            writer.write(head + b"content-length: %d\r\n\r\n" % size + body)
            for chunk in [b"", head + b"transfer-encoding: chunked\r\n\r\n" + b"".join(chunks) + b"0\r\n\r\n"]:
                writer.write(chunk)
                await reader.readuntil(b"\r\n\r\n")
                found.append(await reader.readexactly(size))
        return found

    assert uvloop.run(run()) == [body, body]


def test_who_asks_in_time_is_served() -> None:
    """Between requests, however many looks there are, nothing ends a connection but uvicorn's own limit."""

    async def run() -> list[bytes]:
        found = []
        async with hosted() as (door, reader, writer):
            for turn in range(3):
                writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
                found.append((await reader.readuntil(b"ok"))[:12])
                for visitor in door.visitors:
                    visitor.sweep(1_000.0 * turn, 5.0, 60.0)
        return found

    assert asyncio.run(run()) == [b"HTTP/1.1 200"] * 3
