"""A proxy on real sockets, on the loop that it has in production, between raw clients and a scripted model."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import uvloop

from deploy.kafka.ports import free_port
from logger.lane import Lane
from logger.proxy import Proxy
from logger.settings import ModelTls, ProxySettings
from logger.tap import Seen

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
PREDICT = b"POST /v1/models/m:predict HTTP/1.1\r\nHost: h\r\n"


@dataclass
class Bench:
    """A proxy in front of a model, and what it handed to the outbox."""

    port: int = 0
    proxy: Proxy = field(default_factory=lambda: Proxy(ProxySettings(), 0, lambda _seen: True, Lane(1 << 20).tally))
    seen: list[Seen] = field(default_factory=list)
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    serving: asyncio.Task[None] | None = None
    connected: int = 0
    """Connections that the model has had."""

    def offer(self, seen: Seen) -> bool:
        """Be the outbox."""
        self.seen.append(seen)
        return True

    def refused(self) -> dict[int, int]:
        """Give what the proxy refused, by status."""
        return self.proxy.tally.refusals()

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a client connection."""
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def exchange(self, *parts: bytes) -> bytes:
        """Send bytes, part by part, and read until the proxy closes."""
        reader, writer = await self.connect()
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0)
        answer = await asyncio.wait_for(reader.read(), 60)
        writer.close()
        return answer


def run(
    handler: Handler | None, test: Callable[[Bench], Awaitable[None]], *, tls: ssl.SSLContext | None = None,
    **settings: float | str | ModelTls,
) -> None:  # fmt: skip
    """Run a test against a proxy whose model answers by `handler`; None is a model that is not there.

    With `tls`, it is what the model proves with who it is.
    """

    async def main() -> None:
        bench = Bench()
        server, upstream = await _model(bench, handler, str(settings.get("upstream_socket", "")), tls)
        bench.port = free_port()
        bench.proxy = Proxy(
            ProxySettings(
                host="127.0.0.1", port=bench.port, upstream_port=upstream, **{"drain_s": 5.0, **settings},  # type: ignore[arg-type]
            ),
            1 << 20, bench.offer, Lane(1 << 20).tally,
        )  # fmt: skip
        listening = asyncio.Event()
        bench.serving = asyncio.create_task(bench.proxy.serve(bench.stopping, listening.set))
        await listening.wait()
        try:
            await asyncio.wait_for(test(bench), 150)
        finally:
            bench.stopping.set()
            await bench.serving
            server.close()

    uvloop.run(main())


async def _model(
    bench: Bench, handler: Handler | None, path: str, tls: ssl.SSLContext | None
) -> tuple[asyncio.Server, int]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        bench.connected += 1
        try:
            if handler is not None:
                await handler(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    if path:
        return await asyncio.start_unix_server(serve, path), 0
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    port: int = server.sockets[0].getsockname()[1]
    # The server's own would be anybody's once it is closed.
    return server, free_port() if handler is None else port


async def head_of(reader: asyncio.StreamReader) -> bytes:
    """Read a request's head."""
    return await reader.readuntil(b"\r\n\r\n")


def length_of(head: bytes) -> int:
    """Give the content length of a head."""
    return next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.startswith(b"content-length"))


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer every request with its own body, over one connection."""
    while True:
        head = await head_of(reader)
        body = await reader.readexactly(length_of(head))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        await writer.drain()


async def answer_of(reader: asyncio.StreamReader) -> bytes:
    """Read one whole answer that has a length."""
    head = await head_of(reader)
    return head + await reader.readexactly(length_of(head))


def request(body: bytes, *lines: bytes) -> bytes:
    """Write an inference request."""
    fields = b"".join(line + b"\r\n" for line in (b"Content-Length: %d" % len(body), *lines))
    return PREDICT + fields + b"\r\n" + body


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what has to come."""
    for _ in range(6_000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it never came")
