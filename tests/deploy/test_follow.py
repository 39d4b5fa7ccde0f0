"""Reading topics for a person, off a real Kafka: where it begins, in which order, where it ends, what can go wrong."""

from __future__ import annotations

import random
from collections.abc import Generator
from contextlib import closing

import pytest
from confluent_kafka import OFFSET_INVALID, Consumer, TopicPartition
from hypothesis import given
from hypothesis import strategies as st

from deploy.chronology import MOST_RECORDS
from deploy.errors import UserError
from deploy.follow import FollowSettings, Line, duration, keep, lines
from deploy.kafka.ports import free_port
from streams.topics import Topics
from tests.deploy.laying import (
    NO_EVENT,
    NOW_MS,
    Laid,
    create,
    event,
    expire,
    lay,
    lay_aborted,
    spread,
)
from tests.mockcluster import MockCluster


def read(settings: FollowSettings) -> list[Line]:
    """Read to the end."""
    return [line for line in lines(settings) if line is not None]


def names(found: list[Line]) -> list[str]:
    """Give the events' ids, or their problems."""
    return [line.event.id if line.event else line.problem for line in found]


def following(settings: FollowSettings) -> Generator[Line | None, None, None]:
    """Begin to follow: what is laid from here on is new."""
    found = lines(settings)

    assert next(found) is None
    return found


def some(found: Generator[Line | None, None, None], count: int) -> list[Line]:
    """Take so many records, or fail when nothing has come for long."""
    taken: list[Line] = []
    silent = 0
    while len(taken) < count:
        line = next(found)
        silent = silent + 1 if line is None else 0
        taken += [] if line is None else [line]
        assert silent < 150, "it never came"
    return taken


@pytest.mark.kafka
def test_several_topics_and_partitions_in_one_order_of_time(kafka: str, topics: Topics) -> None:
    """From the oldest to the newest, wherever each record lies."""
    first, second = create(kafka, topics.payloads, 3), create(kafka, topics.observations, 2)
    wanted = [f"e{at:03}" for at in range(200)]
    generator = random.Random(5)
    mine = {name: generator.choice([(first, 0), (first, 1), (first, 2), (second, 0), (second, 1)]) for name in wanted}
    for topic in (first, second):
        laid = spread(wanted, 1)
        lay(kafka, topic, [
            Laid(record.content, mine[name][1], record.time_ms)
            for name, record in zip(wanted, laid, strict=True) if mine[name][0] == topic
        ])  # fmt: skip
    found = read(FollowSettings(kafka=kafka, topics=(first, second)))

    assert names(found) == wanted
    assert {(line.topic, line.partition) for line in found} == set(mine.values())
    assert [line.offset for line in found if (line.topic, line.partition) == (first, 1)] == list(
        range(sum(place == (first, 1) for place in mine.values()))
    )


@pytest.mark.kafka
def test_a_partition_far_ahead_waits(kafka: str, topics: Topics) -> None:
    """More than may be held of one partition, all younger than the other's: nothing is lost, and the order holds."""
    topic = create(kafka, topics.payloads, 2)
    old = [f"a{at:05}" for at in range(3 * MOST_RECORDS)]
    young = [f"b{at:05}" for at in range(3 * MOST_RECORDS)]
    lay(kafka, topic, [Laid(event(name), 1, NOW_MS - 20_000 + at) for at, name in enumerate(old)])
    lay(kafka, topic, [Laid(event(name), 0, NOW_MS - 10_000 + at) for at, name in enumerate(young)])

    assert names(read(FollowSettings(kafka=kafka, topics=(topic,)))) == old + young


@pytest.mark.kafka
def test_since_begins_at_a_time_in_every_partition(kafka: str, topics: Topics) -> None:
    """What is older is not shown; where nothing is that young, nothing is; and any length of time is one."""
    topic = create(kafka, topics.payloads, 3)
    ages_s = {"long ago": (0, 7_200), "ago": (0, 600), "also ago": (1, 500), "just now": (1, 60), "old": (2, 9_000)}
    lay(kafka, topic, [Laid(event(name), at, NOW_MS - age * 1000) for name, (at, age) in ages_s.items()])

    def since(text: str) -> list[str]:
        return names(read(FollowSettings(kafka=kafka, topics=(topic,), since_s=duration(text))))

    assert since("1h") == ["ago", "also ago", "just now"]
    assert since("1s") == []
    assert since("999999999d") == ["old", "long ago", "ago", "also ago", "just now"]


@pytest.mark.kafka
def test_follow_begins_now_or_where_it_is_told(kafka: str, topics: Topics) -> None:
    """From now on, from a time on or from the beginning, and then what comes, in both partitions."""
    topic = create(kafka, topics.payloads, 2)
    lay(kafka, topic, [Laid(event("old"), 0, NOW_MS - 7_200_000), Laid(event("young"), 1, NOW_MS - 60_000)])
    settings = {
        (): FollowSettings(kafka=kafka, topics=(topic,), follow=True),
        ("young",): FollowSettings(kafka=kafka, topics=(topic,), follow=True, since_s=3_600),
        ("old", "young"): FollowSettings(kafka=kafka, topics=(topic,), follow=True, beginning=True),
    }
    begun = {before: following(how) for before, how in settings.items()}
    lay(kafka, topic, [Laid(event("new"), 0, NOW_MS - 7_200_000)])
    found = {before: names(some(how, len(before) + 1)) for before, how in begun.items()}
    lay(kafka, topic, [Laid(event("newer"), 1, NOW_MS)])
    later = [names(some(how, 1)) for how in begun.values()]
    for how in begun.values():
        how.close()

    assert found[()] == ["new"]
    assert {before: sorted(got) for before, got in found.items()} == {b: sorted([*b, "new"]) for b in begun}
    assert later == [["newer"]] * 3


