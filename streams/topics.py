"""Topic names, which kind of record goes where, and each topic's key and settings. Names sit under a prefix."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

FAMILIES: Final = ("drift", "outlier", "adversarial", "bias", "performance")


@dataclass(frozen=True, slots=True)
class Topic:
    """One topic: its name, number of partitions and broker-side settings."""

    name: str
    partitions: int
    config: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Topics:
    """All topic names under one prefix."""

    prefix: str = "inference"
    """First part of every topic name, so that several installations can share a cluster."""

    @property
    def payloads(self) -> str:
        """Payload events; key = correlation id, so that request and response share a partition."""
        return f"{self.prefix}.payloads"

    @property
    def observations(self) -> str:
        """Paired and decoded rows as Arrow IPC; key = service."""
        return f"{self.prefix}.observations"

    @property
    def explanations(self) -> str:
        """Explanations; key = service."""
        return f"{self.prefix}.explanations"

    @property
    def requests(self) -> str:
        """Requests for predictions; the key is the client's, and its order is kept."""
        return f"{self.prefix}.requests"

    @property
    def responses(self) -> str:
        """Their answers, with the key of the request."""
        return f"{self.prefix}.responses"

    @property
    def deadletter(self) -> str:
        """What nothing can read: the original bytes and headers, and the reason."""
        return f"{self.prefix}.deadletter"

    def alerts(self, family: str) -> str:
        """Alerts of one family; key = service."""
        return f"{self.prefix}.alerts.{family}"

    def state(self, group: str) -> str:
        """Checkpoints of one group of workers, compacted; partition p holds the checkpoint of input partition p."""
        return f"{self.prefix}.state.{group}"

    def declared(self, partitions: int) -> tuple[Topic, ...]:
        """List every event topic with its settings, for creation at start."""
        # Alert and explanation topics are gzip: a plain `pip install kafka-python` reads neither lz4 nor zstd.
        lz4 = {"compression.type": "lz4"}
        gzip = {"compression.type": "gzip"}
        return (
            Topic(self.payloads, partitions, lz4),
            Topic(self.observations, partitions, {**lz4, "max.message.bytes": str(16 << 20)}),
            # A dead letter is its original and the reason: larger than what the payload topic took.
            Topic(self.deadletter, partitions, {**gzip, "max.message.bytes": str(16 << 20)}),
            Topic(self.explanations, partitions, gzip),
            *(Topic(self.alerts(family), partitions, gzip) for family in FAMILIES),
        )


def request_topics(names: tuple[str, ...], partitions: int) -> tuple[Topic, ...]:
    """Declare topics of requests or answers: any client reads them, so the broker leaves records as they were sent.

    But for their time, which is the broker's: how long a request has waited is no matter of its client's clock.
    """
    config = {"max.message.bytes": str(16 << 20), "message.timestamp.type": "LogAppendTime"}
    return tuple(Topic(name, partitions, config) for name in names)


def state_topic(topics: Topics, group: str, partitions: int) -> Topic:
    """Declare the compacted topic that holds one group's checkpoints."""
    config = {
        "cleanup.policy": "compact",
        "compression.type": "lz4",
        "max.message.bytes": str(64 << 20),
        "min.cleanable.dirty.ratio": "0.1",
        "segment.bytes": str(64 << 20),
        "segment.ms": "600000",
    }
    return Topic(topics.state(group), partitions, config)
