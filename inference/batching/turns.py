"""What those who run batches share, threads and event loops: the lanes, who waits, and whose turn it is.

All of it changes under one lock, which the caller of a method holds unless the method says otherwise. Used by
`inference/batching/batcher.py`, where calls come in, and by `inline.py`, where event loops run them.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Protocol, Self

from inference.batching.agenda import Agenda
from inference.batching.call import Call, State, Urgency
from inference.batching.lane import Lane, Room
from inference.batching.prediction import Prediction
from inference.batching.rate import Rate
from inference.batching.sleepers import Sleeper, Sleepers
from inference.batching.waiting import late, release
from inference.errors import Overloaded, Postponed
from inference.repository import Lease, Loaded
from inference.runtime import Runtime

_ASKED_FOR: Final = 4
"""For each call that may wait for its model, so many that have ceased to may be in the repository's hands."""


class Observer(Protocol):
    """Who is told what was done. Called on worker threads; must not wait."""

    def predicted(self, calls: Sequence[Call], rows: int) -> None:
        """Take note of calls that were predicted on together."""

    def unread(self, call: Call) -> None:
        """Take note of a call that could not be decoded."""

    def spoilt(self, call: Call) -> None:
        """Take note of a call that failed otherwise before there was an answer."""

    def served(self, call: Call, seconds: float) -> None:
        """Take note of a call that had the model for itself for so long."""


@dataclass(slots=True)
class Turn:
    """What was taken to be run at once."""

    lane: Lane
    urgency: Urgency
    calls: list[Call]
    over: list[Call] = field(default_factory=list)
    left: list[Call] = field(default_factory=list)
    """Taken and read, but of no place in this batch: they go back."""


class _Living(weakref.ref[Runtime]):
    """A loaded runtime, as long as it lives; it knows its key, so that what forgets it is one for all."""

    __slots__ = ("key",)

    key: int

    def __new__(cls, runtime: Runtime, gone: Callable[[_Living], None]) -> Self:
        living = super().__new__(cls, runtime, gone)
        living.key = id(runtime)
        return living


def _forget(lanes: dict[int, tuple[_Living, Lane]], gone: _Living) -> None:
    lanes.pop(gone.key, None)


