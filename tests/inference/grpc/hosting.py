"""Methods of a test's own, served in this process on a thread and loop of their own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import uvloop

from inference.grpc.call import Call
from inference.grpc.connection import Host
from inference.grpc.listener import Listener
from inference.grpc.methods import Asked, of_service
from inference.protocol.grpc_messages import SERVICE
from inference.settings import ServerSettings
from streams.addresses import bound
from tests.inference.serving import DEADLINE_S, eventually

CHECK = "/grpc.health.v1.Health/Check"
ECHO, WAIT, TALK, FLOOD, DEAF = (f"/{SERVICE}/{name}" for name in ("ModelInfer", "Wait", "Talk", "Flood", "Deaf"))


@dataclass(slots=True)
class Hosted:
    """A server that runs."""

    port: int
    host: Host
    loop: asyncio.AbstractEventLoop
    listener: Listener
    begun: int = 0
    """Calls of `Wait` that have begun, and those of them that were cancelled."""
    cancelled: int = 0
    asked: list[Asked] = field(default_factory=list)
    made: int = 0
    """Messages that `Flood` has made."""
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    async def echo(self, data: bytes, asked: Asked) -> bytes:
        """Give what came."""
        self.asked.append(asked)
        return data

    async def wait(self, data: bytes, _asked: Asked) -> bytes:
        """Give what came, once the gate is open."""
        self.begun += 1
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return data

    async def talk(self, messages: AsyncIterator[bytes], _asked: Asked) -> AsyncGenerator[bytes, None]:
        """Give each message as it comes."""
        async for data in messages:
            yield data

    async def flood(self, messages: AsyncIterator[bytes], _asked: Asked) -> AsyncGenerator[bytes, None]:
        """Give messages of 32 KiB for as long as anybody takes them."""
        async for _ in messages:
            break
        while True:
            self.made += 1
            yield b"z" * 32_768

    async def deaf(self, _messages: AsyncIterator[bytes], _asked: Asked) -> AsyncGenerator[bytes, None]:
        """Give one message, once the gate is open, without reading any."""
        await self.gate.wait()
        yield b""

    def open(self) -> None:
        """Let all go that wait."""
        self.loop.call_soon_threadsafe(self.gate.set)

    def stop(self, grace_s: float) -> None:
        """Begin to stop."""
        asyncio.run_coroutine_threadsafe(self.listener.stop(grace_s), self.loop)

    def busy(self) -> int:
        """Count the calls that run."""
        return len(self.calls())

    def calls(self) -> list[Call]:
        """Give the calls that run."""
        return [call for connection in list(self.host.connections) for call in list(connection._calls.values())]

    def sweep(self, now: float) -> None:
        """Look for who is late, as at another time."""

        async def sweep() -> None:
            for connection in list(self.host.connections):
                connection.sweep(now)

        asyncio.run_coroutine_threadsafe(sweep(), self.loop).result(DEADLINE_S)


@contextmanager
def hosted(**settings: Any) -> Iterator[Hosted]:  # noqa: ANN401 - settings of several types
    """Serve until the block ends."""
    loop = uvloop.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    found = replace(ServerSettings(), **settings)

    async def begin() -> Hosted:
        listener = Listener({}, found, lambda: 0)
        port = await listener.start(bound("127.0.0.1", 0, shared=False))
        made = Hosted(port, listener.host, loop, listener)
        listener.host.methods = of_service(
            SERVICE,
            {"ModelInfer": made.echo, "Wait": made.wait},
            {"Talk": made.talk, "Flood": made.flood, "Deaf": made.deaf},
        ) | of_service("grpc.health.v1.Health", {"Check": made.echo}, {})
        return made

    server = asyncio.run_coroutine_threadsafe(begin(), loop).result(DEADLINE_S)
    try:
        yield server
    finally:
        asyncio.run_coroutine_threadsafe(server.listener.stop(0), loop).result(DEADLINE_S)
        eventually(lambda: not server.host.connections, "all connections are closed")
        loop.call_soon_threadsafe(loop.stop)
        thread.join(DEADLINE_S)
        loop.close()
