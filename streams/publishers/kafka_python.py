"""The way out through kafka-python, for places where a C library is not wanted. Several times slower than the default.

kafka-python 3 bounds its queue by time alone (`buffer_memory` is gone), so the bounds on count and size are kept here.
It cannot write a header without a value: such a one becomes empty.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Any

from streams.errors import BadCredentials, MissingExtra, Refused, Unavailable
from streams.publishers.confluent import PublisherSettings
from streams.stage import Done, Output

try:
    from kafka import KafkaProducer
    from kafka.errors import (
        AuthorizationError,
        InvalidRecordError,
        InvalidTopicError,
        KafkaError,
        KafkaTimeoutError,
        MessageSizeTooLargeError,
        PolicyViolationError,
        RecordListTooLargeError,
        UnknownTopicOrPartitionError,
    )
    from kafka.serializer import Serializer
except ModuleNotFoundError as missing:
    raise MissingExtra("the kafka-python publisher", "kafka-python", "kafka") from missing

_RECORD_BYTES = 200
_LOOK_S = 0.001
_FOREVER_MS = 2**31 - 1
_RECONNECT_MS = 2_000
"""Longest pause between attempts to connect."""
_NEVER = (
    AuthorizationError, InvalidRecordError, InvalidTopicError, MessageSizeTooLargeError, PolicyViolationError,
    RecordListTooLargeError, UnknownTopicOrPartitionError,
    # How kafka-python says that a topic has no such partition, or a name no topic can have.
    ValueError,
)  # fmt: skip
_NULL = bytearray()
"""Stands for no value until it is serialised: kafka-python refuses a record that has neither key nor value."""


class KafkaPythonPublisher:
    """A `Publisher` over kafka-python. Any number of threads may call it."""

    def __init__(self, settings: PublisherSettings) -> None:
        self._settings = settings
        self._waiting: deque[tuple[Any, int, Done]] = deque()
        self._bytes = 0
        self._asked: dict[str, float] = {}
        """When a topic that the client has not heard of was first asked for, in milliseconds of the monotonic clock."""
        self._lock = threading.Lock()
        if settings.security:
            # Ignoring them would send payloads in the clear.
            raise BadCredentials("kafka-python: files of credentials are for the confluent publisher; use `extra`")
        self._producer = KafkaProducer(**_client(settings))

    def send(self, output: Output, done: Done) -> None:
        """Queue one record; see `streams.stage.Publisher`."""
        size = len(output.value or b"") + len(output.key or b"") + _RECORD_BYTES
        with self._lock:
            if len(self._waiting) >= self._settings.queue_messages or self._bytes > self._settings.queue_kib * 1024:
                raise Unavailable(f"{len(self._waiting)} records of {self._bytes} bytes already wait for Kafka")
            future = self._sent(output)
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
        self._producer.close(timeout=timeout_s)
        return left

    def _sent(self, output: Output) -> Any:  # noqa: ANN401 - kafka-python ships no types
        try:
            future = self._producer.send(
                output.topic,
                value=_NULL if output.value is None else output.value,
                key=output.key,
                headers=[(name, value or b"") for name, value in output.headers],
                partition=output.partition,
            )
        except KafkaTimeoutError as exc:
            if self._unknown(output.topic):
                raise Refused(f"the broker does not know topic {output.topic!r}") from exc
            raise Unavailable(str(exc)) from exc
        except _NEVER as exc:
            raise Refused(str(exc)) from exc
        except KafkaError as exc:
            raise Unavailable(str(exc)) from exc
        self._asked.pop(output.topic, None)
        return future

    def _unknown(self, topic: str) -> bool:
        """Tell whether a broker's answer, given long after a topic was first asked for, still lacks the topic."""
        asked = self._asked.setdefault(topic, time.monotonic() * 1000)
        answered: float = self._producer._metadata._last_successful_refresh_ms  # noqa: SLF001 - nothing public tells it
        return answered - asked > self._settings.unknown_topic_ms

    def _answered(self) -> list[tuple[Any, Done]]:
        found = []
        with self._lock:
            while self._waiting and self._waiting[0][0].is_done:
                future, size, done = self._waiting.popleft()
                self._bytes -= size
                found.append((future, done))
        return found


def _client(settings: PublisherSettings) -> dict[str, Any]:
    return {
        "bootstrap_servers": settings.bootstrap,
        "client_id": settings.client_id,
        # Named, so that nothing waits for a broker that is away; every broker since speaks Kafka 2.3's protocol.
        "api_version": (2, 3),
        # Its idempotent producer fails for good, for every later record, once a record was too large.
        "enable_idempotence": False,
        # One request at a time: none overtakes another that is tried again.
        "max_in_flight_requests_per_connection": 1,
        "acks": "all",
        "linger_ms": settings.linger_ms,
        "compression_type": None if settings.compression == "none" else settings.compression,
        "max_request_size": settings.message_max_bytes,
        "delivery_timeout_ms": settings.delivery_timeout_ms or _FOREVER_MS,
        # `send` must not block: a topic not heard of yet is Unavailable, and asked for meanwhile.
        "max_block_ms": 1,
        "reconnect_backoff_max_ms": _RECONNECT_MS,
        "value_serializer": _Nullable(),
        **settings.extra,
    }


class _Nullable(Serializer):  # type: ignore[misc] # kafka-python ships no types
    """Gives bytes as they are, and puts nothing in the place of `_NULL`."""

    def serialize(self, _topic: str, _headers: object, data: bytes | bytearray) -> bytes | bytearray | None:
        return None if data is _NULL else data


def _translated(error: Exception) -> Exception:
    return Refused(str(error)) if isinstance(error, _NEVER) else Unavailable(str(error))
