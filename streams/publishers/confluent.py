"""The default way out: librdkafka through confluent-kafka, acknowledged by all replicas in sync."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from streams.credentials import KafkaSecurity, refused
from streams.errors import BadCredentials, PublishError, Refused, Unavailable
from streams.stage import Done, Output

log = logging.getLogger(__name__)

_PURGE_S: Final = 5.0
_SLICE_S: Final = 0.05
_LOOK_S: Final = 1.0
"""How often the credentials' files are looked at."""
_HANDOVER_S: Final = 5.0
"""How long a producer with old credentials may take to finish; what is left then is given back to be sent again."""
_IN_FLIGHT: Final = 5
"""Requests whose order an idempotent producer keeps."""
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
    idempotent: bool = True
    """Whether the broker drops what is sent twice because an acknowledgement was lost. Without, one request is on its
    way at a time, which keeps the order; and librdkafka's thread sleeps while a slow broker has it wait, where with it
    that thread takes a whole core."""
    compression: str = "lz4"
    extra: Mapping[str, str] = field(default_factory=dict)
    """Further librdkafka settings."""
    security: KafkaSecurity = field(default_factory=KafkaSecurity)
    """TLS and SASL; when its files change the publisher goes on with a new producer."""


class ConfluentPublisher:
    """A `Publisher` over librdkafka. Any number of threads may call it.

    A producer that has failed for good (the broker forgot its sequence, or forbade it) is replaced by the next `poll`;
    what waited in it is given back as Unavailable.

    When the credentials' files change, a second producer is built with them. From then on new records wait here, and
    the old producer finishes what it has; when its last record is answered, the waiting ones go to the new producer, in
    order, so that none overtakes another. An old producer that cannot finish in time is emptied instead: its records
    are given back as Unavailable, and some of them may have arrived. Files that cannot be used change nothing but the
    log.

    Raises:
        BadCredentials: the credentials cannot be used.
    """

    def __init__(self, settings: PublisherSettings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._fatal: KafkaError | None = None
        self._stamp = settings.security.stamp()
        self._properties = settings.security.properties()
        self._producer = self._built(self._properties)
        self._next: Producer | None = None
        """The producer with new credentials, while the old one finishes."""
        self._switch_by = 0.0
        self._waiting: deque[tuple[Output, Done]] = deque()
        self._waiting_bytes = 0
        self._look_at = time.monotonic() + _LOOK_S

    def send(self, output: Output, done: Done) -> None:
        """Queue one record; see `streams.stage.Publisher`."""
        # Under the lock no record can slip into a producer that has just been emptied: nobody would ever answer it.
        with self._lock:
            if self._fatal is not None:
                raise Unavailable(f"the Kafka producer failed and is about to be replaced: {self._fatal.str()}")
            if self._next is None:
                self._produce(output, done)
            else:
                self._wait(output, done)

    def poll(self, timeout_s: float) -> None:
        """Run the callbacks that are due."""
        self._look()
        self._answering(lambda producer: producer.poll(timeout_s))
        if self._next is not None:
            self._hand_over()

    def flush(self, timeout_s: float) -> int:
        """Wait for every answer; give how many are still missing."""
        deadline = time.monotonic() + timeout_s
        while self._next is not None and time.monotonic() < deadline:
            self.poll(min(_SLICE_S, timeout_s))
        left = max(0.0, deadline - time.monotonic())
        return self._answering(lambda producer: producer.flush(left)) + len(self._waiting)

    def close(self, timeout_s: float = 10.0) -> int:
        """Flush and let go; give how many records have no answer."""
        return self.flush(timeout_s)

    def _produce(self, output: Output, done: Done) -> None:
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

    def _wait(self, output: Output, done: Done) -> None:
        size = len(output.key or b"") + len(output.value or b"")
        room = self._settings.queue_kib * 1024 - self._waiting_bytes
        if len(self._waiting) >= self._settings.queue_messages or size > room:
            raise Unavailable("new credentials are being taken up, and enough waits for them")
        self._waiting.append((output, done))
        self._waiting_bytes += size

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
            if self._next is None:
                self._next = self._built(self._properties)
            failed, refusals = self._switch()
        log.error("the Kafka producer failed and is replaced: %s", problem.str())
        self._empty(failed, refusals)

    def _look(self) -> None:
        """See whether the credentials have changed, and begin to take up new ones."""
        now = time.monotonic()
        if now < self._look_at or not self._settings.security:
            return
        self._look_at = now + _LOOK_S
        with self._lock:
            stamp = self._settings.security.stamp()
            if stamp == self._stamp or self._next is not None:
                return
            self._stamp = stamp
            try:
                properties = self._settings.security.properties()
                self._next = self._built(properties)
            except BadCredentials as exc:
                log.error("new Kafka credentials cannot be used, the old ones stay: %s", exc)  # noqa: TRY400 - not ours
                return
            self._properties = properties
            self._switch_by = now + _HANDOVER_S
        log.info("Kafka credentials have changed: a new producer takes over")

    def _hand_over(self) -> None:
        """Let the new producer begin when the old one has no record left, or has had its time."""
        finished = len(self._producer) == 0
        if not finished and time.monotonic() < self._switch_by:
            return
        with self._lock:
            if self._next is None:
                return
            old, refusals = self._switch()
        self._empty(old, refusals)

    def _switch(self) -> tuple[Producer, list[tuple[Done, PublishError]]]:
        """Put the new producer in the old one's place and give it what waits; give back what it does not take."""
        assert self._next is not None  # noqa: S101 - both callers made sure
        old, self._producer, self._next = self._producer, self._next, None
        waiting, self._waiting, self._waiting_bytes = self._waiting, deque(), 0
        refusals: list[tuple[Done, PublishError]] = []
        for output, done in waiting:
            try:
                self._produce(output, done)
            except PublishError as exc:
                refusals.append((done, exc))
        return old, refusals

    def _empty(self, old: Producer, refusals: list[tuple[Done, PublishError]]) -> None:
        """Answer for what a producer could not finish. Not under the lock: answers may send again."""
        old.purge()
        old.flush(_PURGE_S)
        for done, problem in refusals:
            done(problem)

    def _built(self, properties: Mapping[str, str]) -> Producer:
        settings = self._settings
        client = {
            "bootstrap.servers": settings.bootstrap,
            "client.id": settings.client_id,
            "enable.idempotence": settings.idempotent,
            "max.in.flight.requests.per.connection": _IN_FLIGHT if settings.idempotent else 1,
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
            **properties,
        }
        try:
            return Producer(client)
        except KafkaException as exc:
            if not properties:
                raise
            # Without the cause, which may quote what was in a file.
            raise refused(exc, properties) from None


def _translated(error: KafkaError) -> PublishError:
    kind = Refused if error.code() in _NEVER else Unavailable
    return kind(f"{error.name()}: {error.str()}")
