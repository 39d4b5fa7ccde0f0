"""`sidelight detector`: runs the detectors of monitors over the observations topic and publishes alerts."""

from __future__ import annotations

import argparse
from pathlib import Path

from deploy import references
from deploy.errors import UserError
from deploy.kafka.topics import partitions_of
from deploy.manifests import load_monitors
from deploy.security import kafka_security
from deploy.tracing import traced
from deploy.workers import add_worker_arguments, run_stage
from detectors.errors import DetectorError
from detectors.registry import build
from detectors.settings import MonitorSettings
from detectors.stage import DetectorStage, Watch
from streams.stage import Stage
from streams.topics import Topics

HELP = "run the detectors of InferenceMonitor files and publish alerts"
EXAMPLES = """\
  sidelight detector --kafka 127.0.0.1:9092 --monitor monitor.yaml
  sidelight detector --kafka broker:9092 --prefix team --monitor a.yaml --monitor b.yaml --metrics-port 9101"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_worker_arguments(parser, "detectors")
    parser.add_argument(
        "--monitor", type=Path, action="append", required=True, metavar="FILE", help="InferenceMonitor YAML; repeatable"
    )


def run(arguments: argparse.Namespace) -> int:
    """Do it."""
    watches = [watch(monitor) for monitor in load_monitors(arguments.monitor)]
    if not watches:
        raise UserError("no InferenceMonitor in " + ", ".join(str(path) for path in arguments.monitor))
    topics = Topics(arguments.prefix)

    def stage(_partition: int) -> Stage:
        return DetectorStage(watches, topics.alerts, topics.deadletter)

    access = kafka_security(arguments).properties()
    partitions = partitions_of(arguments.kafka, topics.observations, extra=access)
    with traced(stage, "detectors") as factory:
        return run_stage(arguments, name="detectors", topic=topics.observations, partitions=partitions, factory=factory)


def watch(monitor: MonitorSettings) -> Watch:
    """Load a monitor's reference and check that its detectors can be built."""
    reference = references.load(monitor)
    try:
        build(monitor, reference)
    except DetectorError as exc:
        raise UserError(f"monitor {monitor.name!r}: {exc}") from exc
    return Watch(
        monitor=monitor,
        build=lambda: build(monitor, reference),
        fingerprint=references.fingerprint(monitor, reference),
    )
