"""Who goes together, and when, on a clock of the test's own."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from logger.batching.gathering import Gathering, Group
from logger.batching.settings import BatchSettings


def gathering(**settings: int) -> Gathering[str]:
    """Make one with few rows to a batch."""
    return Gathering(BatchSettings(**{"max_rows": 4, **settings}))  # type: ignore[arg-type] # one of them is a bool


def members(groups: list[Group[str]]) -> list[list[str]]:
    """Give who is in the groups."""
    return [group.members for group in groups]


def test_a_full_group_goes_at_once() -> None:
    """Four rows are reached exactly: nobody waits any longer."""
    waiting = gathering()

    assert members(waiting.add("k", "a", 3, 10, 0.0, 5.0)) == []
    assert members(waiting.add("k", "b", 1, 10, 0.0, 5.0)) == [["a", "b"]]
    assert waiting.next_due() is None


def test_a_call_that_does_not_fit_begins_the_next_group() -> None:
    """Five rows would be too many: the first three go, the other two wait for company."""
    waiting = gathering()
    waiting.add("k", "a", 3, 10, 0.0, 5.0)

    assert members(waiting.add("k", "b", 2, 10, 1.0, 6.0)) == [["a"]]
    assert waiting.next_due() == 6.0


def test_the_least_patient_member_decides() -> None:
    """A group goes when the first of its members has waited long enough, and not before."""
    waiting = gathering()
    waiting.add("k", "a", 1, 10, 0.0, 5.0)
    waiting.add("k", "b", 1, 10, 1.0, 2.0)

    assert members(waiting.due(1.9)) == []
    assert members(waiting.due(2.0)) == [["a", "b"]]


def test_kinds_do_not_mix() -> None:
    """Each key has a group of its own."""
    waiting = gathering()
    waiting.add("k", "a", 1, 10, 0.0, 5.0)
    waiting.add("l", "b", 1, 10, 0.0, 4.0)

    assert members(waiting.due(4.0)) == [["b"]]
    assert members(waiting.due(5.0)) == [["a"]]


def test_early_waits_only_while_one_is_on_its_way() -> None:
    """The first goes at once; who comes meanwhile goes together as soon as it is back."""
    waiting = gathering(early=True)

    assert members(waiting.add("k", "a", 1, 10, 0.0, 5.0)) == [["a"]]
    assert members(waiting.add("k", "b", 1, 10, 0.1, 5.1)) == []
    assert members(waiting.add("k", "c", 1, 10, 0.2, 5.2)) == []
    assert members(waiting.over("k")) == [["b", "c"]]
    assert members(waiting.over("k")) == []


def test_who_leaves_is_not_waited_for() -> None:
    """A client that goes away takes its rows along; the last one takes the group."""
    waiting = gathering()
    waiting.add("k", "a", 3, 10, 0.0, 5.0)
    waiting.add("k", "b", 3, 10, 0.0, 5.0)
    waiting.remove("k", "b", 3, 10)

    assert waiting.next_due() is None
    assert members(waiting.add("k", "c", 3, 10, 0.0, 5.0)) == []
    waiting.remove("k", "nobody", 1, 10)
    assert members(list(waiting.everything())) == [["c"]]


def test_memory_is_bounded() -> None:
    """Above the bound the group that is due first goes before its time."""
    waiting = gathering(max_waiting_bytes=100)
    waiting.add("k", "a", 1, 60, 0.0, 5.0)

    assert members(waiting.add("l", "b", 1, 60, 0.0, 6.0)) == [["a"]]


@given(st.lists(st.tuples(st.sampled_from("kl"), st.integers(1, 3), st.floats(0, 1), st.booleans()), max_size=30))
def test_everybody_goes_once_in_time_and_in_bounds(calls: list[tuple[str, int, float, bool]]) -> None:
    """Whatever comes when: each call leaves once or is withdrawn, no later than its time, and no group is too large."""
    waiting, now, left = gathering(), 0.0, list[str]()
    rows: dict[str, int] = {}
    dues: dict[str, float] = {}
    for index, (key, count, pause, withdrawn) in enumerate(calls):
        now += pause
        name = f"{key}{index}"
        rows[name], dues[name] = count, now + 1.5
        gone = waiting.due(now) + waiting.add(key, name, count, 1, now, now + 1.5)
        if withdrawn and name not in [member for group in gone for member in group.members]:
            waiting.remove(key, name, count, 1)
            left.append(name)
        for group in gone:
            left += group.members
            assert sum(rows[name] for name in group.members) <= 4
            assert {name[0] for name in group.members} == {group.key}
        overdue = [name for name in rows if name not in left and dues[name] <= now]
        assert overdue == []
    left += [name for group in waiting.everything() for name in group.members]

    assert sorted(left) == sorted(rows)