class Turns:
    """The turns of `threads` threads, and of the event loops beside them."""

    def __init__(self, observer: Observer, threads: int, queue: int, queue_bytes: float, yielding_every: int) -> None:
        self._observer = observer
        self._limits = threads, queue, queue_bytes
        self.lock = threading.Lock()
        self.closed = False
        self._lanes: dict[int, tuple[_Living, Lane]] = {}
        """By the identity of a loaded runtime, as long as that lives."""
        self._forget = partial(_forget, self._lanes)
        self.agenda = Agenda(threads, yielding_every)
        self.sleepers = Sleepers(self.lock, self.agenda)
        self.running = 0
        self.starting = threads
        """Threads that have not come so far as to take a turn."""
        self.room = Room(queue, queue_bytes)
        self.coming = Room(queue, queue_bytes / 2)
        """Of calls whose models are yet to be loaded: many that wait for a slow load are in no loaded model's way."""
        self._asked_for = 0
        """What the repository is to give, also to those who have left: a shell of each stays with it until then."""
        self._most_asked_for = _ASKED_FOR * (queue + threads)
        self._rate = Rate()

    def lane(self, loaded: Loaded) -> Lane:
        """Give the queues of a loaded model."""
        known = self._lanes.get(id(loaded.runtime))
        if known is not None:
            return known[1]
        living, lane = _Living(loaded.runtime, self._forget), Lane(loaded, *self._limits)
        self._lanes[living.key] = living, lane
        return lane

    def expect(self, call: Call) -> None:
        """Let a call in to wait for its model: the repository is asked for it next, and its outcome to be `told`.

        Raises:
            Overloaded: too much is waiting.
        """
        if self._asked_for >= self._most_asked_for:
            raise self._refusal(call, self._asked_for, self._rate)
        self._admit(call, self.coming, self._rate)
        self.coming.enter(call)
        self._asked_for += 1

    def told(self, call: Call) -> bool:
        """Take note that the repository has answered for a call; False: nobody waits for it any more."""
        self._asked_for -= 1
        if call.state is not State.WAITING:
            return False
        self.coming.leave(call)
        return True

    def put(self, call: Call, lane: Lane, lease: Lease) -> None:
        """Let a call in to wait in its lane. Raises what `expect` raises; then the lease is still the caller's."""
        self._admit(call, lane.room, lane.rate)
        self._admit(call, self.room, self._rate)
        self.line_up(call, lane, lease)

    def line_up(self, call: Call, lane: Lane, lease: Lease) -> None:
        """Put a call into its lane that was let in."""
        call.lease, call.lane = lease, lane
        self.room.enter(call)
        lane.room.enter(call)
        lane.push(call)
        self.agenda.put(lane, call.urgency)

    def remove(self, call: Call) -> None:
        """Take out a call that waits, for its model or in its lane."""
        if call.lane is None:
            self.coming.leave(call)
            return
        self.room.leave(call)
        call.lane.room.leave(call)
        call.lane.remove(call)

    @property
    def waiting(self) -> int:
        """Count the calls that wait, for their models or in their lanes. Takes no lock."""
        return sum(self.room.calls) + sum(self.coming.calls)

    def take_next(self, now: float) -> Turn | None:
        """Take the turn that a thread is to run next."""
        found = self.agenda.next(now)
        return None if found is None else self.take(*found, len(self.sleepers.idle))

    def take(self, lane: Lane, urgency: Urgency, idle: int, *, inline: bool = False) -> Turn:
        """Take a turn of a lane that was taken from the agenda; so many threads could share in what waits."""
        calls = lane.take(urgency, idle, inline=inline)
        for call in calls:
            call.state = State.RUNNING
            self.room.leave(call)
            lane.room.leave(call)
        lane.running += 1
        self.running += len(calls)
        self.agenda.yielding += urgency is Urgency.YIELDING
        self.agenda.put(lane, urgency)
        return Turn(lane, urgency, calls)

    def account(self, turn: Turn, now: float) -> None:
        """Take note of a turn that was run."""
        lane = turn.lane
        lane.running -= 1
        self.running -= len(turn.calls)
        self.agenda.yielding -= turn.urgency is Urgency.YIELDING
        for call in turn.over:
            call.state = State.OVER
        for call in turn.left:
            call.state = State.WAITING
            self.room.enter(call)
            lane.room.enter(call)
        if turn.left:
            lane.push_back(turn.left)
        if turn.over:
            lane.rate.add(len(turn.over), now)
            self._rate.add(len(turn.over), now)
        self.agenda.put(lane, Urgency.USER)
        self.agenda.put(lane, Urgency.YIELDING)

    def close(self) -> tuple[list[Call], list[Sleeper]]:
        """Begin no more turns; give what waited, and the threads that are to be woken for their end."""
        self.closed = True
        dropped = [call for _, lane in list(self._lanes.values()) for call in lane.clear()]
        for call in dropped:
            self.room.leave(call)
        sleepers, self.sleepers.idle = self.sleepers.idle, []
        return dropped, sleepers

    def run(self, turn: Turn) -> None:
        """Run a turn, without the lock. Never raises."""
        now = time.monotonic()
        wanted: list[Call] = []
        for call in turn.calls:
            if call.abandoned():
                turn.over.append(call)
            elif call.deadline <= now:
                call.error = late(call)
                self._observer.spoilt(call)
                turn.over.append(call)
            else:
                call.started = call.started or now
                wanted.append(call)
        if wanted:
            prediction = Prediction(turn.lane, turn.urgency, self._observer)
            turn.left = prediction.run(wanted)
            turn.over += [call for call in wanted if call not in turn.left] if turn.left else wanted
        release(turn.over)

    def _admit(self, call: Call, room: Room, rate: Rate) -> None:
        if room.fits(call, len(self.sleepers.idle) + self.sleepers.waking + self.starting):
            return
        raise self._refusal(call, sum(room.calls), rate)

    def _refusal(self, call: Call, waiting: int, rate: Rate) -> Overloaded:
        kind = Postponed if call.urgency is Urgency.YIELDING else Overloaded
        return kind(waiting + self.running, rate.retry_after_s(waiting, time.monotonic()))