@pytest.mark.kafka
def test_it_ends_at_what_was_there_at_the_start(kafka: str, topics: Topics) -> None:
    """Without --follow, a topic that is written faster than it is read ends all the same."""
    topic = create(kafka, topics.payloads, 2)
    lay(kafka, topic, [Laid(event("first"), 0)])
    begun = following(FollowSettings(kafka=kafka, topics=(topic,)))
    lay(kafka, topic, [Laid(event("late"), 0), Laid(event("late, too"), 1)])

    assert names([line for line in begun if line is not None]) == ["first"]


@pytest.mark.kafka
def test_ends_that_hold_no_records_are_ends(kafka: str, topics: Topics) -> None:
    """Aborted transactions, their markers, and records that have expired leave holes; none is waited for."""
    topic = create(kafka, topics.payloads, 4)
    lay(kafka, topic, [Laid(event(f"{name}{partition}"), partition) for partition in (0, 1, 2) for name in "ab"])
    lay_aborted(kafka, topic, [Laid(event("never"), 0), Laid(event("never"), 3)])
    expire(kafka, topic, 1, 1)
    expire(kafka, topic, 2, 2)

    assert sorted(names(read(FollowSettings(kafka=kafka, topics=(topic,))))) == ["a0", "b0", "b1"]


@pytest.mark.kafka
def test_unreadable_records_come_with_their_place(kafka: str, topics: Topics) -> None:
    """What is no event is shown as such, between its neighbours; nothing is skipped in silence."""
    topic = create(kafka, topics.payloads)
    broken = ((("ce_specversion", b"1.0"), ("ce_id", b"\xff")), b"{}")
    lay(kafka, topic, [Laid(event("before")), Laid(NO_EVENT), Laid(broken), Laid(((), None)), Laid(event("after"))])
    found = read(FollowSettings(kafka=kafka, topics=(topic,)))

    assert [line.offset for line in found] == [0, 1, 2, 3, 4]
    assert [line.event.id if line.event else line.problem.partition(":")[0] for line in found] == [
        "before", "not-a-cloudevent", "encoding", "not-a-cloudevent", "after",
    ]  # fmt: skip


@pytest.mark.kafka
def test_reading_leaves_nothing_behind(kafka: str, topics: Topics) -> None:
    """A look changes nothing for anyone: no position is committed, so the next look begins as this one did."""
    topic = create(kafka, topics.payloads)
    lay(kafka, topic, [Laid(event("one"))])
    settings = FollowSettings(kafka=kafka, topics=(topic,))
    first, second = names(read(settings)), names(read(settings))
    with closing(Consumer({"bootstrap.servers": kafka, "group.id": "sidelight-follow"})) as consumer:
        (committed,) = consumer.committed([TopicPartition(topic, 0)], 10)

    assert first == second == ["one"]
    assert committed.offset == OFFSET_INVALID


@pytest.mark.kafka
def test_a_missing_topic_is_named(kafka: str, topics: Topics) -> None:
    """Which topic, where, and what to do; and asking for it does not create it."""
    settings = FollowSettings(kafka=kafka, topics=(topics.payloads,), follow=True)
    for _ in range(2):
        with pytest.raises(UserError, match=rf"'{topics.payloads}' does not exist at {kafka}; .*--prefix"):
            next(lines(settings))


def test_a_broker_that_does_not_answer_is_named() -> None:
    """A wrong address, or a broker that is down, is one clear sentence."""
    kafka = f"127.0.0.1:{free_port()}"
    with pytest.raises(UserError, match=f"Kafka at {kafka} does not answer"):
        next(lines(FollowSettings(kafka=kafka, topics=("inference.payloads",), answer_s=0.3)))


def test_following_goes_on_after_an_outage() -> None:
    """Who follows alerts overnight still does so in the morning, though the broker was restarted in between."""
    with MockCluster({"t": 1}) as cluster:
        found = following(FollowSettings(kafka=cluster.bootstrap, topics=("t",), follow=True))
        lay(cluster.bootstrap, "t", [Laid(event("before"))])
        before = names(some(found, 1))
        cluster.down()
        silence = next(found)
        cluster.up()
        lay(cluster.bootstrap, "t", [Laid(event("after"))])

        assert before == ["before"]
        assert silence is None
        assert names(some(found, 1)) == ["after"]
        found.close()


@given(st.integers(1, 999_999_999), st.sampled_from([("s", 1), ("m", 60), ("h", 3_600), ("d", 86_400)]))
def test_durations(number: int, unit: tuple[str, int]) -> None:
    """A number and one of four units."""
    assert duration(f"{number}{unit[0]}") == number * unit[1]


@pytest.mark.parametrize("text", ["", "10", "m", "0s", "-1h", "1.5h", "1w", "1 h", "1h ", "\u0661h", "9" * 5_000 + "d"])
def test_other_durations_are_refused(text: str) -> None:
    """The message says what is expected, whatever was given."""
    with pytest.raises(UserError, match="expected a time such as 90s, 10m, 2h or 1d, got"):
        duration(text)


def test_only_the_named_services_are_kept() -> None:
    """None named means all; a service is its namespace and its name."""
    found = event("e", namespace="a", inferenceservicename="b")

    assert keep(found, [])
    assert keep(found, ["x/y", "a/b"])
    assert not keep(found, ["a/c", "b/a", "b"])
