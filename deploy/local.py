"""A whole installation on this machine: broker, topics, and the plan's processes, kept running and drained in order."""

from __future__ import annotations

import fnmatch
import logging
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from deploy import environment, plan
from deploy.commands import kafka as kafka_command
from deploy.errors import UserError
from deploy.kafka import broker
from deploy.kafka.topics import ensure_topics
from deploy.lag import Lag, end_offsets
from deploy.manifests import ServiceManifest, load_monitors, load_services
from deploy.runfile import Process, Run, folder, running
from deploy.supervisor import Supervisor
from streams.credentials import KafkaSecurity
from streams.topics import Topics

log = logging.getLogger(__name__)

_READY_S: Final = 180.0
_FIRST_TO_STOP: Final = ("logger-*.transformer", "transformer-*", "logger-*", "explainer-*", "predictor-*")
"""In the calls' order, so that what is in progress gets its answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalSettings:
    """What `sidelight up` was asked for."""

    files: tuple[Path, ...]
    name: str = "local"
    kafka: str = ""
    """Bootstrap address of a broker that runs already; empty starts the embedded one."""
    data: Path | None = None
    """Folder of the embedded broker's data; None keeps one per run name."""
    java: str = ""
    prefix: str = "inference"
    partitions: int = 2
    workers: int = 1
    host: str = "native"
    port: int = 0
    drain_s: float = 20.0
    """How long a stop waits for the workers to finish what is in the topics."""
    volumes: dict[str, Path] = field(default_factory=dict)
    security: KafkaSecurity = field(default_factory=KafkaSecurity)
    """How `kafka` is reached."""
    kafka_flags: tuple[str, ...] = ()
    """The same as words for the processes."""
    logger_flags: tuple[str, ...] = ()
    assembler_flags: tuple[str, ...] = ()


class LocalRun:
    """One local installation. `start`, then `watch` again and again, then `drain`."""

    def __init__(self, settings: LocalSettings, say: Callable[[str], None]) -> None:
        self._settings, self._say = settings, say
        self._topics = Topics(settings.prefix)
        self._services = load_services(settings.files)
        self._monitors = load_monitors(settings.files)
        if not self._services:
            raise UserError(f"no InferenceService in {', '.join(map(str, settings.files))}")
        self._home = folder() / settings.name
        self._supervisor = Supervisor(self._home / "logs", environment.inherited() | {"OMP_NUM_THREADS": "1"})
        self._own_broker: Path | None = None
        self.run: Run | None = None

    def start(self) -> Run:
        """Bring everything up and wait until it is ready; on failure take down what had started."""
        for other in running():
            if other.name == self._settings.name:
                raise UserError(f"a run named {other.name!r} is already up (pid {other.pid}); choose another --name")
        self._announce(self._services)
        # Before a broker is started for nothing.
        for service in self._services:
            plan.model_directory(service, self._settings.volumes)
            if service.transformer is not None:
                plan.code_directory(service, service.transformer, self._settings.volumes)
        try:
            kafka = self._settings.kafka or self._start_broker()
            access = self._settings.security.properties()
            ensure_topics(kafka, self._topics.declared(self._settings.partitions), extra=access)
            before = end_offsets(kafka, self._topics.payloads, extra=access)
            made = self._plan(kafka)
            for program in made.programs:
                self._supervisor.start(program)
            for program in made.programs:
                self._supervisor.wait_ready(program.name, _READY_S)
                self._say(f"{program.name} is ready")
        except BaseException:
            self._supervisor.stop_all()
            self._stop_broker()
            raise
        self.run = Run(
            name=self._settings.name, pid=os.getpid(), kafka=kafka, prefix=self._settings.prefix,
            services=made.services, explainers=made.explainers, payloads_before=before,
            kafka_flags=self._settings.kafka_flags,
        )  # fmt: skip
        return self._write()

    def watch(self) -> None:
        """Look after the processes once."""
        if self._supervisor.watch():
            self._write()

    def drain(self) -> None:
        """Stop taking requests, let the workers finish what is in the topics, then stop everything else."""
        if self.run is None:
            return
        for names in _FIRST_TO_STOP:
            self._stop(names)
        self._await_lag("assembler", self._topics.payloads)
        self._stop("assembler-*")
        if self._monitors:
            self._await_lag("detectors", self._topics.observations)
            self._stop("detector-*")
        self._stop_broker()
        self.run.remove()
        self._say("drained")

    def _plan(self, kafka: str) -> plan.Plan:
        settings = plan.PlanSettings(
            kafka=kafka,
            topics=self._topics,
            files=tuple(path.absolute() for path in self._settings.files),
            monitored=frozenset(monitor.key for monitor in self._monitors),
            volumes=self._settings.volumes,
            workers=self._settings.workers,
            host=self._settings.host,
            port=self._settings.port,
            kafka_flags=self._settings.kafka_flags,
            logger_flags=self._settings.logger_flags,
            assembler_flags=self._settings.assembler_flags,
            spools=self._home / "spool",
        )
        return plan.make(self._services, settings, broker.free_port)

    def _announce(self, services: Sequence[ServiceManifest]) -> None:
        for service in services:
            if service.ignored:
                self._say(f"{service.path}: no effect on one machine: {', '.join(service.ignored)}")
        known = {f"{service.namespace}/{service.name}" for service in services}
        for monitor in self._monitors:
            if monitor.target not in known:
                self._say(f"monitor {monitor.name!r} watches {monitor.target}, which is not among the services here")

    def _start_broker(self) -> str:
        data = self._settings.data or self._home / "kafka"
        if shutil.disk_usage(folder().parent if folder().parent.exists() else Path.home()).free < 1 << 30:
            self._say("less than 1 GiB of disk is free; Kafka may not last")
        found = kafka_command.start(data.absolute(), 0, self._settings.java)
        self._own_broker = data.absolute()
        self._say(f"Kafka is ready at {found.bootstrap}")
        return found.bootstrap

    def _stop_broker(self) -> None:
        if self._own_broker is not None:
            broker.stop(self._own_broker)
            self._own_broker = None

    def _stop(self, names: str) -> None:
        for name in fnmatch.filter(self._supervisor.children, names):
            code = self._supervisor.stop(name)
            self._say(f"{name} drained" if code == 0 else f"{name} ended with code {code}")

    def _await_lag(self, group: str, topic: str) -> None:
        run = self.run
        if run is None:
            return
        lag = Lag(run.kafka, f"{self._settings.prefix}.{group}", extra=self._settings.security.properties())
        deadline = time.monotonic() + self._settings.drain_s
        while lag.records(topic) != 0:
            if time.monotonic() > deadline:
                self._say(f"{group}: {lag.records(topic)} records of {topic} are left for the next start")
                break
            self.watch()
            time.sleep(0.1)
        lag.close()

    def _write(self) -> Run:
        if self.run is None:
            raise RuntimeError("nothing was started")
        processes = tuple(
            Process(
                name=name, pid=child.process.pid, command=child.program.command, log=str(child.log_path),
                restarts=child.restarts, metrics=child.program.metrics,
            )
            for name, child in self._supervisor.children.items()
        )  # fmt: skip
        self.run = replace(self.run, processes=processes)
        self.run.write()
        return self.run
