"""Reads CloudEvents off topics for a person: from now, from a time, or from the beginning; it never commits.

Records of several partitions come in the order of their times (`deploy/chronology.py`). What the commands print of
them: `deploy/listing.py`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from deploy.chronology import Chronology, Place
from deploy.errors import UserError
from streams.bindings import from_kafka
from streams.errors import InvalidEvent
from streams.events import Event
from streams.stage import Headers

_DURATION: Final = re.compile(r"0*([1-9][0-9]{0,8})([smhd])")
# The client's own names: a password or certificate that is refused, by us or by the broker.
_SHUT_OUT: Final = frozenset({KafkaError._AUTHENTICATION, KafkaError._SSL})  # noqa: SLF001 - the client spells them so
_UNITS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


@dataclass(frozen=True, slots=True, kw_only=True)
class FollowSettings:
    """What to read and where to begin and end."""

    kafka: str
    topics: tuple[str, ...]
    beginning: bool = False
    """Begin with the oldest record; without `follow` that is so anyway."""
    since_s: float = 0.0
    """Begin with records this many seconds old."""
    follow: bool = False
    """Go on for ever, also through an outage; otherwise end at what was there at the start."""
    answer_s: float = 10.0
    """How long the broker may take for an answer at the start; then it counts as away."""
    extra: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Further client settings: TLS, SASL."""


@dataclass(frozen=True, slots=True)
class Line:
    """One record: its event, or why it is none."""

    topic: str
    partition: int
    offset: int
    event: Event | None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class _Span:
    """Where to begin in a partition, and the offset after its last record at the start."""

    begin: int
    end: int


def lines(settings: FollowSettings) -> Generator[Line | None, None, None]:
    """Give records as they come; None at the start, and now and then while nothing comes, so that a caller can stop.

    Raises:
        UserError: the broker does not answer or lacks a topic.
    """
    said: list[KafkaError] = []
    consumer = Consumer({
        "bootstrap.servers": settings.kafka, "group.id": "sidelight-follow", "enable.auto.commit": False,
        "enable.auto.offset.store": False, "enable.partition.eof": True, "fetch.wait.max.ms": 100,
        # When retention takes what was to be read next, go on with what is left.
        "auto.offset.reset": "earliest",
        "queued.max.messages.kbytes": 16_384, "reconnect.backoff.max.ms": 1_000, "log_level": 2,
        "error_cb": said.append, **settings.extra,
    })  # fmt: skip
    try:
        spans = _found(consumer, settings, said)
        yield None
        yield from _read(consumer, spans, follow=settings.follow)
    except KafkaException as exc:
        raise UserError(f"Kafka at {settings.kafka}: {exc.args[0].str()}") from exc
    finally:
        consumer.close()


def duration(text: str) -> float:
    """Give seconds of a text such as 90s, 10m, 2h or 1d.

    Raises:
        UserError: another form.
    """
    found = _DURATION.fullmatch(text)
    if found is None:
        raise UserError(f"--since: expected a time such as 90s, 10m, 2h or 1d, got {text!r}")
    return float(found[1]) * _UNITS[found[2]]


def keep(event: Event, services: Sequence[str]) -> bool:
    """Tell whether an event is of one of these services; none named means all."""
    return not services or event.service() in services


def _read(consumer: Consumer, spans: dict[Place, _Span], *, follow: bool) -> Iterator[Line | None]:
    order: Chronology[Line] = Chronology(spans)
    if not follow:
        for place in [place for place, span in spans.items() if span.begin >= span.end]:
            order.caught_up(place)
    consumer.assign([TopicPartition(*place, span.begin) for place, span in spans.items()])
    paused: set[Place] = set()
    while follow or not order.finished():
        messages = consumer.consume(200, timeout=0.2)
        for message in messages:
            _take(order, message, spans, follow=follow)
        yield from order.released()
        if not messages:
            yield None
        paused = _hold(consumer, paused, order.crowded())


def _take(order: Chronology[Line], message: Message, spans: dict[Place, _Span], *, follow: bool) -> None:
    place = (message.topic() or "", message.partition() or 0)
    error = message.error()
    if error is not None:
        if error.code() != KafkaError._PARTITION_EOF:  # noqa: SLF001 - the client spells its own codes so
            raise KafkaException(error)
        order.caught_up(place)
        return
    offset, value = message.offset() or 0, message.value()
    if follow or offset < spans[place].end:
        headers: Headers = tuple(message.headers() or ())  # type: ignore[arg-type] # a list or nothing, says the client
        order.add(place, message.timestamp()[1], len(value or b""), _line((*place, offset), headers, value))
    # Compaction or an aborted transaction may have taken the last record: then the end of the partition says it.
    if not follow and offset >= spans[place].end - 1:
        order.caught_up(place)


def _line(place: tuple[str, int, int], headers: Headers, value: bytes | None) -> Line:
    try:
        return Line(*place, from_kafka(headers, value))
    except InvalidEvent as exc:
        return Line(*place, None, str(exc))


def _hold(consumer: Consumer, paused: set[Place], crowded: set[Place]) -> set[Place]:
    """Fetch no more of partitions that are far ahead of the others."""
    if crowded - paused:
        consumer.pause([TopicPartition(*place) for place in crowded - paused])
    if paused - crowded:
        consumer.resume([TopicPartition(*place) for place in paused - crowded])
    return crowded


def _found(consumer: Consumer, settings: FollowSettings, said: Sequence[KafkaError]) -> dict[Place, _Span]:
    try:
        return _spans(consumer, settings)
    except KafkaException as exc:
        # Runs the client's callbacks: a broker that lets nobody in looks like one that is away, but for those.
        consumer.poll(0)
        reasons = [error.str() for error in said if error.code() in _SHUT_OUT]
        problem = f"does not let us in: {reasons[-1]}" if reasons else f"does not answer: {exc.args[0].str()}"
        raise UserError(f"Kafka at {settings.kafka} {problem}") from exc


def _spans(consumer: Consumer, settings: FollowSettings) -> dict[Place, _Span]:
    wait_s = settings.answer_s
    spans: dict[Place, _Span] = {}
    for topic in settings.topics:
        found = consumer.list_topics(topic, timeout=wait_s).topics[topic]
        if found.error is not None or not found.partitions:
            hint = "start with `sidelight up`, or see --kafka and --prefix"
            raise UserError(f"topic {topic!r} does not exist at {settings.kafka}; {hint}")
        for partition in found.partitions:
            low, high = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=wait_s)
            from_now = settings.follow and not settings.beginning
            spans[topic, partition] = _Span(high if from_now else low, high)
    return _since(consumer, spans, settings) if settings.since_s else spans


def _since(consumer: Consumer, spans: dict[Place, _Span], settings: FollowSettings) -> dict[Place, _Span]:
    # Never below 0: for Kafka a negative time is no time, -1 for example means the end.
    at_ms = int(max(0.0, time.time() - settings.since_s) * 1000)
    asked = [TopicPartition(*place, at_ms) for place in spans]
    found = {(at.topic, at.partition): at.offset for at in consumer.offsets_for_times(asked, timeout=settings.answer_s)}
    # A negative offset: no record is that young, so the partition's end is where the next one will be.
    return {place: _Span(found[place] if found[place] >= 0 else span.end, span.end) for place, span in spans.items()}
