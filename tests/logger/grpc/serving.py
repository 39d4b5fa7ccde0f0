"""A proxy on its own thread and loop, as in production, between grpcio's client and grpcio's server."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import uvloop

from deploy.kafka.ports import free_port
from logger.grpc.methods import SERVICE
from logger.hold import Hold
from logger.lane import Lane
from logger.outbox import Outbox
from logger.proxy import Proxy
from logger.settings import OutboxSettings, ProxySettings
from logger.tap import Seen
from tests.inference.serving import eventually

Handlers = Mapping[str, Any]
"""By method: one of grpc's `*_rpc_method_handler`."""
BIG = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


@dataclass
class Bench:
    """A running proxy, and what it handed to the outbox."""

    port: int
    proxy: Proxy
    stopping: asyncio.Event
    loop: asyncio.AbstractEventLoop
    thread: threading.Thread
    seen: list[Seen] = field(default_factory=list)

    def channel(self, *options: tuple[str, Any]) -> grpc.Channel:
        """Give a channel with a connection of its own."""
        return grpc.insecure_channel(
            f"127.0.0.1:{self.port}", options=[*BIG, ("grpc.use_local_subchannel_pool", 1), *options]
        )

    def wait_for(self, calls: int) -> list[Seen]:
        """Wait until so many calls were logged; give them."""
        eventually(lambda: len(self.seen) >= calls, f"{calls} logged calls")
        return self.seen

    def stop(self) -> None:
        """Begin to stop."""
        self.loop.call_soon_threadsafe(self.stopping.set)

    def listens(self) -> bool:
        """Tell whether the port is open."""
        try:
            socket.create_connection(("127.0.0.1", self.port), 60).close()
        except OSError:
            return False
        return True


@contextmanager
def model(handlers: Handlers, port: int = 0) -> Iterator[int]:
    """Serve methods of the inference service with grpcio; give the port."""
    server = grpc.server(ThreadPoolExecutor(32), options=BIG)
    server.add_generic_rpc_handlers((
        grpc.method_handlers_generic_handler(SERVICE.strip("/"), dict(handlers)),
    ))  # fmt: skip
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    try:
        yield port
    finally:
        server.stop(None).wait(60)


@contextmanager
def proxy(upstream: int, **settings: Any) -> Iterator[Bench]:  # noqa: ANN401 - settings of several types
    """Run a proxy in front of a port."""
    loop = uvloop.new_event_loop()
    seen: list[Seen] = []
    capture, hold_s = settings.pop("capture", 1 << 20), settings.pop("hold_s", 0.0)
    lane = Lane(1 << 20)
    found = ProxySettings(**{
        "host": "127.0.0.1", "port": free_port(), "upstream_port": upstream, "drain_s": 10.0, **settings,
    })  # fmt: skip

    def offer(exchange: Seen) -> bool:
        seen.append(exchange)
        return True

    made: list[tuple[Proxy, asyncio.Event]] = []
    ready = threading.Event()

    async def serve() -> None:
        stopping = asyncio.Event()
        made.append((Proxy(found, capture, offer, lane.tally), stopping))
        if hold_s:
            made[0][0].hold = Hold(lane, Outbox(lane, OutboxSettings(), 2), hold_s)
        await made[0][0].serve(stopping, ready.set)

    def run() -> None:
        loop.run_until_complete(serve())
        loop.close()

    thread = threading.Thread(target=run)
    thread.start()
    assert ready.wait(60)
    bench = Bench(found.port, *made[0], loop, thread, seen)
    try:
        yield bench
    finally:
        if thread.is_alive():
            bench.stop()
        thread.join(60)
        assert not thread.is_alive()


@contextmanager
def between(handlers: Handlers, **settings: Any) -> Iterator[tuple[Bench, grpc.Channel]]:  # noqa: ANN401 - as above
    """Run a model, a proxy in front of it, and a client's channel."""
    with ExitStack() as stack:
        bench = stack.enter_context(proxy(stack.enter_context(model(handlers)), **settings))
        yield bench, stack.enter_context(bench.channel())


def unary(answer: Callable[[bytes, grpc.ServicerContext], bytes]) -> grpc.RpcMethodHandler:
    """Give a handler for one message each way."""
    return grpc.unary_unary_rpc_method_handler(answer)


def streaming(answer: Callable[[Iterator[bytes], grpc.ServicerContext], Iterator[bytes]]) -> grpc.RpcMethodHandler:
    """Give a handler for streams both ways."""
    return grpc.stream_stream_rpc_method_handler(answer)
