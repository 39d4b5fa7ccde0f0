"""Runs REST and gRPC on one loop: uvicorn with uvloop and httptools, and a drain that lets requests in progress end.

On SIGTERM nothing is ready any more, so that load balancers look elsewhere, while what still arrives is answered; when
no request is in progress, or the grace is over, the process ends with code 0. Next: `inference/rest/app.py`.
"""

from __future__ import annotations

import gc
import logging
import socket
import time
from types import FrameType
from typing import TYPE_CHECKING, Final

import threadpoolctl
import uvicorn

from inference.dataplane import DataPlane
from inference.metrics import PredictorMetrics
from inference.repository import Repository
from inference.rest.app import application
from inference.settings import ServerSettings
from streams.errors import MissingExtra

if TYPE_CHECKING:
    from inference.grpc.server import GrpcServer

log = logging.getLogger(__name__)

_COLLECT: Final = (50_000, 20, 100)


class PredictorServer(uvicorn.Server):
    """One process that serves a repository. `run()` blocks until a signal ends it."""

    def __init__(self, repository: Repository, settings: ServerSettings) -> None:
        metrics = PredictorMetrics(lambda: self._plane.batcher.in_progress)
        self._plane = DataPlane(repository, metrics, settings, enter=_one_native_thread)
        self._settings = settings
        self._asked: float | None = None
        self._grpc: GrpcServer | None = None
        config = uvicorn.Config(
            application(self._plane, settings),
            host=settings.host, port=settings.port, loop="uvloop", http="httptools", ws="none",
            log_config=None, log_level="warning", access_log=False, server_header=False, lifespan="on",
            timeout_keep_alive=settings.keep_alive_s, timeout_graceful_shutdown=max(1, round(settings.drain_s)),
        )  # fmt: skip
        super().__init__(config)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, then say where."""
        await super().startup(sockets)
        # What was loaded so far stays, and calls leave hardly any cycles: a search for some holds all calls up.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*_COLLECT)
        if self._settings.grpc_port is not None:
            await self._start_grpc()
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        log.info("predictor ready on http://%s:%d, models: %s", host, port, ", ".join(self._plane.models()))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no more calls, let those in progress end, and stop."""
        if self._grpc is not None:
            await self._grpc.stop(self._left_s())
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin the drain; a second signal ends it. Called by the interpreter in the main thread."""
        del sig, frame
        if self._asked is not None:
            self.should_exit = self.force_exit = True
            return
        self._asked = time.monotonic()
        self._plane.draining = True
        log.info("draining: %d requests in progress", self._plane.batcher.in_progress)

    async def on_tick(self, counter: int) -> bool:
        """End the drain when its time has come; uvicorn asks every tenth of a second."""
        if self._asked is not None:
            waited = time.monotonic() - self._asked
            idle = self._plane.batcher.in_progress == 0 and waited >= self._settings.drain_delay_s
            self.should_exit = self.should_exit or idle or waited >= self._settings.drain_s
        return await super().on_tick(counter)

    async def _start_grpc(self) -> None:
        try:
            server = _grpc_server(self._plane, self._settings)
            port = await server.start()
        except (MissingExtra, OSError) as exc:
            if self._settings.grpc_required:
                raise
            log.warning("gRPC is not served: %s; --grpc_port chooses a port, --enable_grpc false ends this line", exc)
            return
        self._grpc = server
        log.info("gRPC on %s:%d", self._settings.host, port)

    def _left_s(self) -> float:
        waited = 0.0 if self._asked is None else time.monotonic() - self._asked
        return max(0.0, self._settings.drain_s - waited)


def _grpc_server(plane: DataPlane, settings: ServerSettings) -> GrpcServer:
    try:
        from inference.grpc.server import GrpcServer  # noqa: PLC0415 - whoever wants no gRPC needs none of it
    except ModuleNotFoundError as exc:
        if (exc.name or "").partition(".")[0] not in {"google", "grpc"}:
            raise
        raise MissingExtra("gRPC", "inference", str(exc.name)) from exc
    return GrpcServer(plane, settings)


def _one_native_thread() -> None:
    """Keep BLAS and OpenMP from starting threads of their own under every prediction."""
    threadpoolctl.threadpool_limits(limits=1)
