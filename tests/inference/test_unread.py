"""For how long answers may lie unread, and who goes when there are too many of them."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import uvloop

from inference.attendance import Count
from inference.unread import Unread, too_many
from inference.visitors import Door, Visitor
from tests.inference.visiting import LONG, hosted
from tests.secured import Authority


@dataclass(eq=False)
class Reading:
    """A client that is answered."""

    unread: Unread = field(default_factory=Unread)


def _left(since: float, left: int) -> Reading:
    made = Reading()
    made.unread.look(since, left, left)
    return made


def test_what_waits_is_as_old_as_its_oldest_byte() -> None:
    """Taking a little of it does not make it younger, and nor does what is sent meanwhile."""
    unread = Unread()
    looks = [(10.0, 0, 500), (11.0, 400, 900), (12.0, 399, 900), (15.0, 998, 1_500)]

    assert [unread.look(*look) for look in looks] == [0.0, 0.0, 1.0, 4.0]


def test_whoever_reads_on_is_never_late() -> None:
    """A stream without an end always has something waiting; once what waited was read, its age counts anew."""
    unread = Unread()
    ages = [unread.look(float(second), 100, 100 + 60 * second) for second in range(20)]

    assert max(ages) <= 2.0
    assert unread.look(20.0, 0, 1_300) == 0.0
    assert unread.look(90.0, 50, 1_350) == 0.0


def test_who_waits_longest_goes_first() -> None:
    """Until the others leave no more than they may."""
    first, second, third = _left(3.0, 60), _left(1.0, 50), _left(2.0, 40)
    done = _left(0.0, 0)

    assert list(too_many([first, second, done, third], 20.0, 150)) == []
    assert list(too_many([first, second, done, third], 20.0, 149)) == [second]
    assert list(too_many([first, second, done, third], 20.0, 99)) == [second, third]


def test_long_answers_that_are_being_read_are_spared() -> None:
    """However much it is, a client has some seconds for it."""
    late, early = _left(10.0, 1_000), _left(9.0, 1_000)

    assert list(too_many([late, early], 13.9, 10)) == []
    assert list(too_many([late, early], 14.5, 10)) == [early]


def _stuck(door: Door) -> set[Visitor]:
    """Give those who can be sent no more."""
    return {each for each in door.visitors if each.flow.write_paused}


async def _full(door: Door, writer: asyncio.StreamWriter, path: str) -> Visitor:
    """Ask for something, and read none of it; wait until the server can send no more."""
    before = _stuck(door)
    writer.write(f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
    while not (found := _stuck(door) - before):  # noqa: ASYNC110 - uvicorn tells nobody
        await asyncio.sleep(0)
    return found.pop()


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("path", ["/long", "/pieces"])
def test_an_answer_that_nobody_reads_is_given_up(path: str, tmp_path: Path, *, tls: bool) -> None:
    """Its memory and its place are free again, sixty seconds after it was first seen waiting; that is counted."""
    authority = Authority(tmp_path, "authority")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue("predictor"))
    contexts = (context, ssl.create_default_context(cafile=authority.file)) if tls else ()

    async def run() -> tuple[list[bool], Count]:
        async with hosted(*contexts) as (door, _, writer):
            visitor = await _full(door, writer, path)
            kept = []
            for now in (100.0, 130.0, 160.0, 160.1):
                door.sweep(now)
                kept.append(visitor in door.visitors)
            while visitor in visitor.connections:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0)
            return kept, door.count()

    kept, count = uvloop.run(run())

    assert kept == [True, True, True, False]
    assert count == Count(present=0, refused=0, unread=1)


def test_who_does_not_read_gives_no_way() -> None:
    """It is not idle: closed as such, it would lie there with what it has not read, and count no more."""

    async def run() -> tuple[float, float]:
        async with hosted() as (door, reader, writer):
            visitor = await _full(door, writer, "/long")
            visitor.sweep(100.0, 65.0, 60.0)
            unread = visitor.idle_s(110.0)
            await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(LONG)
            while visitor.transport.get_write_buffer_size():  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0)
            return unread, visitor.idle_s(110.0)

    assert uvloop.run(run()) == (0.0, 10.0)


def test_long_answers_that_lie_unread_are_bounded_together() -> None:
    """Beyond the bound the one that has waited longest goes, after a few seconds; the others stay."""

    async def run() -> tuple[list[bool], int]:
        async with hosted(queue_bytes=LONG) as (door, _, writer):
            first = await _full(door, writer, "/long")
            door.sweep(100.0)
            _, second_writer = await asyncio.open_connection(*writer.get_extra_info("peername"))
            second = await _full(door, second_writer, "/long")
            kept = []
            for now in (102.0, 106.0, 140.0):
                door.sweep(now)
                kept += [first in door.visitors, second in door.visitors]
            second_writer.close()
            return kept, door.unread

    assert uvloop.run(run()) == ([True, True, False, True, False, True], 1)
