"""Settings that the hosts over Kafka share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class HostSettings:
    """How a host reads its input topic."""

    bootstrap: str
    topic: str
    group: str
    """Consumer group; partitions are spread over its members."""
    instance: str = ""
    """A name that a worker keeps over restarts (static membership): it gets its partitions back at once after a
    crash. Empty: a crashed worker's partitions move to the others when its session times out."""
    batch_records: int = 2_000
    """Most records that one call of the stage takes."""
    batch_ms: int = 50
    """How long the first record of a batch waits for company. More means fewer checkpoints, each of which holds the
    whole state; less means earlier results."""
    batch_s: float = 0.0
    """How long a stage should work on one batch, about: batches are cut to the pace that it turns out to have, so that
    a slow stage's first results, and a drain, do not wait for a whole batch. 0 is no bound. The Faust host has none."""
    poll_ms: int = 50
    """How long one read waits for more records once it has one. Less means earlier results, and more reads."""
    ahead: int = 0
    """Batches that a stage may be ahead of what is published and saved, so that it works while the broker answers.
    0 is one thing after the other. The Faust host knows no other."""
    queue_records: int = 4_000
    """Records that may wait for one partition's stage, which bounds memory; above it nothing is read for a moment, then
    the partition is paused."""
    queue_kib: int = 64 * 1024
    """Size of what may wait for one partition's stage, in KiB, likewise. What one read brings, up to 16 MiB, may come
    on top. The Faust host counts records alone."""
    session_timeout_ms: int = 6_000
    """How long a silent worker keeps its partitions. 6 s is the least that a broker allows by default."""
    idle_after_s: float = 2.0
    """Silence at the end of a partition after which its stage is told; 0 is never."""
    idle_grace_s: float = 1.0
    """How far behind the wall clock the time is that an idle stage is told, for events that are still on their way."""
    drain_s: float = 15.0
    """How long a stop may wait for running batches."""
    still_after_s: float = 120.0
    """How long a partition that has records may stand still, with nothing in work, before the process is to be started
    anew. The Faust host does not look."""
    extra: Mapping[str, str] = field(default_factory=dict)
    """Further client settings: TLS, SASL."""
