"""The way out through kafka-python, for places where a C library is not wanted. Several times slower than the default.

kafka-python 3 bounds its queue by time alone (`buffer_memory` is gone), so the bounds on count and size are kept here.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Any

from streams.errors import MissingExtra, Refused, Unavailable
from streams.publishers.confluent import PublisherSettings
from streams.stage import Done, Output

try:
    from kafka import KafkaProducer
    from kafka.errors import AuthorizationError, KafkaError, MessageSizeTooLargeError, UnknownTopicOrPartitionError
except ModuleNotFoundError as missing:
    raise MissingExtra("the kafka-python publisher", "kafka-python", "kafka") from missing

_RECORD_BYTES = 200
_LOOK_S = 0.001
_FOREVER_MS = 2**31 - 1
_NEVER = (MessageSizeTooLargeError, AuthorizationError, UnknownTopicOrPartitionError)


class KafkaPythonPublisher:
    """A `Publisher` over kafka-python. Any number of threads may call it."""

    def __init__(self, settings: PublisherSettings) -> None:
        self._settings = settings
        self._waiting: deque[tuple[Any, int, Done]] = deque()
        self._bytes = 0
        self._lock = threading.Lock()
        self._producer = KafkaProducer(
            bootstrap_servers=settings.bootstrap,
            client_id=settings.client_id,
            enable_idempotence=True,
            acks="all",
            linger_ms=settings.linger_ms,
            compression_type=None if settings.compression == "none" else settings.compression,
            max_request_size=settings.message_max_bytes,
            delivery_timeout_ms=settings.delivery_timeout_ms or _FOREVER_MS,
            # `send` must not block: a topic not heard of yet is Unavailable, and asked for meanwhile.
            max_block_ms=1,
            **settings.extra,
        )

    def send(self, output: Output, done: Done) -> None:
        """Queue one record; see `streams.stage.Publisher`."""
        size = len(output.value or b"") + len(output.key or b"") + _RECORD_BYTES
        with self._lock:
            if len(self._waiting) >= self._settings.queue_messages or self._bytes > self._settings.queue_kib * 1024:
                raise Unavailable(f"{len(self._waiting)} records of {self._bytes} bytes already wait for Kafka")
            try:
                future = self._producer.send(
                    output.topic,
                    value=output.value,
                    key=output.key,
                    headers=list(output.headers),
                    partition=output.partition,
                )
            except _NEVER as exc:
                raise Refused(str(exc)) from exc
            except KafkaError as exc:
                raise Unavailable(str(exc)) from exc
            self._waiting.append((future, size, done))
            self._bytes += size

    def poll(self, timeout_s: float) -> None:
        """Run the callbacks that are due, in the order of sending."""
        deadline = time.monotonic() + timeout_s
        while not (answered := self._answered()) and time.monotonic() < deadline:
            time.sleep(_LOOK_S)
        for future, done in answered:
            done(_translated(future.exception) if future.failed() else None)

    def flush(self, timeout_s: float) -> int:
        """Wait for every answer; give how many are still missing."""
        deadline = time.monotonic() + timeout_s
        while self._waiting and time.monotonic() < deadline:
            self.poll(0.05)
        return len(self._waiting)

    def close(self, timeout_s: float = 10.0) -> int:
        """Flush and let go; give how many records have no answer."""
        left = self.flush(timeout_s)
        self._producer.close(timeout_ms=int(timeout_s * 1000))
        return left

    def _answered(self) -> list[tuple[Any, Done]]:
        found = []
        with self._lock:
            while self._waiting and self._waiting[0][0].is_done:
                future, size, done = self._waiting.popleft()
                self._bytes -= size
                found.append((future, done))
        return found


def _translated(error: Exception) -> Exception:
    return Refused(str(error)) if isinstance(error, _NEVER) else Unavailable(str(error))
