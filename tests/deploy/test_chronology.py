"""One order by time out of several partitions: by what has come so far, bounded, and it always ends."""

from __future__ import annotations

from collections import deque

from hypothesis import given
from hypothesis import strategies as st

from deploy.chronology import MOST_BYTES, MOST_RECORDS, Chronology, Place

Item = tuple[Place, int]
"""Where a record came from, and its number there."""

_TIMES = st.lists(st.lists(st.integers(0, 50), max_size=8), min_size=1, max_size=4)


class Reading:
    """Partitions that are read in a drawn order, and what was released of them."""

    def __init__(self, times: list[list[int]]) -> None:
        self._left = {("t", at): deque(enumerate(own)) for at, own in enumerate(times)}
        self.order: Chronology[Item] = Chronology(self._left)
        self.times = {(place, number): time for place, own in self._left.items() for number, time in own}
        self.released: list[Item] = []

    def finish(self, data: st.DataObject) -> list[Item]:
        """Read everything, in any interleaving, and take out in between at any time; give it as it came out."""
        places = list(self._left)
        while places:
            place = data.draw(st.sampled_from(places))
            if self._left[place]:
                number, time = self._left[place].popleft()
                self.order.add(place, time, 1, (place, number))
            else:
                places.remove(place)
                self.order.caught_up(place)
            if data.draw(st.booleans()):
                self.released += self.order.released()
        self.released += self.order.released()
        return self.released


@given(_TIMES, st.data())
def test_every_record_comes_once_and_in_its_partitions_order(times: list[list[int]], data: st.DataObject) -> None:
    """Whatever the times and the interleaving: nothing missing, nothing twice, no partition's own order changed."""
    reading = Reading(times)
    released = reading.finish(data)

    assert sorted(released) == sorted(reading.times)
    for at, own in enumerate(times):
        assert [number for place, number in released if place == ("t", at)] == list(range(len(own)))
    assert reading.order.finished()


@given(_TIMES, st.data())
def test_partitions_in_order_come_out_in_order(times: list[list[int]], data: st.DataObject) -> None:
    """When each partition's times ascend, as a broker's do, the whole ascends, however the partitions were read."""
    reading = Reading([sorted(own) for own in times])
    released = [reading.times[item] for item in reading.finish(data)]

    assert released == sorted(released)


@given(_TIMES, st.data())
def test_nothing_comes_before_its_turn(times: list[list[int]], data: st.DataObject) -> None:
    """A partition of which nothing has come holds the others up, as its first record may be the oldest of all."""
    order: Chronology[Item] = Chronology([("late", 0), *(("t", at) for at in range(len(times)))])
    for at in data.draw(st.permutations(range(len(times)))):
        for number, time in enumerate(times[at]):
            order.add(("t", at), time, 1, (("t", at), number))
        order.caught_up(("t", at))
    held = list(order.released())
    order.caught_up(("late", 0))

    assert held == []
    assert len(list(order.released())) == sum(map(len, times))


def test_once_read_to_its_end_a_partition_holds_up_nobody() -> None:
    """Of a quiet partition nothing may come for days: what comes elsewhere is shown at once, even if it is older."""
    order: Chronology[str] = Chronology([("t", 0), ("t", 1)])
    order.add(("t", 1), 7, 1, "seven")
    order.caught_up(("t", 0))
    order.caught_up(("t", 1))
    first = list(order.released())
    order.add(("t", 0), 5, 1, "five")

    assert first == ["seven"]
    assert list(order.released()) == ["five"]


def test_records_of_one_time_come_in_the_order_of_their_topics() -> None:
    """The same records give the same order on every run, also where times do not tell."""
    order: Chronology[str] = Chronology([("b", 0), ("a", 1), ("a", 0)])
    for place in (("b", 0), ("a", 1), ("a", 0)):
        order.add(place, 1, 1, f"{place[0]}{place[1]}")
        order.caught_up(place)

    assert list(order.released()) == ["a0", "a1", "b0"]


@given(st.lists(st.lists(st.integers(1, MOST_BYTES // 2), max_size=12), min_size=1, max_size=4), st.data())
def test_a_reader_that_heeds_crowding_keeps_little_and_ends(sizes: list[list[int]], data: st.DataObject) -> None:
    """Not fetching of crowded partitions bounds what waits, and never stops for good: someone is always awaited."""
    left = {("t", at): deque(enumerate(own)) for at, own in enumerate(sizes)}
    order: Chronology[int] = Chronology(left)
    unread, released = set(left), 0
    while not order.finished():
        fetched = data.draw(st.sampled_from(sorted(unread - order.crowded())))
        if left[fetched]:
            time, size = left[fetched].popleft()
            order.add(fetched, time, size, size)
        else:
            order.caught_up(fetched)
            unread.discard(fetched)
        assert all(held < MOST_BYTES + MOST_BYTES // 2 for held in order._bytes.values())
        released += sum(order.released())

    assert released == sum(map(sum, sizes))


def test_a_thousand_records_are_a_crowd_until_they_are_released() -> None:
    """Small records are bounded by their number; a partition can be fetched again as soon as its turn has come."""
    order: Chronology[int] = Chronology([("t", 0), ("t", 1)])
    for time in range(MOST_RECORDS):
        assert order.crowded() == set()
        order.add(("t", 0), time, 10, time)
    before = order.crowded()
    order.caught_up(("t", 1))

    assert before == {("t", 0)}
    assert list(order.released()) == list(range(MOST_RECORDS))
    assert order.crowded() == set()
