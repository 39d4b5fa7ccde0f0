"""How far a consumer group is behind: end of the topic less what the group has committed, per partition."""

from __future__ import annotations

from collections.abc import Mapping

from confluent_kafka import Consumer, KafkaException, TopicPartition

from deploy.errors import UserError


class Lag:
    """Asks one cluster about one group. Not shared between threads. `extra`: further client settings, TLS and SASL."""

    def __init__(self, kafka: str, group: str, *, extra: Mapping[str, str] = {}) -> None:
        self._consumer = _consumer(kafka, group, extra)

    def partitions(self, topic: str, timeout_s: float = 5.0) -> Mapping[int, int]:
        """Give records not yet committed, per partition; empty when the broker does not answer in time."""
        try:
            metadata = self._consumer.list_topics(topic, timeout=timeout_s).topics[topic]
            asked = [TopicPartition(topic, partition) for partition in metadata.partitions]
            return {
                item.partition: self._behind(item, timeout_s) for item in self._consumer.committed(asked, timeout_s)
            }
        except KafkaException:
            return {}

    def records(self, topic: str) -> int | None:
        """Give how many records are not yet committed over all partitions; None when unknown."""
        behind = self.partitions(topic)
        return sum(behind.values()) if behind else None

    def close(self) -> None:
        """Let go of the connection."""
        self._consumer.close()

    def _behind(self, item: TopicPartition, timeout_s: float) -> int:
        low, high = self._consumer.get_watermark_offsets(TopicPartition(item.topic, item.partition), timeout=timeout_s)
        # Nothing committed, or retention has taken it, or the topic was made anew: the group begins with the oldest.
        return high - (item.offset if low <= item.offset <= high else low)


def end_offsets(kafka: str, topic: str, timeout_s: float = 5.0, *, extra: Mapping[str, str] = {}) -> int:
    """Give how many records were ever written to a topic: the sum of its partitions' end offsets; 0 without a topic.

    Raises:
        UserError: the broker does not answer in time.
    """
    consumer = _consumer(kafka, "sidelight-ends", extra)
    try:
        partitions = consumer.list_topics(topic, timeout=timeout_s).topics[topic].partitions
        return sum(consumer.get_watermark_offsets(TopicPartition(topic, p), timeout=timeout_s)[1] for p in partitions)
    except KafkaException as exc:
        raise UserError(f"Kafka at {kafka} does not answer: {exc.args[0].str()}") from exc
    finally:
        consumer.close()


def _consumer(kafka: str, group: str, extra: Mapping[str, str]) -> Consumer:
    # What the client would log on standard error, over and over, our own messages say once.
    client = {"bootstrap.servers": kafka, "group.id": group, "enable.auto.commit": False, "log_level": 2}
    return Consumer({**client, **extra})
