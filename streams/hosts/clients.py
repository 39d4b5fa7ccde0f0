"""Kafka's clients of a host: how its consumer is set up, and who asks the broker where partitions end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import TimeoutError as TooLate
from typing import Any, Final

from confluent_kafka import IsolationLevel, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._listoffsets import OffsetSpec

from streams.errors import Unavailable
from streams.hosts.settings import HostSettings

_ANSWER_S: Final = 10.0


class BrokerEnds:
    """Asks the broker, over a connection that is not the consumer's."""

    def __init__(self, settings: HostSettings) -> None:
        self._settings = settings
        self._client: AdminClient | None = None

    def __call__(self, partitions: Sequence[int]) -> Mapping[int, int]:
        """Give where partitions end for who reads what is committed: an open transaction is no lag.

        Raises:
            Unavailable: the broker does not say.
        """
        if self._client is None:
            access: dict[str, Any] = {
                "bootstrap.servers": self._settings.bootstrap,
                "log_level": "3",
                **self._settings.extra,
            }
            self._client = AdminClient(access)
        latest = OffsetSpec.latest()  # type: ignore[no-untyped-call]
        wanted = {TopicPartition(self._settings.topic, partition): latest for partition in partitions}
        try:
            asked = self._client.list_offsets(
                wanted, isolation_level=IsolationLevel.READ_COMMITTED, request_timeout=_ANSWER_S
            )
            return {place.partition: answer.result(2 * _ANSWER_S).offset for place, answer in asked.items()}
        except (KafkaException, TooLate) as exc:
            raise Unavailable(str(exc)) from exc


def consumer_settings(settings: HostSettings) -> dict[str, Any]:
    """Give the consumer's settings."""
    client: dict[str, Any] = {
        "bootstrap.servers": settings.bootstrap,
        "group.id": settings.group,
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "earliest",
        "enable.partition.eof": True,
        # Range puts partition p of every topic on the same worker, so state stays with its input.
        "partition.assignment.strategy": "range",
        "session.timeout.ms": settings.session_timeout_ms,
        "heartbeat.interval.ms": settings.session_timeout_ms // 3,
        "fetch.wait.max.ms": 100,
        "queued.max.messages.kbytes": 16 * 1024,
        # Half a queue is read in less than the second that a full one would otherwise wait for its next fetch, and an
        # outage must not go on for the 10 s that the client's longest pause between attempts has by default.
        "fetch.queue.backoff.ms": 50,
        "reconnect.backoff.max.ms": 2_000,
        "log_level": 3,
        **settings.extra,
    }
    if settings.instance:
        client["group.instance.id"] = settings.instance
    return client
