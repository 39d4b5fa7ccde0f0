"""Writes `server.properties` for one Apache Kafka node on loopback, and reads what Kafka notes about its data. Pure."""

from __future__ import annotations

from typing import Final

LOOPBACK: Final = "127.0.0.1"
_MIB: Final = 1 << 20


def render(data: str, client: int, controller: int) -> str:
    """Give the node's settings: broker and controller in one, nothing replicated, nothing reachable from outside.

    Args:
        data: folder of the data, relative to where Kafka runs; so no path of the user's has to be escaped.
        client: port for clients.
        controller: port of the node's own quorum.
    """
    listeners = f"PLAINTEXT://{LOOPBACK}:{client},CONTROLLER://{LOOPBACK}:{controller}"
    settings = {
        "process.roles": "broker,controller",
        "node.id": "1",
        "listeners": listeners,
        "advertised.listeners": listeners,
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "PLAINTEXT",
        "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
        "controller.quorum.bootstrap.servers": f"{LOOPBACK}:{controller}",
        "log.dirs": data,
        # A mistyped topic name is an error that someone sees, not a new topic.
        "auto.create.topics.enable": "false",
        "offsets.topic.replication.factor": "1",
        "offsets.topic.num.partitions": "1",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        "share.coordinator.state.topic.replication.factor": "1",
        "share.coordinator.state.topic.min.isr": "1",
        # One machine: no other member is on its way, so a group need not wait for it.
        "group.initial.rebalance.delay.ms": "0",
        "group.min.session.timeout.ms": "1000",
        # What a topic may allow at most; the topics themselves say how much they take.
        "message.max.bytes": str(64 * _MIB),
        "socket.request.max.bytes": str(128 * _MIB),
        # Kafka's defaults set 128 MiB aside for compaction and 10 MiB of index per segment: too much for a laptop.
        "log.cleaner.dedupe.buffer.size": str(16 * _MIB),
        "log.index.size.max.bytes": str(_MIB),
    }
    return "".join(f"{key}={value}\n" for key, value in settings.items())


def cluster_id(meta: str) -> str:
    """Read the cluster's id from the text of `meta.properties`; empty when there is none."""
    found = (line.partition("=") for line in meta.splitlines())
    return next((value.strip() for key, _, value in found if key.strip() == "cluster.id"), "")
