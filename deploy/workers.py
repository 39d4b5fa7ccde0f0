"""Runs a stage as a process: host, publisher, state store, metrics page and drain. Shared by assembler and detector.

When Kafka's credentials change on disk the host drains and a new one goes on from its checkpoints, in the same process:
what a checkpoint does not hold is read again, so nothing is lost and nothing counts twice.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from deploy import page
from deploy.kafka.topics import ensure_topics
from deploy.kinds import seconds
from deploy.security import add_kafka_arguments, kafka_security
from streams.addresses import bare
from streams.credentials import KafkaSecurity
from streams.errors import BadCredentials
from streams.hosts.native import NativeHost
from streams.hosts.runner import Runner, RunnerSettings
from streams.hosts.settings import HostSettings
from streams.publishers.confluent import ConfluentPublisher, PublisherSettings
from streams.stage import StageFactory
from streams.state import KafkaStateStore
from streams.topics import Topics, state_topic

log = logging.getLogger(__name__)

_MESSAGE_MAX: Final = 64 << 20
_HOSTS: Final = ("native", "faust")
_LOOK_S: Final = 1.0
"""How often the credentials' files, and whatever else may end a host, are looked at."""


class Host(Protocol):
    """What every host over Kafka offers."""

    def run(self) -> None:
        """Work until `stop`."""
        ...

    def stop(self) -> None:
        """Ask `run` to drain."""
        ...

    def runners(self) -> dict[int, Runner]:
        """Give the runners of the assigned partitions."""
        ...

    def lags(self) -> dict[int, int]:
        """Give how many records of each assigned partition are not done, where that is known."""
        ...

    def ready(self) -> bool:
        """Say whether it has joined its group and works."""
        ...

    def lost(self) -> str:
        """Say why it does not go on, empty when it does; one that does not can only be started anew."""
        ...


