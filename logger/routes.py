"""Which requests go elsewhere than straight to the model: readiness probes and what the batcher may join.

A proxy without either has no `Routes` at all, and pays nothing for them.
"""

from __future__ import annotations

from dataclasses import replace

from inference.http2.outlet import Turn
from logger.batching.likeness import batchable
from logger.heads import RequestHead
from logger.readiness import Probe, Readiness
from logger.settings import ProxySettings
from logger.upstream import Pool

_PROBE = b"k-network-probe"


class Routes:
    """Chooses a pool of connections by a request's head.

    Args:
        model: connections to the model.
        probe: how readiness is found out; None leaves that to the model's own answer.
        batcher: the batcher's port on loopback, 0 for none; it takes bodies of at most `most` bytes.
    """

    def __init__(
        self, settings: ProxySettings, turn: Turn, model: Pool, probe: Probe | None, batcher: int, most: int
    ) -> None:
        self._settings, self._turn, self._model, self._most = settings, turn, model, most
        self._batcher = self._local(batcher) if batcher else None
        self._readiness = Readiness(probe) if probe is not None else None
        self._probes: Pool | None = None

    async def open(self) -> None:
        """Begin to answer probes."""
        if self._readiness is not None:
            self._probes = self._local(await self._readiness.listen())

    def close(self) -> None:
        """Let go of all connections."""
        for pool in (self._batcher, self._probes):
            if pool is not None:
                pool.close()
        if self._readiness is not None:
            self._readiness.close()

    def __call__(self, head: RequestHead) -> Pool:
        """Give the pool for a request."""
        if self._probes is not None and head.first.get(_PROBE) == b"queue" and head.method == b"GET":
            return self._probes
        if self._batcher is not None and batchable(head.method, head.target, head.first, self._most):
            return self._batcher
        return self._model

    def _local(self, port: int) -> Pool:
        return Pool(
            replace(
                self._settings, upstream_host="127.0.0.1", upstream_port=port, upstream_socket="", upstream_tls=None
            ),
            self._turn,
        )
