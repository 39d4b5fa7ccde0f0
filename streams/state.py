"""Checkpoints as records, and where they lie: a compacted topic, or memory.

Partition p of the state topic holds the checkpoints of input partition p and nothing else, so the newest one is the
last record of that partition and loading is one read, however long the topic.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from typing import Final

from streams.errors import StreamError
from streams.publishing import publish_all
from streams.reading import Reader
from streams.stage import Checkpoint, Output, Publisher

_MAGIC: Final = b"SLC1"
_HEAD: Final = struct.Struct("<4sqI")
"""Magic, input position, CRC-32 of position and state."""


def encode(checkpoint: Checkpoint) -> bytes:
    """Put a checkpoint into one record's value."""
    return _HEAD.pack(_MAGIC, checkpoint.position, _check(checkpoint)) + checkpoint.state


def decode(value: bytes) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        StreamError: it is none, or not whole: going on without it would count everything twice.
    """
    if len(value) < _HEAD.size or value[:4] != _MAGIC:
        raise StreamError("state record: expected a checkpoint of format SLC1")
    _, position, check = _HEAD.unpack_from(value)
    found = Checkpoint(position, value[_HEAD.size :])
    if _check(found) != check:
        raise StreamError(f"state record for position {position}: its checksum does not match")
    return found


class MemoryStateStore:
    """A `StateStore` in memory."""

    def __init__(self) -> None:
        self._kept: dict[int, bytes] = {}

    def load(self, partition: int) -> Checkpoint | None:
        """Give the newest checkpoint."""
        value = self._kept.get(partition)
        return None if value is None else decode(value)

    def save(self, partition: int, checkpoint: Checkpoint) -> None:
        """Keep a checkpoint."""
        self._kept[partition] = encode(checkpoint)


class KafkaStateStore:
    """A `StateStore` in a compacted topic. Threads may share it."""

    def __init__(
        self,
        bootstrap: str,
        topic: str,
        publisher: Publisher,
        *,
        timeout_s: float = 30.0,
        extra: Mapping[str, str] = {},
    ) -> None:
        self._topic, self._publisher, self._timeout_s = topic, publisher, timeout_s
        self._reader = Reader(bootstrap, timeout_s=timeout_s, extra=extra)

    def load(self, partition: int) -> Checkpoint | None:
        """Read the last record of the partition; a tombstone there is a state that somebody has deleted.

        Raises:
            Unavailable: the broker did not answer in time.
            StreamError: the record is no checkpoint.
        """
        low, high = self._reader.bounds(self._topic, partition)
        # The last offset always holds a record: compaction never touches the active segment. Should a broker leave a
        # hole there all the same, going back doubles until a record is found.
        step = 1
        while high > low:
            start = max(low, high - step)
            found = self._reader.read(self._topic, partition, start, high)
            if found:
                newest = found[-1].value
                return None if newest is None else decode(newest)
            if start == low:
                return None
            step *= 2
        return None

    def save(self, partition: int, checkpoint: Checkpoint) -> None:
        """Write a checkpoint and wait until it is acknowledged."""
        key = str(partition).encode()
        output = Output(self._topic, key, encode(checkpoint), partition=partition)
        publish_all(self._publisher, (output,), self._timeout_s)


def _check(checkpoint: Checkpoint) -> int:
    return zlib.crc32(checkpoint.state, zlib.crc32(struct.pack("<q", checkpoint.position)))
