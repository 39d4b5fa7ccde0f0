"""The proxy's listener: what its connections share, their sweep for time-outs, and a stop that cuts off nobody.

`proxy` → `logger/connection.py` → `logger/exchange.py` → `logger/outbox.py` → shared memory → `logger/shipper.py` →
`logger/tap.py` → `logger/courier.py` → Kafka. The model's answer never waits for anything behind the outbox.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import secrets
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Final

from inference.http2.outlet import Turn
from logger.connection import SWEEP_S, Connection
from logger.grpc.front import Front
from logger.grpc.preface import Doorway
from logger.heads import RequestHead
from logger.hold import Hold
from logger.lane import CONNECTIONS, Tally
from logger.settings import ProxySettings
from logger.tap import Seen
from logger.upstream import Pool
from streams.addresses import bound

log = logging.getLogger(__name__)

_QUIET_S: Final = 0.5
"""How long an idle connection stays at a stop: its client may be sending just now."""
_BACKLOG: Final = 1_024


class Proxy:
    """Everything that the connections of one listener share."""

    def __init__(self, settings: ProxySettings, capture: int, offer: Callable[[Seen], bool], tally: Tally) -> None:
        self.settings, self.capture, self.offer, self.tally = settings, capture, offer, tally
        self.chosen: Callable[[bytes], bool] | None = None
        """Sampling, when somebody asks for it; set before `serve`."""
        self.hold: Hold | None = None
        """Audit mode, when somebody asks for it; set before `serve`."""
        self.traced = False
        """Whether calls that are logged are spans of their traces; set before `serve`."""
        self.turn = Turn()
        self.pool = Pool(settings, self.turn)
        self.connector = self.pool.connector
        self.route: Callable[[RequestHead], Pool] | None = None
        """Chooses another pool for some requests: `logger/routes.py`."""
        self.connections: set[Connection | Front] = set()
        self.addresses: Counter[str] = Counter()
        """Open connections by address, if there is a limit on them."""
        self.draining = False
        # A random start and a counter: unique over restarts and replicas, and far cheaper than a random id per request.
        self._prefix, self._count = f"{os.getpid():x}-{secrets.token_hex(6)}".encode(), itertools.count()

    def new_id(self) -> bytes:
        """Give a correlation id that nobody else has."""
        return b"%b-%x" % (self._prefix, next(self._count))

    async def serve(self, stopping: asyncio.Event, ready: Callable[[], None] = lambda: None) -> None:
        """Listen until `stopping`, and say when it has begun; then let running requests finish, within bounds."""
        loop = asyncio.get_running_loop()
        server = await self._listen(lambda: Doorway(Connection(self), partial(Front, self)))
        sweeper = loop.create_task(self._sweep())
        ready()
        await stopping.wait()
        self.draining = True
        for connection in list(self.connections):
            if isinstance(connection, Connection):
                connection.leaving = True
            else:
                connection.close_when_idle()
        # Whoever is in the queue of the socket would be cut off by its end: take them in first.
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        server.close()
        await self._drain(loop.time() + self.settings.drain_s)
        for connection in list(self.connections):
            connection.abort()
        sweeper.cancel()
        self.pool.close()
        # One turn of the loop for the connections' own goodbyes, which hand aborted exchanges to the outbox.
        await asyncio.sleep(0.05)

    async def _listen(self, door: Callable[[], Doorway]) -> asyncio.Server:
        loop, host, port = asyncio.get_running_loop(), self.settings.host, self.settings.port
        if ":" in host:
            # The loop would have `::` be IPv6 alone.
            return await loop.create_server(door, sock=bound(host, port, shared=True), backlog=_BACKLOG)
        return await loop.create_server(door, host, port, backlog=_BACKLOG, reuse_port=True)

    async def _drain(self, deadline: float) -> None:
        loop = asyncio.get_running_loop()
        quiet = loop.time() + _QUIET_S
        while self.connections and loop.time() < deadline:
            if loop.time() >= quiet:
                for connection in list(self.connections):
                    connection.close_when_idle()
            await asyncio.sleep(0.02)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            now = time.monotonic()
            self.tally.set(CONNECTIONS, len(self.connections))
            self.pool.sweep(now)
            for connection in list(self.connections):
                try:
                    connection.sweep(now)
                except Exception:
                    # One connection's trouble must not end the time-outs of all others.
                    log.exception("a connection could not be swept and is cut")
                    connection.abort()
