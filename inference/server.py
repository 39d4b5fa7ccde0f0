"""Runs REST and gRPC on one loop: uvicorn with uvloop and httptools, and a drain that lets requests in progress end.

On SIGTERM nothing is ready any more, so that load balancers look elsewhere, while what still arrives is answered; when
no request is in progress, or the grace is over, the process ends with code 0. Next: `inference/rest/app.py`.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import socket
import time
from types import FrameType
from typing import TYPE_CHECKING, Final

import threadpoolctl
import uvicorn
from prometheus_client.registry import Collector

from inference import heap
from inference.attendance import Attendance
from inference.certificate import Certificate
from inference.dataplane import DataPlane
from inference.inventory import Inventory
from inference.metrics import PredictorMetrics
from inference.repository import Repository
from inference.rest.app import application
from inference.settings import ServerSettings
from inference.shadows import Witness
from inference.siblings import Siblings
from inference.tracing import Tracing
from inference.visitors import Door
from streams.addresses import bound, shown
from streams.errors import MissingExtra
from streams.traces import begun

if TYPE_CHECKING:
    from inference.grpc.server import GrpcServer

log = logging.getLogger(__name__)

_COLLECT: Final = (5_000, 400, 20)
"""Objects that a search for cycles looks through, and how seldom it looks through older ones, too. All calls wait for
it, so the young are few (a millisecond), and models that were loaded since the start are looked through hardly ever."""
_SHOWN: Final = 20
_LOOK: Final = 10
"""Ticks, of a tenth of a second each."""


class PredictorServer(uvicorn.Server):
    """One process that serves a repository. `run()` blocks until a signal ends it."""

    def __init__(self, repository: Repository, settings: ServerSettings, siblings: Siblings | None = None) -> None:
        """Begin; with siblings, ports are shared with them, and must be named.

        Raises:
            BadCredentials: a certificate that cannot be used.
        """
        self._certificate = Certificate(settings.tls) if settings.tls else None
        metrics = PredictorMetrics(lambda: self._plane.batcher.in_progress)
        metrics.registry.register(Inventory(repository))
        self._plane = DataPlane(repository, metrics, settings, _one_native_thread, siblings)
        if settings.traces:
            self._plane.tracing = begun(Tracing)
        self._settings, self._siblings = settings, siblings
        self._asked: float | None = None
        self.lost = ""
        """Why it ended by itself, if it did."""
        self._grpc: GrpcServer | None = None
        self._door, self._attendance = Door(settings), Attendance()
        metrics.registry.register(self._attendance)
        self._attendance.add("http", self._door.count)
        config = uvicorn.Config(
            application(self._plane, settings),
            host=settings.host, port=settings.port, loop="uvloop", ws="none",
            http=self._door.protocol,  # type: ignore[arg-type] # uvicorn only calls it
            log_config=None, log_level="warning", access_log=False, server_header=False, lifespan="on",
            proxy_headers=False, timeout_keep_alive=settings.keep_alive_s,
            timeout_graceful_shutdown=max(1, round(settings.drain_s)),
        )  # fmt: skip
        super().__init__(config)

    def keep_shadows(self, witness: Witness, collector: Collector) -> None:
        """Tell somebody what shadow versions answer; what becomes of that is shown on the page. Before `run`."""
        self._plane.shadows.witness = witness
        self._plane.metrics.registry.register(collector)

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until a signal ends it."""
        if self._siblings is not None:
            sockets = [bound(self._settings.host, self._settings.port, shared=True)]
        super().run(sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, then say where."""
        if self._certificate is not None:
            self.config.ssl = self._certificate.http
        await super().startup(sockets)
        # What was loaded so far stays, and calls leave hardly any cycles: a search for some holds all calls up.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*_COLLECT)
        heap.keep_freed()
        self._door.open()
        if self._settings.grpc_port is not None:
            await self._start_grpc()
        if self._siblings is not None:
            await self._answer_siblings(self._siblings)
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        scheme = "http" if self._certificate is None else "https"
        log.info("predictor ready on %s://%s, models: %s", scheme, shown(host, port), _listed(self._plane.models()))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no more calls, let those in progress end, and stop."""
        if self._grpc is not None:
            await self._grpc.stop(self._left_s())
        await super().shutdown(sockets)
        self._door.close()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin the drain; a second signal ends it. Called by the interpreter in the main thread."""
        del frame
        if sig == signal.SIGINT and self._siblings is not None:
            # Ctrl-C reaches the parent, too, which then says so to all.
            return
        if self._asked is not None:
            self.should_exit = self.force_exit = True
            return
        self._asked = time.monotonic()
        self._plane.draining = True
        log.info("draining: %d requests in progress", self._plane.batcher.in_progress)

    async def on_tick(self, counter: int) -> bool:
        """End the drain when its time has come; uvicorn asks every tenth of a second."""
        if counter % _LOOK == 0 and self._certificate is not None:
            self._certificate.look()
        if counter % _LOOK == 0 and self._asked is None and (lost := self._plane.lost()):
            self.lost = lost
            log.error("ends, to be started anew: %s", lost)
            self.handle_exit(signal.SIGTERM, None)
        if self._asked is not None:
            waited = time.monotonic() - self._asked
            idle = self._plane.batcher.in_progress == 0 and waited >= self._settings.drain_delay_s
            self.should_exit = self.should_exit or idle or waited >= self._settings.drain_s
        return await super().on_tick(counter)

    async def _start_grpc(self) -> None:
        try:
            server = _grpc_server(self._plane, self._settings)
            tls = None if self._certificate is None else self._certificate.grpc
            port = await server.start(self._grpc_listener(), tls)
        except (MissingExtra, OSError) as exc:
            if self._settings.grpc_required:
                raise
            log.warning("gRPC is not served: %s; --grpc_port chooses a port, --enable_grpc false ends this line", exc)
            return
        self._grpc = server
        self._attendance.add("grpc", server.connections)
        log.info("gRPC on %s", shown(self._settings.host, port))

    def _grpc_listener(self) -> socket.socket:
        host, port = self._settings.host, self._settings.grpc_port or 0
        try:
            return bound(host, port, shared=self._siblings is not None)
        except OSError as exc:
            raise OSError(f"cannot listen on {shown(host, port)}: {exc.strerror or exc}") from exc

    async def _answer_siblings(self, siblings: Siblings) -> None:
        siblings.socket.unlink(missing_ok=True)
        loop = asyncio.get_running_loop()
        config = self.config

        def protocol() -> asyncio.Protocol:
            made: asyncio.Protocol = config.http_protocol_class(  # type: ignore[call-arg] # as uvicorn itself does
                config=config, server_state=self.server_state, app_state=self.lifespan.state
            )
            return made

        self.servers.append(await loop.create_unix_server(protocol, str(siblings.socket)))

    def _left_s(self) -> float:
        waited = 0.0 if self._asked is None else time.monotonic() - self._asked
        return max(0.0, self._settings.drain_s - waited)


def _grpc_server(plane: DataPlane, settings: ServerSettings) -> GrpcServer:
    try:
        from inference.grpc.server import GrpcServer  # noqa: PLC0415 - whoever wants no gRPC needs none of it
    except ModuleNotFoundError as exc:
        if (exc.name or "").partition(".")[0] != "google":
            raise
        raise MissingExtra("gRPC", "inference", str(exc.name)) from exc
    return GrpcServer(plane, settings)


def _listed(models: list[str]) -> str:
    more = f" and {len(models) - _SHOWN} more" if len(models) > _SHOWN else ""
    return ", ".join(models[:_SHOWN]) + more


def _one_native_thread() -> None:
    """Keep BLAS and OpenMP from starting threads of their own under every prediction."""
    threadpoolctl.threadpool_limits(limits=1)