def add_worker_arguments(parser: argparse.ArgumentParser, group: str) -> None:
    """Declare what every stage command takes."""
    parser.add_argument("--kafka", required=True, metavar="HOST:PORT", help="bootstrap address")
    parser.add_argument("--prefix", default="inference", help="first part of every topic name (default: inference)")
    parser.add_argument(
        "--group", default=group, help=f"consumer group, and name of the state topic (default: {group})"
    )
    parser.add_argument("--instance", default="", help="a name kept over restarts, so that a crash moves no partition")
    parser.add_argument("--host", choices=_HOSTS, default="native", help="what runs the stage (default: native)")
    parser.add_argument("--metrics-port", type=int, default=0, metavar="PORT", help="Prometheus page; 0 is none")
    parser.add_argument(
        "--metrics-host", type=bare, default="127.0.0.1", metavar="ADDRESS",
        help="where that page is, with /healthz and /readyz for probes; :: is everywhere, 0.0.0.0 by IPv4 alone"
        " (default: %(default)s)",
    )  # fmt: skip
    add_kafka_arguments(parser)
    parser.add_argument(
        "--idle-after", type=seconds, default=2.0, metavar="SECONDS",
        help="silence on a partition after which rows that wait for it are released; 0 is never (default: 2)",
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """What one stage wants of its host and publisher that others do not."""

    batch_records: int = 2_000
    batch_ms: int = 50
    batch_s: float = 0.0
    poll_ms: int = 50
    ahead: int = 0
    linger_ms: int = 5
    compression: str = "lz4"
    collectors: tuple[Collector, ...] = ()
    """Further families of the metrics page."""


_USUAL: Final = Tuning()


def run_stage(
    arguments: argparse.Namespace, *, name: str, topic: str, partitions: int, factory: StageFactory,
    tuning: Tuning = _USUAL, lost: Callable[[], str] = lambda: "",
) -> int:  # fmt: skip
    """Run a stage over an input topic until SIGTERM or SIGINT, or until it cannot go on; give the exit code.

    Args:
        arguments: as `add_worker_arguments` declares them.
        name: of the stage.
        topic: its input.
        partitions: of the input.
        factory: makes the stage for a partition.
        tuning: what it wants of its host.
        lost: says why the process can never do its work again; empty: it can. Then it drains, to be started anew.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s", stream=sys.stderr)
    topics = Topics(arguments.prefix)
    state = state_topic(topics, arguments.group, partitions)
    security = kafka_security(arguments)
    ensure_topics(arguments.kafka, (state,), extra=security.properties())

    def build(access: Mapping[str, str]) -> tuple[Host, ConfluentPublisher]:
        publisher = ConfluentPublisher(
            # No record may be given back while a later one goes through: what follows relies on their order.
            PublisherSettings(
                bootstrap=arguments.kafka,
                client_id=name,
                message_max_bytes=_MESSAGE_MAX,
                security=security,
                delivery_timeout_ms=0,
                linger_ms=tuning.linger_ms,
                compression=tuning.compression,
            )
        )
        store = KafkaStateStore(arguments.kafka, state.name, publisher, extra=access)
        settings = HostSettings(
            bootstrap=arguments.kafka, topic=topic, group=f"{arguments.prefix}.{arguments.group}",
            instance=arguments.instance, idle_after_s=arguments.idle_after, extra=access,
            batch_records=tuning.batch_records, batch_ms=tuning.batch_ms, batch_s=tuning.batch_s,
            poll_ms=tuning.poll_ms, ahead=tuning.ahead,
        )  # fmt: skip
        runner = RunnerSettings(stage=name, deadletter=topics.deadletter)
        return _host(arguments.host)(settings, runner, factory, publisher, store), publisher

    worker = _Worker(security, build, lost)
    if arguments.metrics_port:
        registry = CollectorRegistry()
        for collector in (_StageCollector(name, worker), *tuning.collectors):
            registry.register(collector)
        page.serve(arguments.metrics_host, arguments.metrics_port, registry, worker.lost, worker.unready)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: worker.stop())
    log.info("%s ready: %s at %s", name, topic, arguments.kafka)
    left = worker.run()
    log.info("%s drained; %d records were not acknowledged", name, left)
    return 1 if left or worker.gone else 0


class _Worker:
    """A host, and its successor when the credentials change."""

    def __init__(
        self,
        security: KafkaSecurity,
        build: Callable[[Mapping[str, str]], tuple[Host, ConfluentPublisher]],
        lost: Callable[[], str],
    ) -> None:
        self._security, self._build, self._lost = security, build, lost
        self._asked = False
        self.gone = ""
        """Why it drains by itself, if it does."""
        self._renew()

    def run(self) -> int:
        """Work until `stop`; give how many records have no acknowledgement."""
        left = 0
        while True:
            ended, changed = threading.Event(), threading.Event()
            watcher = threading.Thread(target=self._watch, args=(ended, changed), name="watch", daemon=True)
            watcher.start()
            self._host.run()
            ended.set()
            watcher.join()
            left += self._publisher.close()
            if not changed.is_set() or not self._renewed():
                return left

    def _renewed(self) -> bool:
        """Build the successor; False when meanwhile a stop was asked for."""
        while not self._asked:
            try:
                self._renew()
            except BadCredentials as exc:
                # Changed once more, half-way: what is complete comes soon.
                log.error("new Kafka credentials cannot be used: %s", exc)  # noqa: TRY400 - not ours
                time.sleep(_LOOK_S)
            else:
                log.info("Kafka credentials have changed: a new host goes on")
                break
        return not self._asked

    def stop(self) -> None:
        """Ask `run` to drain."""
        self._asked = True
        self._host.stop()

    def runners(self) -> dict[int, Runner]:
        """Give the runners of the partitions that are assigned now."""
        return self._host.runners()

    def lags(self) -> dict[int, int]:
        """Give how many records of each of them are not done, where that is known."""
        return self._host.lags()

    def unready(self) -> str:
        """Say why it does not work now; empty when it does, or could if there were partitions for it."""
        if self.gone:
            return self.gone
        if not self._host.ready():
            return "draining" if self._asked else "has not joined its group"
        return "; ".join(held.detail for runner in self.runners().values() for held in runner.held())

    def lost(self) -> str:
        """Say why it has to be started anew; empty when it goes on."""
        return self.gone or self._host.lost()

    def _renew(self) -> None:
        self._stamp = self._security.stamp()
        self._host, self._publisher = self._build(self._security.properties())

    def _watch(self, ended: threading.Event, changed: threading.Event) -> None:
        complained = self._stamp
        while not ended.wait(_LOOK_S):
            self.gone = self._lost()
            if self.gone:
                log.error("ends, to be started anew: %s", self.gone)
                self.stop()
                return
            stamp = self._security.stamp()
            if stamp == complained:
                continue
            complained = stamp
            try:
                self._security.properties()
            except BadCredentials as exc:
                log.error("new Kafka credentials cannot be used, the old ones stay: %s", exc)  # noqa: TRY400 - not ours
                continue
            changed.set()
            self._host.stop()
            return


def _host(name: str) -> Callable[..., Host]:
    if name == "faust":
        from streams.hosts.faust import FaustHost  # noqa: PLC0415 - an optional extra

        return FaustHost
    return NativeHost


class _StageCollector(Collector):
    """Shows the stages' own counters; they are part of the checkpoint, so a restart counts nothing twice."""

    def __init__(self, stage: str, host: _Worker) -> None:
        self._stage, self._host = stage, host

    def collect(self) -> Iterable[Metric]:
        """Give the families."""
        total = GaugeMetricFamily(
            "sidelight_stage_total",
            "What a stage counted since its first record.",
            labels=("stage", "counter", "partition"),
        )
        host = GaugeMetricFamily(
            "sidelight_host_total", "What the host did since it started.", labels=("stage", "counter", "partition")
        )
        position = GaugeMetricFamily(
            "sidelight_stage_position", "Offset of the first record not yet done.", labels=("stage", "partition")
        )
        lag = GaugeMetricFamily(
            "sidelight_stage_lag", "Records of the input topic that are not yet done.", labels=("stage", "partition")
        )
        held = GaugeMetricFamily(
            "sidelight_stage_held", "1 for what a partition waits for.", labels=("stage", "partition", "for")
        )
        for partition, runner in self._host.runners().items():
            place = str(partition)
            for kind in {one.kind for one in runner.held()}:
                held.add_metric((self._stage, place, kind), 1)
            for counter, value in list(runner.counters.stage.items()):
                total.add_metric((self._stage, counter, place), value)
            for counter in ("records", "skipped", "outputs", "poisoned", "refused", "retries"):
                host.add_metric((self._stage, counter, place), getattr(runner.counters, counter))
            position.add_metric((self._stage, place), runner.position or 0)
        for partition, records in self._host.lags().items():
            lag.add_metric((self._stage, str(partition)), records)
        return (total, host, position, lag, held)
