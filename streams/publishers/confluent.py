"""The default way out: librdkafka through confluent-kafka, idempotent and acknowledged by all replicas in sync."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from streams.errors import PublishError, Refused, Unavailable
from streams.stage import Done, Output

log = logging.getLogger(__name__)

_PURGE_S: Final = 5.0
_RECONNECT_MS: Final = 2_000
"""Longest pause between attempts to connect: a drain that begins when the broker is back must not wait for its end."""
# What no retry can change. Anything else may pass, so it is called Unavailable.
_NEVER: Final = frozenset({
    KafkaError.MSG_SIZE_TOO_LARGE,
    KafkaError.RECORD_LIST_TOO_LARGE,
    KafkaError.INVALID_RECORD,
    KafkaError.INVALID_MSG,
    KafkaError.TOPIC_EXCEPTION,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError._UNKNOWN_TOPIC,  # noqa: SLF001 - librdkafka's own codes are spelt so
    KafkaError._UNKNOWN_PARTITION,  # noqa: SLF001
    KafkaError._INVALID_ARG,  # noqa: SLF001
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    KafkaError.POLICY_VIOLATION,
})  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class PublisherSettings:
    """How to reach the broker and how much may wait in the client."""

    bootstrap: str
    client_id: str = "sidelight"
    linger_ms: int = 5
    """How long a record waits for company in milliseconds; more means fewer, larger requests."""
    queue_messages: int = 100_000
    """Records that may wait in the client; one more is refused at once."""
    queue_kib: int = 64 * 1024
    """Size of what may wait in the client, in KiB."""
    message_max_bytes: int = 1 << 20
    """Largest record, headers included. The topic must allow as much."""
    delivery_timeout_ms: int = 60_000
    """After this long an unacknowledged record is given back as Unavailable; 0 is never. Only with 0 is it certain that
    no record overtakes one that failed before it."""
    unknown_topic_ms: int = 30_000
    """How long a topic that the broker does not know may still appear, in milliseconds; then its records are refused.
    Brokers hear of a new topic one after the other."""
    compression: str = "lz4"
    extra: Mapping[str, str] = field(default_factory=dict)
    """Further librdkafka settings: TLS, SASL."""


class ConfluentPublisher:
    """A `Publisher` over librdkafka. Any number of threads may call it.

    A producer that has failed for good (the broker forgot its sequence, or forbade it) is replaced by the next `poll`;
    what waited in it is given back as Unavailable.
    """

    def __init__(self, settings: PublisherSettings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._fatal: KafkaError | None = None
        self._producer = self._built()

    def send(self, output: Output, done: Done) -> None:
        """Queue one record; see `streams.stage.Publisher`."""

        def answered(error: KafkaError | None, _message: Message) -> None:
            done(None if error is None else _translated(error))

        # Under the lock no record can slip into a producer that has just been emptied: nobody would ever answer it.
        with self._lock:
            if self._fatal is not None:
                raise Unavailable(f"the Kafka producer failed and is about to be replaced: {self._fatal.str()}")
            try:
                self._producer.produce(
                    output.topic,
                    value=output.value,
                    key=output.key,
                    headers=list(output.headers),
                    partition=-1 if output.partition is None else output.partition,
                    on_delivery=answered,
                )
            except BufferError as exc:
                raise Unavailable("the Kafka client's queue is full") from exc
            except KafkaException as exc:
                raise _translated(exc.args[0]) from exc

    def poll(self, timeout_s: float) -> None:
        """Run the callbacks that are due."""
        self._answering(lambda producer: producer.poll(timeout_s))

    def flush(self, timeout_s: float) -> int:
        """Wait for every answer; give how many are still missing."""
        return self._answering(lambda producer: producer.flush(timeout_s))

    def close(self, timeout_s: float = 10.0) -> int:
        """Flush and let go; give how many records have no answer."""
        return self.flush(timeout_s)

    def _answering(self, wait: Callable[[Producer], int]) -> int:
        self._replace_failed()
        try:
            return wait(self._producer)
        except KafkaException as exc:
            # The client raises for what is fatal; anything else librdkafka retries by itself.
            self._fatal = exc.args[0]
            return len(self._producer)

    def _replace_failed(self) -> None:
        with self._lock:
            if self._fatal is None:
                return
            problem, self._fatal = self._fatal, None
            failed, self._producer = self._producer, self._built()
        log.error("the Kafka producer failed and is replaced: %s", problem.str())
        failed.purge()
        failed.flush(_PURGE_S)

    def _built(self) -> Producer:
        settings = self._settings
        return Producer({
            "bootstrap.servers": settings.bootstrap,
            "client.id": settings.client_id,
            "enable.idempotence": True,
            "acks": "all",
            "linger.ms": settings.linger_ms,
            "compression.type": settings.compression,
            "queue.buffering.max.messages": settings.queue_messages,
            "queue.buffering.max.kbytes": settings.queue_kib,
            "message.max.bytes": settings.message_max_bytes,
            "delivery.timeout.ms": settings.delivery_timeout_ms,
            "topic.metadata.propagation.max.ms": settings.unknown_topic_ms,
            "reconnect.backoff.max.ms": _RECONNECT_MS,
            # Java's partitioner, so that every client in the cluster agrees where a key lives.
            "partitioner": "murmur2_random",
            "log_level": 3,
            **settings.extra,
        })  # fmt: skip


def _translated(error: KafkaError) -> PublishError:
    kind = Refused if error.code() in _NEVER else Unavailable
    return kind(f"{error.name()}: {error.str()}")
