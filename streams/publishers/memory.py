"""Topics in memory: the way out in replays and tests. Keyed records go where Kafka's own clients would put them."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from streams.errors import Refused, Unavailable
from streams.stage import Done, Output, Record

_MASK = 0xFFFFFFFF


class MemoryLog:
    """Topics and their partitions, each a list of records; a topic may limit the size of a record."""

    def __init__(self, partitions: Mapping[str, int], limits: Mapping[str, int] = {}) -> None:
        self._limits = limits
        self._topics: dict[str, list[list[Record]]] = {
            topic: [[] for _ in range(count)] for topic, count in partitions.items()
        }

    def append(self, output: Output, timestamp_ms: int = 0) -> Record:
        """Write one record.

        Raises:
            Refused: no such topic or partition, or larger than the topic takes.
        """
        if output.topic not in self._topics:
            raise Refused(f"unknown topic {output.topic!r}; known: {', '.join(sorted(self._topics))}")
        partitions = self._topics[output.topic]
        partition = partition_of(output.key, len(partitions)) if output.partition is None else output.partition
        if not 0 <= partition < len(partitions):
            raise Refused(f"topic {output.topic!r} has {len(partitions)} partitions, got partition {partition}")
        limit = self._limits.get(output.topic)
        if limit is not None and _size(output) > limit:
            raise Refused(f"topic {output.topic!r}: expected at most {limit} bytes, got {_size(output)}")
        record = Record(
            output.topic, partition, len(partitions[partition]), output.key, output.value, output.headers, timestamp_ms
        )
        partitions[partition].append(record)
        return record

    def read(self, topic: str, partition: int, offset: int = 0, limit: int | None = None) -> tuple[Record, ...]:
        """Give records from an offset on."""
        end = None if limit is None else offset + limit
        return tuple(self._topics[topic][partition][offset:end])

    def records(self, topic: str) -> list[Record]:
        """Give a topic's records, partition after partition."""
        return [record for partition in self._topics[topic] for record in partition]

    def partitions(self, topic: str) -> int:
        """Give a topic's number of partitions."""
        return len(self._topics[topic])


class MemoryPublisher:
    """A `Publisher` into a `MemoryLog`. `fail` makes the next answers failures, as a broker in trouble would."""

    def __init__(self, log: MemoryLog, capacity: int = 100_000) -> None:
        self._log = log
        self._capacity = capacity
        self._queue: deque[tuple[Output, Done]] = deque()
        self.held = False
        """While true nothing is answered: a broker that has gone silent."""
        self.fail: Exception | None = None
        """While set, every record is answered with this error instead of being written."""

    def send(self, output: Output, done: Done) -> None:
        """Queue one record; see `streams.stage.Publisher`."""
        if len(self._queue) >= self._capacity:
            raise Unavailable(f"{self._capacity} records already wait")
        self._queue.append((output, done))

    def poll(self, timeout_s: float) -> None:  # noqa: ARG002 - nothing here takes time
        """Write what is queued, unless held."""
        while self._queue and not self.held:
            output, done = self._queue.popleft()
            done(self._write(output))

    def flush(self, timeout_s: float) -> int:
        """Write what is queued; give how much is still held."""
        self.poll(timeout_s)
        return len(self._queue)

    def close(self, timeout_s: float = 10.0) -> int:
        """Do as `flush` does."""
        return self.flush(timeout_s)

    def _write(self, output: Output) -> Exception | None:
        if self.fail is not None:
            return self.fail
        try:
            self._log.append(output)
        except Refused as exc:
            return exc
        return None


def partition_of(key: bytes | None, partitions: int) -> int:
    """Give a key's partition as Kafka's Java client does: murmur2, positive, modulo. Records without a key go to 0."""
    return 0 if key is None else (_murmur2(key) & 0x7FFFFFFF) % partitions


def _size(output: Output) -> int:
    headers = sum(len(name) + len(value or b"") for name, value in output.headers)
    return len(output.key or b"") + len(output.value or b"") + headers


def _murmur2(data: bytes) -> int:
    # MurmurHash2, 32 bits, with the seed that Kafka uses (Austin Appleby's public-domain algorithm).
    multiplier = 0x5BD1E995
    state = (0x9747B28C ^ len(data)) & _MASK
    whole = len(data) & ~3
    for start in range(0, whole, 4):
        word = int.from_bytes(data[start : start + 4], "little") * multiplier & _MASK
        word = (word ^ word >> 24) * multiplier & _MASK
        state = (state * multiplier & _MASK) ^ word
    rest = data[whole:]
    if rest:
        state = (state ^ int.from_bytes(rest, "little")) * multiplier & _MASK
    state = (state ^ state >> 13) * multiplier & _MASK
    return state ^ state >> 15
