"""The contract between a step of the stream and its host: records in, records out, state that can be put away.

A host (`streams/hosts/`) runs one stage per input partition, in order, and keeps this rule: publish the effects, then
write one checkpoint record with the state and the input position together, then commit. After a crash, records below
the checkpoint's position are skipped. Outputs carry ids that depend on the input alone, so a record sent twice is
recognisable.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

Headers = tuple[tuple[str, bytes | None], ...]


@dataclass(frozen=True, slots=True)
class Record:
    """One record as it lies in a topic. `timestamp_ms` is the broker's; stages use the event's own time instead."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    timestamp_ms: int = 0
    appended: bool = False
    """Whether that is when the broker took it, by the broker's clock (LogAppendTime); else a producer said so."""


class Output(NamedTuple):
    """One record to publish. The key chooses the partition unless `partition` names one."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    partition: int | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """Consecutive records of one partition, oldest first; where they are cut never changes what a stage puts out.

    `idle_ms` is set, on a batch without records, when the host has waited at the end of the partition: the wall
    clock, in milliseconds since the epoch, less the grace that the host was given. It never goes back.
    """

    partition: int
    records: tuple[Record, ...]
    idle_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Effects:
    """What a batch leads to; nothing else happens."""

    outputs: tuple[Output, ...] = ()


class Stage(Protocol):
    """One step of the stream for one partition. Called by one thread, in offset order. Pure: no I/O, clock or log."""

    def process(self, batch: Batch) -> Effects:
        """Take a batch. Must not raise for bad input: what cannot be read is an output to the dead letters.

        Raises:
            streams.errors.NotNow: something that it needs is away; it gets its state from before and is called again.
        """
        ...

    def snapshot(self) -> bytes:
        """Give the complete state; `restore` of it in a fresh stage continues as if nothing had happened."""
        ...

    def restore(self, state: bytes) -> None:
        """Take a state that `snapshot` gave. Called once, before the first batch, or to undo a failed batch."""
        ...

    def counters(self) -> Mapping[str, int]:
        """Give what was counted since the first record ever; part of the state, so a restart counts nothing twice."""
        ...


StageFactory = Callable[[int], Stage]
"""Builds the stage of one input partition."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """State and input position in one record: `position` is the offset of the first record not yet in the state."""

    position: int
    state: bytes


class StateStore(Protocol):
    """Where checkpoints lie. One writer per partition at a time."""

    def load(self, partition: int) -> Checkpoint | None:
        """Give the newest checkpoint of a partition, or None when there is none yet."""
        ...

    def save(self, partition: int, checkpoint: Checkpoint) -> None:
        """Return only when the checkpoint is durable; raise `streams.errors.PublishError` otherwise."""
        ...


Done = Callable[[Exception | None], None]
"""Told once what became of a record: None, or a `streams.errors.PublishError`."""


class Publisher(Protocol):
    """The way out to the broker. `send` never blocks; `done` is called from `poll` or `flush`, never from `send`."""

    def send(self, output: Output, done: Done) -> None:
        """Queue one record; raise `streams.errors.Unavailable` at once when the client's queue is full.

        What can never be taken is `streams.errors.Refused`: raised at once where the client knows, else told to `done`.
        """
        ...

    def poll(self, timeout_s: float) -> None:
        """Run the callbacks that are due, waiting at most this long for the first."""
        ...

    def flush(self, timeout_s: float) -> int:
        """Wait until everything queued has its answer; give how many records still have none."""
        ...
