"""When a host reads: never into a full queue, never one partition at another's cost."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from streams.hosts.pace import Pace


def test_queues_of_one_pace_wait_together() -> None:
    """From full to half empty nothing is read, and nothing paused, which would have it fetched again."""
    pace = Pace()
    said = [
        pace.decide({0: fill, 1: fill - 0.1}, 0.1 * step) for step, fill in enumerate((0.9, 1.0, 0.8, 0.51, 0.5, 0.9))
    ]

    assert said == [(True, ()), (False, ()), (False, ()), (False, ()), (True, ()), (True, ())]


def test_nobody_starves_beside_a_full_queue() -> None:
    """A partition whose stage is behind is paused as soon as another has little left, and that one is read."""
    pace = Pace()

    assert pace.decide({0: 1.0, 1: 0.3}, 0.0) == (False, ())
    assert pace.decide({0: 0.9, 1: 0.25}, 0.1) == (True, [0])
    assert pace.decide({1: 0.25}, 0.2) == (True, ())


def test_a_slow_stage_is_paused_in_time() -> None:
    """The client is asked again within a second, whatever the stages do: the group must not wait for this member."""
    pace = Pace()

    assert pace.decide({0: 1.0}, 5.0) == (False, ())
    assert pace.decide({0: 0.99}, 5.9) == (False, ())
    assert pace.decide({0: 0.98}, 6.0) == (True, [0])


def test_without_partitions_it_reads() -> None:
    """That is how it gets some."""
    assert Pace().decide({}, 0.0) == (True, ())


@given(st.lists(st.dictionaries(st.integers(0, 3), st.floats(0, 2), max_size=3)), st.floats(0.01, 3))
def test_a_full_queue_is_never_read_into(drawn: list[dict[int, float]], step: float) -> None:
    """Where it reads, what is full is paused; and it never waits for more than a second."""
    pace, waited = Pace(), 0.0
    for place, fills in enumerate(drawn):
        reads, paused = pace.decide(fills, place * step)
        waited = 0.0 if reads else waited + step

        assert not reads or all(fill < 1 or partition in paused for partition, fill in fills.items())
        assert waited < 1.0 + 2 * step
