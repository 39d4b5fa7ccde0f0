"""Reading a stretch of a partition: exactly that, whatever retention and aborted transactions took out of it."""

from __future__ import annotations

import pytest

from deploy.kafka.ports import free_port
from deploy.kafka.topics import ensure_topics
from streams.errors import Unavailable
from streams.reading import Reader
from streams.topics import Topics, request_topics
from tests.deploy.laying import NOW_MS, Laid, create, expire, lay, lay_aborted
from tests.inference.serving import eventually

VALUES = [b"a", b"", None, b"d", b"e"]


@pytest.mark.kafka
def test_a_stretch_is_what_was_asked_for(kafka: str, topics: Topics) -> None:
    """From start to before end, at most so many, each as it was written: empty and absent values are two things."""
    topic = create(kafka, topics.payloads, 2)
    lay(kafka, topic, [Laid(((("h", b"1"), ("h", b"2")), value), 1) for value in VALUES])
    reader = Reader(kafka)
    whole = reader.read(topic, 1, 0, 5)

    assert reader.bounds(topic, 1) == (0, 5)
    assert reader.bounds(topic, 0) == (0, 0)
    assert [(record.offset, record.value) for record in whole] == list(enumerate(VALUES))
    assert all(record.headers == (("h", b"1"), ("h", b"2")) for record in whole)
    assert {(record.topic, record.partition, record.timestamp_ms) for record in whole} == {(topic, 1, NOW_MS)}
    assert reader.read(topic, 1, 1, 4) == whole[1:4]
    assert reader.read(topic, 1, 1, 5, limit=2) == whole[1:3]
    assert reader.read(topic, 1, 3, 99) == whole[3:]
    assert reader.read(topic, 0, 0, 1) == []


@pytest.mark.kafka
def test_requests_bear_the_brokers_time(kafka: str, topics: Topics) -> None:
    """Whatever their clients' clocks say; and of each record it is known whose time it has."""
    ensure_topics(kafka, request_topics((topics.requests,), 1))
    lay(kafka, topics.requests, [Laid(((), b"asked"))])
    lay(kafka, create(kafka, topics.payloads), [Laid(((), b"seen"))])
    reader = Reader(kafka)
    (asked,), (seen,) = (reader.read(topic, 0, 0, 1) for topic in (topics.requests, topics.payloads))

    assert (asked.appended, seen.appended) == (True, False)
    assert asked.timestamp_ms != seen.timestamp_ms == NOW_MS


@pytest.mark.kafka
def test_offsets_may_have_holes(kafka: str, topics: Topics) -> None:
    """What retention took is not there, what a transaction aborted is not either; neither keeps the reader waiting."""
    topic = create(kafka, topics.payloads)
    lay(kafka, topic, [Laid(((), value)) for value in (b"old", b"kept")])
    lay_aborted(kafka, topic, [Laid(((), b"aborted"))])
    expire(kafka, topic, 0, 1)
    reader = Reader(kafka)
    # The broker writes the mark that ends a transaction after it has said that it is aborted.
    eventually(lambda: reader.bounds(topic, 0) == (1, 4), "the bounds behind the mark")

    assert [record.value for record in reader.read(topic, 0, 0, 4)] == [b"kept"]


def test_a_broker_that_is_away_is_unavailable() -> None:
    """Said after the time that was given, as an error that a caller tries again."""
    reader = Reader(f"127.0.0.1:{free_port()}", timeout_s=0.3)
    with pytest.raises(Unavailable):
        reader.bounds("t", 0)
    with pytest.raises(Unavailable, match="could not be read up to offset 1"):
        reader.read("t", 0, 0, 1)
