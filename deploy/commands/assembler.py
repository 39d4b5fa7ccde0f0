"""`sidelight assembler`: pairs payload events and writes their rows to the observations topic."""

from __future__ import annotations

import argparse
from typing import Final

from deploy.claims import claim_store
from deploy.kafka.topics import partitions_of
from deploy.kinds import between, some_seconds
from deploy.privacy import add_keys_argument, opening_keys
from deploy.security import kafka_security
from deploy.tracing import traced
from deploy.workers import add_worker_arguments, run_stage
from inference.observations import ArrowCodec
from streams.assembler import Assembler
from streams.settings import AssemblerSettings, PairingSettings
from streams.stage import Stage
from streams.topics import Topics

HELP = "pair request and response events and write their rows to the observations topic"
EXAMPLES = """\
  sidelight assembler --kafka 127.0.0.1:9092
  sidelight assembler --kafka broker:9092 --prefix team --expiry 60 --metrics-port 9100
  sidelight assembler --kafka broker:9092 --keys payloads.keys"""

_MOST_MIB: Final = 60
"""All that waits is in one checkpoint record, which the state topic limits to 64 MiB."""
_MOST_EVENTS: Final = 10_000_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    defaults = PairingSettings()
    add_worker_arguments(parser, "assembler")
    parser.add_argument(
        "--expiry", type=some_seconds, default=defaults.expiry_ms / 1000, metavar="SECONDS",
        help="event time after which an event without partner is given up (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--max-pending", type=between(1, _MOST_EVENTS), default=defaults.max_pending, metavar="EVENTS",
        help="events that may wait for their partner, per partition (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--max-pending-mib", type=between(1, _MOST_MIB), default=defaults.max_pending_bytes >> 20, metavar="MIB",
        help="size of what may wait, per partition (default: %(default)s)",
    )  # fmt: skip
    add_keys_argument(parser)
    parser.add_argument(
        "--claims", default="", metavar="URL",
        help="store of bodies that were too large for a record: file:///folder or s3://bucket/prefix",
    )  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    """Do it."""
    topics = Topics(arguments.prefix)
    keys, claims = opening_keys(arguments), claim_store(arguments.claims)
    access = kafka_security(arguments).properties()
    settings = AssemblerSettings(
        payloads=topics.payloads,
        observations=topics.observations,
        deadletter=topics.deadletter,
        payload_partitions=partitions_of(arguments.kafka, topics.payloads, extra=access),
        observation_partitions=partitions_of(arguments.kafka, topics.observations, extra=access),
        pairing=PairingSettings(
            expiry_ms=int(arguments.expiry * 1000),
            max_pending=arguments.max_pending,
            max_pending_bytes=arguments.max_pending_mib << 20,
        ),
    )

    def stage(partition: int) -> Stage:
        return Assembler(partition, settings, ArrowCodec(keys, claims))

    with traced(stage, "assembler") as factory:
        return run_stage(
            arguments, name="assembler", topic=topics.payloads, partitions=settings.payload_partitions, factory=factory
        )
