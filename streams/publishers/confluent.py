"""The default way out: librdkafka through confluent-kafka, idempotent and acknowledged by all replicas in sync."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from streams.errors import PublishError, Refused, Unavailable
from streams.stage import Done, Output

# What no retry can change. Anything else may pass, so it is called Unavailable.
_NEVER: Final = frozenset({
    KafkaError.MSG_SIZE_TOO_LARGE,
    KafkaError.INVALID_RECORD,
    KafkaError.INVALID_MSG,
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
    """After this long an unacknowledged record is given back as Unavailable."""
    compression: str = "lz4"
    extra: Mapping[str, str] = field(default_factory=dict)
    """Further librdkafka settings: TLS, SASL."""


class ConfluentPublisher:
    """A `Publisher` over librdkafka. `send` may be called from one thread while another polls."""

    def __init__(self, settings: PublisherSettings) -> None:
        self._producer = Producer({
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
            # Java's partitioner, so that every client in the cluster agrees where a key lives.
            "partitioner": "murmur2_random",
            "log_level": 3,
            **settings.extra,
        })  # fmt: skip

    def send(self, output: Output, done: Done) -> None:
        """Queue one record; see `streams.stage.Publisher`."""

        def answered(error: KafkaError | None, _message: Message) -> None:
            done(None if error is None else _translated(error))

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
        self._producer.poll(timeout_s)

    def flush(self, timeout_s: float) -> int:
        """Wait for every answer; give how many are still missing."""
        return self._producer.flush(timeout_s)

    def close(self, timeout_s: float = 10.0) -> int:
        """Flush and let go; give how many records have no answer."""
        return self.flush(timeout_s)


def _translated(error: KafkaError) -> PublishError:
    kind = Refused if error.code() in _NEVER else Unavailable
    return kind(f"{error.name()}: {error.str()}")
