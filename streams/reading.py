"""Reads a stretch of one partition, outside any consumer group: checkpoints, and records that a host needs again."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from confluent_kafka import TIMESTAMP_LOG_APPEND_TIME, Consumer, KafkaException, Message, TopicPartition

from streams.errors import Unavailable
from streams.stage import Headers, Record

_SLICE_S: Final = 0.5


class Reader:
    """Reads from one cluster. Threads may share it: each call uses its own consumer."""

    def __init__(self, bootstrap: str, *, timeout_s: float = 30.0, extra: Mapping[str, str] = {}) -> None:
        self._timeout_s = timeout_s
        self._client = {
            "bootstrap.servers": bootstrap,
            "group.id": "sidelight-reader",
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "enable.partition.eof": True,
            "fetch.message.max.bytes": 64 << 20,
            "log_level": 3,
            **extra,
        }

    def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        """Give the first offset that is kept, and the one after the last.

        Raises:
            Unavailable: the broker did not answer in time.
        """
        with self._consumer(topic) as consumer:
            low, high = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=self._timeout_s)
        return low, high

    def read(self, topic: str, partition: int, start: int, end: int, limit: int | None = None) -> list[Record]:
        """Give the records with start <= offset < end, oldest first, at most `limit`; offsets may have holes.

        Raises:
            Unavailable: the broker did not give them in time.
        """
        found: list[Record] = []
        with self._consumer(topic) as consumer:
            consumer.assign([TopicPartition(topic, partition, start)])
            for message in self._messages(consumer, f"{topic!r}[{partition}]", end):
                offset = message.offset() or 0
                if offset < end:
                    found.append(as_record(message))
                if offset >= end - 1 or len(found) == limit:
                    break
        return found

    def _messages(self, consumer: Consumer, place: str, end: int) -> Iterator[Message]:
        """Give messages until the end of the partition, or until nothing has come for too long."""
        deadline = time.monotonic() + self._timeout_s
        while time.monotonic() < deadline:
            message = consumer.poll(_SLICE_S)
            error = None if message is None else message.error()
            if error is not None and error.code() == error._PARTITION_EOF:  # noqa: SLF001 - librdkafka's own spelling
                return
            if error is not None:
                raise KafkaException(error)
            if message is not None:
                deadline = time.monotonic() + self._timeout_s
                yield message
        raise Unavailable(f"{place} could not be read up to offset {end} in {self._timeout_s:.0f} s")

    @contextmanager
    def _consumer(self, topic: str) -> Iterator[Consumer]:
        consumer = Consumer(self._client)
        try:
            yield consumer
        except KafkaException as exc:
            raise Unavailable(f"topic {topic!r}: {exc.args[0].str()}") from exc
        finally:
            consumer.close()


def as_record(message: Message) -> Record:
    """Translate a message that confluent-kafka read."""
    kind, timestamp_ms = message.timestamp()
    return Record(
        message.topic() or "",
        message.partition() or 0,
        message.offset() or 0,
        message.key(),
        message.value(),
        _headers(message),
        timestamp_ms,
        kind == TIMESTAMP_LOG_APPEND_TIME,
    )


def _headers(message: Message) -> Headers:
    # librdkafka gives a list of pairs of text and bytes; the client's annotation allows more than it ever returns.
    pairs: Any = message.headers() or ()
    return tuple(pairs)
