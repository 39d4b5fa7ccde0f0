"""Reads CloudEvents off topics for a person: from now, from a time, or from the beginning; it never commits."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, Consumer, KafkaException, TopicPartition

from deploy.errors import UserError
from streams.bindings import from_kafka
from streams.errors import InvalidEvent
from streams.events import Event
from streams.stage import Headers


@dataclass(frozen=True, slots=True, kw_only=True)
class FollowSettings:
    """What to read and where to begin and end."""

    kafka: str
    topics: tuple[str, ...]
    beginning: bool = False
    since_s: float = 0.0
    """Begin with records this many seconds old."""
    follow: bool = False
    """Go on for ever; otherwise end at what was there at the start."""


@dataclass(frozen=True, slots=True)
class Line:
    """One record: its event, or why it is none."""

    topic: str
    partition: int
    offset: int
    event: Event | None
    problem: str = ""


def lines(settings: FollowSettings) -> Iterator[Line | None]:
    """Give records as they come; None now and then while nothing does, so that a caller can stop.

    Raises:
        UserError: the broker does not answer or lacks a topic.
    """
    consumer = Consumer({
        "bootstrap.servers": settings.kafka, "group.id": "sidelight-follow", "enable.auto.commit": False,
        "fetch.wait.max.ms": 100, "log_level": 2,
    })  # fmt: skip
    try:
        starts, ends = _places(consumer, settings)
        consumer.assign(starts)
        yield from _read(consumer, None if settings.follow else ends)
    except KafkaException as exc:
        raise UserError(f"Kafka at {settings.kafka}: {exc.args[0].str()}") from exc
    finally:
        consumer.close()


def _read(consumer: Consumer, ends: dict[tuple[str, int], int] | None) -> Iterator[Line | None]:
    while ends is None or ends:
        messages = consumer.consume(200, timeout=0.2)
        if not messages:
            yield None
        for message in messages:
            if message.error() is not None:
                raise KafkaException(message.error())
            place = (message.topic() or "", message.partition() or 0, message.offset() or 0)
            if ends is not None and place[2] >= ends.get(place[:2], 0):
                continue
            yield _line(place, tuple(message.headers() or ()), message.value())  # type: ignore[arg-type]
        if ends is not None:
            positions = consumer.position([TopicPartition(topic, part) for topic, part in ends])
            for item in positions:
                if item.offset >= ends[item.topic, item.partition]:
                    del ends[item.topic, item.partition]


def _line(place: tuple[str, int, int], headers: Headers, value: bytes | None) -> Line:
    try:
        return Line(*place, from_kafka(headers, value))
    except InvalidEvent as exc:
        return Line(*place, None, str(exc))


def _places(consumer: Consumer, settings: FollowSettings) -> tuple[list[TopicPartition], dict[tuple[str, int], int]]:
    starts: list[TopicPartition] = []
    ends: dict[tuple[str, int], int] = {}
    for topic in settings.topics:
        found = consumer.list_topics(topic, timeout=10).topics[topic]
        if found.error is not None or not found.partitions:
            raise UserError(f"topic {topic!r} does not exist at {settings.kafka}")
        for partition in found.partitions:
            low, high = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=10)
            starts.append(TopicPartition(topic, partition, OFFSET_BEGINNING))
            if high > low:
                ends[topic, partition] = high
    if settings.since_s:
        at_ms = int((time.time() - settings.since_s) * 1000)
        starts = consumer.offsets_for_times([TopicPartition(s.topic, s.partition, at_ms) for s in starts], timeout=10)
        for start in starts:
            # No record that young: the partition's end is where the next one will be.
            if start.offset < 0:
                ends.pop((start.topic, start.partition), None)
    elif settings.follow and not settings.beginning:
        starts = [TopicPartition(s.topic, s.partition, OFFSET_END) for s in starts]
    return starts, ends


def duration(text: str) -> float:
    """Give seconds of a text such as 90s, 10m, 2h or 1d.

    Raises:
        UserError: another form.
    """
    units = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
    if len(text) < 2 or text[-1] not in units or not text[:-1].isdecimal():  # noqa: PLR2004 - a number and a unit
        raise UserError(f"--since: expected a time such as 90s, 10m, 2h or 1d, got {text!r}")
    return float(text[:-1]) * units[text[-1]]


def keep(event: Event, services: Sequence[str]) -> bool:
    """Tell whether an event is of one of these services; none named means all."""
    return not services or event.service() in services
