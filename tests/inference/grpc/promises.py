"""What holds for every HTTP/2 connection that a client of the predictor may make; see `tests/logger/promises.py`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass

from hypothesis import given

from inference.grpc.assembly import Assembly
from inference.grpc.connection import Connection, Host
from inference.grpc.methods import Asked, of_service
from inference.protocol.grpc_messages import SERVICE
from inference.settings import ServerSettings
from logger.grpc.methods import INFER, STREAM
from tests.logger.grpc import drafts
from tests.logger.grpc.drafts import Draft, Stream
from tests.logger.grpc.promises import check_frames
from tests.logger.grpc.wires import Heard, driven


@given(drafts.streams())
def legal_calls_are_answered(stream: Stream) -> None:
    """However cut, padded and mixed, and however little room there is: each call has its own answer, whole."""
    outcome = play(stream, listen=True)

    assert not outcome.fault, outcome.fault
    assert not outcome.left
    for number, draft in enumerate(stream.drafts):
        heard = outcome.heard[2 * number + 1]
        status, body = expected(draft)

        assert heard.ended
        assert (dict([*heard.fields, *heard.trailers])[b"grpc-status"], heard.body) == (status, body)


@given(drafts.damaged())
def damaged_calls_end_here(stream: Stream) -> None:
    """Whatever comes in, what goes out is HTTP/2, and with the connection everything ends."""
    outcome = play(stream, listen=False)

    assert not outcome.left
    check_frames(outcome.output)


PROMISES = (legal_calls_are_answered, damaged_calls_end_here)


@dataclass
class Outcome:
    """What came of a stream of bytes."""

    output: bytes
    heard: dict[int, Heard]
    left: tuple[int, ...]
    """What was still there when everything was over."""
    fault: str
    """What the client could not read."""


def expected(draft: Draft) -> tuple[bytes, bytes]:
    """Give status and content of the answer to a call."""
    count = len(Assembly(-1).add(draft.body))
    if draft.path == STREAM.encode():
        return b"0", draft.body
    return (b"0", draft.body) if draft.path == INFER.encode() and count == 1 else (b"12", b"")


async def _echo(data: bytes, _asked: Asked) -> bytes:
    return data


async def _talk(messages: AsyncIterator[bytes], _asked: Asked) -> AsyncGenerator[bytes, None]:
    async for data in messages:
        yield data


def play(stream: Stream, *, listen: bool) -> Outcome:
    """Send a stream to a server and wait until nothing happens any more; `listen` when its client can read answers."""

    async def main() -> Outcome:
        host = Host(
            methods=of_service(SERVICE, {"ModelInfer": _echo}, {"ModelStreamInfer": _talk}),
            settings=ServerSettings(), loop=asyncio.get_running_loop(), waiting=lambda: 0,
        )  # fmt: skip
        connection = Connection(host)
        talk = await driven(connection, stream, listen=listen)
        running = len(connection._calls) if listen else 0
        connection.connection_lost(None)
        await asyncio.sleep(0)
        left = _nothing(running, len(connection._calls), host.held)
        return Outcome(b"".join(talk.output), talk.heard, left, "".join(talk.faults))

    return asyncio.run(main())


def _nothing(*counts: int) -> tuple[int, ...]:
    return counts if any(counts) else ()
