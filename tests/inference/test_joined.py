"""Heads of answers that go out with what follows them."""

from __future__ import annotations

import asyncio
from typing import cast

from inference.joined import Joined

HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n"


class Wire:
    """A transport that keeps what it is given, and what is done with it."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        """Keep it."""
        self.sent.append(data)

    def write_eof(self) -> None:
        """Keep that it ended."""
        self.sent.append(b"")

    def close(self) -> None:
        """Close."""
        self.closed = True

    def is_closing(self) -> bool:
        """Tell whether it is closed."""
        return self.closed

    def get_write_buffer_size(self) -> int:
        """Give what nobody but the transport knows."""
        return 7


def _made() -> tuple[Wire, Joined]:
    wire = Wire()
    return wire, Joined(cast("asyncio.Transport", wire), asyncio.get_running_loop())


def test_an_answer_is_one_piece() -> None:
    """Head and body are one write, answer after answer, and nothing is sent twice at the end of the turn."""

    async def main() -> None:
        wire, joined = _made()
        for _ in range(2):
            joined.write(HEAD)
            joined.write(b"body")
        await asyncio.sleep(0)

        assert wire.sent == [HEAD + b"body"] * 2

    asyncio.run(main())


def test_a_head_by_itself_goes_out_in_its_turn() -> None:
    """A stream's head does not wait for the first piece, however late that comes."""

    async def main() -> None:
        wire, joined = _made()
        joined.write(HEAD)
        await asyncio.sleep(0)
        assert wire.sent == [HEAD]
        joined.write(b"piece")
        joined.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        joined.write(HEAD)
        joined.write(b"body")

        assert wire.sent[1:] == [b"piece", b"HTTP/1.1 100 Continue\r\n\r\n" + HEAD, b"body"]

    asyncio.run(main())


def test_nothing_is_left_behind() -> None:
    """What waits goes out before the end or the close; on a closed connection it goes nowhere."""

    async def main() -> None:
        ended, joined = _made()
        joined.write(HEAD)
        joined.write_eof()
        assert ended.sent == [HEAD, b""]

        closed, joined = _made()
        joined.write(HEAD)
        joined.close()
        assert closed.sent == [HEAD]

        gone, joined = _made()
        joined.write(HEAD)
        gone.closed = True
        await asyncio.sleep(0)
        assert gone.sent == []

    asyncio.run(main())


def test_long_bodies_are_not_copied() -> None:
    """They follow their head as they are."""

    async def main() -> None:
        wire, joined = _made()
        body = bytes(1 << 20)
        joined.write(HEAD)
        joined.write(body)

        assert wire.sent == [HEAD, body]
        assert wire.sent[1] is body
        assert joined.get_write_buffer_size() == 7

    asyncio.run(main())
