"""What a lane decides: how much may wait, what makes up a batch, when to stop joining."""

from __future__ import annotations

import math

import pytest

from inference.batching.call import Call, Urgency
from inference.batching.lane import Lane, Room
from inference.batching.terms import Terms
from inference.repository import Loaded
from inference.settings import ModelSettings, QueueLimit
from tests.inference.batching.models import Slow, Sums


def _call(size: int = 0, *, yielding: bool = False) -> Call:
    return Call("m", terms=Terms(size=size, yielding=yielding))


def _lane(runtime: Sums | None = None, settings: ModelSettings | None = None, waiting: int = 0) -> Lane:
    lane = Lane(Loaded(runtime or Sums(), "1", settings or ModelSettings()), 4, math.inf, math.inf)
    for _ in range(waiting):
        lane.push(_call())
    return lane


def _taken(lane: Lane, idle: int = 0) -> int:
    return len(lane.take(Urgency.USER, idle))


def test_calls_that_yield_have_half_the_room() -> None:
    """They can neither fill the users' room nor be pushed out of theirs."""
    room = Room(4, 1_000)
    for _ in range(2):
        assert room.fits(_call(yielding=True), 0)
        room.enter(_call(yielding=True))

    assert not room.fits(_call(yielding=True), 0)
    assert room.fits(_call(), 0)
    assert room.fits(_call(yielding=True), 1)


def test_bytes_are_bounded_but_for_the_only_call() -> None:
    """One call that is bigger than all the room is taken when nothing else waits."""
    room = Room(10, 100)
    big = _call(500)

    assert room.fits(big, 0)
    room.enter(big)
    assert not room.fits(_call(1), 0)
    room.leave(big)
    assert room.fits(_call(1), 0)


def test_batches_are_taken_by_what_calls_were_like() -> None:
    """Rows per call are learnt, so that a batch of calls yet unread is not far from the limit."""
    lane = _lane(waiting=40)
    assert _taken(lane) == 8
    for _ in range(40):
        lane.learn(rows=8, calls=2, compute_s=0.0001)

    assert _taken(lane) == 2


class _Computes(Sums):
    """A model that an event loop may run."""

    computes = True


@pytest.mark.parametrize(
    ("runtime", "settings", "calls"),
    [
        (_Computes(), ModelSettings(), 5),
        (_Computes(), ModelSettings(max_batch=16), 2),
        (_Computes(), ModelSettings(pad_to=(8, 16)), 2),
        (Sums(), ModelSettings(), 1),
    ],
)
def test_quick_models_are_given_as_many_rows_as_stay_short(runtime: Sums, settings: ModelSettings, calls: int) -> None:
    """A quarter of a millisecond of rows is joined, unless the operator named a limit or threads have to predict."""
    lane = _lane(runtime, settings, waiting=40)
    for _ in range(60):
        lane.learn(rows=8, calls=1, compute_s=0.00005)

    assert _taken(lane) == calls


def test_long_batches_are_shared_with_idle_threads() -> None:
    """What takes long is spread over the threads that have nothing to do; what is short stays together."""
    lane = _lane(settings=ModelSettings(max_batch=100), waiting=12)
    lane.learn(rows=1, calls=1, compute_s=0.0001)
    assert _taken(lane, idle=3) == 12

    lane = _lane(settings=ModelSettings(max_batch=100), waiting=12)
    for _ in range(20):
        lane.learn(rows=1, calls=1, compute_s=0.1)

    assert _taken(lane, idle=3) == 3
    assert _taken(lane, idle=0) == 9


def test_threads_that_would_wait_for_their_turn_get_no_share() -> None:
    """A model that takes one thread at a time keeps its batches whole."""
    lane = _lane(Slow(), waiting=8)
    for _ in range(20):
        lane.learn(rows=1, calls=1, compute_s=0.1)

    assert _taken(lane, idle=3) == 8


def test_joining_that_fails_is_tried_less_and_less() -> None:
    """After each failure calls stay apart for twice as many turns; one success forgets it."""
    lane = _lane(waiting=400)
    found = []
    for _ in range(3):
        while (taken := _taken(lane)) == 1:
            found.append(taken)
        found.append(taken)
        lane.joined(well=False)
    lane.joined(well=True)
    lane.joined(well=False)

    assert found == [8, 1, 8, 1, 1, 8]
    assert [_taken(lane) for _ in range(3)] == [1, 8, 8]


@pytest.mark.parametrize(
    ("settings", "limit"),
    [
        (ModelSettings(), 8),
        (ModelSettings(max_batch=32), 32),
        (ModelSettings(pad_to=(1, 2, 4)), 4),
        (ModelSettings(pad_to=(1, 2, 4), max_batch=2), 2),
    ],
)
def test_the_limit_comes_from_settings_or_runtime(settings: ModelSettings, limit: int) -> None:
    """The operator's word first, then the largest padded size, then the runtime's own."""
    assert _lane(settings=settings).max_batch == limit


def test_limits_of_the_process_hold_where_the_model_has_none() -> None:
    """A model's own limit may also be wider than half of the process's."""
    lane = Lane(Loaded(Sums(), "1", ModelSettings(queue=QueueLimit(calls=0))), 4, 10, 10)

    assert not lane.room.fits(_call(), 0)
    assert lane.room.fits(_call(), 1)
