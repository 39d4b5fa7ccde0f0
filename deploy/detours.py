"""What stands between the proxies and the model when it is asked for: the batcher's process and the readiness probe."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from prometheus_client.registry import Collector

from deploy.sidecar import Child
from logger.batcher import Batcher
from logger.batching.settings import BatchSettings
from logger.batching.tally import BatchCollector, BatchTally
from logger.proxy import Proxy
from logger.readiness import Probe
from logger.routes import Routes
from logger.settings import ProxySettings

_BACKLOG = 1024


class Detours:
    """Made once, before the first fork: the batcher's port has to stay the same when its process is started again."""

    def __init__(self, settings: ProxySettings, batching: BatchSettings | None, probe: Probe | None) -> None:
        self._settings, self._batching, self._probe = settings, batching, probe
        self._tally = BatchTally()
        # The parent holds it, so proxies that connect while the batcher starts again wait instead of failing.
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=_BACKLOG) if batching else None

    def children(self) -> list[Child]:
        """Give the processes to run; they stop after the proxies."""
        if self._batching is None or self._listening is None:
            return []
        work = partial(_batch, self._settings, self._batching, self._listening, self._tally)
        return [Child("batcher", work, self._settings.drain_s + 10)]

    def collectors(self) -> tuple[Collector, ...]:
        """Give what the batcher shows on the Prometheus page."""
        return () if self._batching is None else (BatchCollector(self._tally),)

    @asynccontextmanager
    async def along(self, proxy: Proxy) -> AsyncIterator[None]:
        """Lead a proxy's requests where they belong, until the end of the block; without detours it is left alone."""
        if self._batching is None and self._probe is None:
            yield
            return
        port = self._listening.getsockname()[1] if self._listening is not None else 0
        most = self._batching.max_body if self._batching is not None else 0
        routes = Routes(self._settings, proxy.turn, proxy.pool, self._probe, port, most)
        await routes.open()
        proxy.route = routes
        try:
            yield
        finally:
            routes.close()


def _batch(settings: ProxySettings, batching: BatchSettings, listening: socket.socket, tally: BatchTally) -> int:
    import uvloop  # noqa: PLC0415 - each process loads what it alone needs

    async def serve() -> None:
        stopping = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
        await Batcher(batching, settings, tally).serve(listening, stopping)

    uvloop.run(serve())
    return 0
