"""Adaptive batching: idle, a call runs at once; busy, what waits for the same model is joined and runs as one.

One pool of threads for all models. A thread that becomes free takes what waits for the next model in turn, up to a
batch, decodes it, predicts once, and hands every caller its rows; the event loop is woken once per batch. A batch that
fails is done again call by call, so that nobody pays for another's rows. Models whose settings say so wait a little for
company. Predictions that proved short need no thread: the event loop that brought the calls runs them itself, joined
with what else has come in by then. Used by `inference/dataplane.py`. Who is next is decided in `agenda.py`, what is
joined in `lane.py`, how in `joining.py`; `sleepers.py` has the idle threads, and `waiting.py` tells the callers.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
import weakref
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from inference.batching.agenda import Agenda
from inference.batching.call import Call, State, Urgency, presentable
from inference.batching.lane import Lane, Room
from inference.batching.prediction import Prediction
from inference.batching.rate import Rate
from inference.batching.sleepers import Sleeper, Sleepers
from inference.batching.waiting import Patience, deliver, late, release
from inference.errors import ModelNotReady, Overloaded, Postponed
from inference.repository import Lease, Loaded
from inference.runtime import Runtime

log = logging.getLogger(__name__)

_INLINE_BYTES: Final = 1 << 18
"""Longer bodies, and those that may prove longer, are read on a thread, however short the model's predictions are."""
_STINT_S: Final = 0.002
"""How long an event loop runs batches before it looks at its sockets again."""
_OVERRUN_S: Final = 0.1
"""A batch that took an event loop so long did something else than to compute."""


class Observer(Protocol):
    """Who is told what was done. Called on worker threads; must not wait."""

    def predicted(self, calls: Sequence[Call], rows: int) -> None:
        """Take note of calls that were predicted on together."""

    def unread(self, call: Call) -> None:
        """Take note of a call that could not be decoded."""


class Loader(Protocol):
    """The part of a repository that loads for a request; see `inference/repository.py`."""

    def lease(self, name: str, version: str | None = None) -> Lease | None:
        """Hold a loaded model."""

    def lease_later(self, name: str, version: str | None, done: Callable[[Lease | Exception], None]) -> None:
        """Load it first."""


@dataclass(slots=True)
class _Turn:
    """What a thread has taken."""

    lane: Lane
    urgency: Urgency
    calls: list[Call]
    over: list[Call] = field(default_factory=list)
    left: list[Call] = field(default_factory=list)
    """Taken and read, but of no place in this batch: they go back."""


class Batcher:
    """Runs calls on `threads` threads. Thread-safe; callers wait on a thread of their own or on an event loop."""

    def __init__(
        self,
        models: Loader,
        observer: Observer,
        *,
        threads: int = 4,
        queue: int = 256,
        queue_bytes: float = math.inf,
        timeout_s: float = 60.0,
        yielding_every: int = 8,
        enter: Callable[[], None] | None = None,
    ) -> None:
        self._models, self._observer = models, observer
        self._enter = enter
        self.timeout_s = timeout_s
        """What a call gets, whatever its own terms."""
        self._limits = threads, queue, queue_bytes
        self._threads = [threading.Thread(target=self._serve, name="predict", daemon=True) for _ in range(threads)]
        self._started = self._closed = False
        self._lock = threading.Lock()
        self._lanes: dict[int, tuple[weakref.ref[Runtime], Lane]] = {}
        """By the identity of a loaded runtime, as long as that lives."""
        self._agenda = Agenda(threads, yielding_every)
        self._sleepers = Sleepers(self._lock, self._agenda)
        self._running = 0
        self._starting = threads
        self._room = Room(queue, queue_bytes)
        self._rate = Rate()
        self._summoned: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, bool] = weakref.WeakKeyDictionary()
        """Event loops that run batches themselves: whether one is about to."""

    @property
    def in_progress(self) -> int:
        """Count the calls that wait or run."""
        return self._running + sum(self._room.calls)

    @property
    def waiting(self) -> int:
        """Count the calls that wait."""
        return sum(self._room.calls)

    async def run(
        self, call: Call, version: str | None = None, gone: Callable[[], Awaitable[None]] | None = None
    ) -> Any:  # noqa: ANN401 - whatever the call's finish gives
        """Run a call and wait for it; cancelled, it leaves the queue.

        Args:
            call: not used before.
            version: of the model; None: the only one.
            gone: returns when the client has gone away. Asked only about calls that take long.

        Raises:
            ModelNotFound, ModelNotReady: see `inference/repository.py`.
            Overloaded: too much is waiting.
            DeadlineExceeded: not done in time. A call that has not started never will; one that has runs on for nobody.
            ClientGone: `gone` returned.
        """
        loop = asyncio.get_running_loop()
        call.loop, call.answer = loop, loop.create_future()
        self._submit(call, version)
        patience = Patience(self._withdraw, call, loop, gone)
        try:
            return await call.answer
        except asyncio.CancelledError:
            self._withdraw(call)
            raise
        finally:
            patience.end()

    def begin(self, call: Call, version: str | None = None) -> None:
        """Begin a call whose caller comes back to `wait` for it, on a thread that is not the batcher's.

        Raises what `run` raises at once.
        """
        call.gate = threading.Lock()
        call.gate.acquire()
        self._submit(call, version)

    def wait(self, call: Call) -> Any:  # noqa: ANN401 - as above
        """Wait, once, for a call that has begun. Raises what `run` raises."""
        assert call.gate is not None  # noqa: S101 - it has begun
        if not call.gate.acquire(timeout=min(max(0.0, call.deadline - time.monotonic()), threading.TIMEOUT_MAX)):
            self._withdraw(call)
            raise late(call)
        if call.error is not None:
            raise presentable(call.error)
        return call.result

    def start(self, call: Call, version: str | None = None) -> None:
        """Run a call that nobody waits for; its `finish` is all that comes of it. Raises what `run` raises at once."""
        self._submit(call, version)

    def close(self, grace_s: float = 1.0) -> None:
        """Drop what waits, and give what runs a moment."""
        with self._lock:
            self._closed = True
            dropped = [call for _, lane in list(self._lanes.values()) for call in lane.clear()]
            for call in dropped:
                self._room.leave(call)
                call.state, call.error = State.OVER, ModelNotReady(call.model)
            sleepers, self._sleepers.idle = self._sleepers.idle, []
            started = self._started
        for sleeper in sleepers:
            sleeper.lock.release()
        release(dropped)
        deliver(dropped)
        deadline = time.monotonic() + grace_s
        for thread in self._threads if started else ():
            thread.join(max(0.0, deadline - time.monotonic()))

    # On the caller's thread.

    def _submit(self, call: Call, version: str | None) -> None:
        lease = self._models.lease(call.model, version)
        if lease is not None:
            try:
                self._enqueue(call, lease)
            except BaseException:
                lease.release()
                raise
            return
        with self._lock:
            self._admit(call, self._room, self._rate)
            self._room.enter(call)
        self._models.lease_later(call.model, version, lambda outcome: self._loaded(call, outcome))

    def _enqueue(self, call: Call, lease: Lease) -> None:
        with self._lock:
            if self._closed:
                raise ModelNotReady(call.model)
            lane = self._lane(lease.loaded)
            self._admit(call, self._room, self._rate)
            self._admit(call, lane.room, lane.rate)
            self._room.enter(call)
            inline = call.loop is not None and lane.quick(call.arrived) and call.size <= _INLINE_BYTES
            inline = inline and call.urgency is Urgency.USER and not call.terms.packed
            sleeper = self._put(call, lease, lane, inline=inline)
        if inline and call.loop is not None:
            self._summon(call.loop)
        if sleeper is not None:
            sleeper.lock.release()
        if not self._started:
            self._start()

    def _admit(self, call: Call, room: Room, rate: Rate) -> None:
        if room.fits(call, len(self._sleepers.idle) + self._sleepers.waking + self._starting):
            return
        kind = Postponed if call.urgency is Urgency.YIELDING else Overloaded
        waiting = sum(room.calls)
        raise kind(waiting + self._running, rate.retry_after_s(waiting, time.monotonic()))

    def _put(self, call: Call, lease: Lease, lane: Lane, *, inline: bool = False) -> Sleeper | None:
        """Put a call into its lane; give a thread to wake, unless the caller's loop comes for it. Under the lock."""
        call.lease, call.lane = lease, lane
        lane.room.enter(call)
        lane.push(call)
        self._agenda.put(lane, call.urgency)
        return None if inline else self._sleepers.baton()

    def _loaded(self, call: Call, outcome: Lease | Exception) -> None:
        """Take a model that had to be loaded. On a thread of the repository's."""
        put, failed, sleeper = False, False, None
        with self._lock:
            wanted = call.state is State.WAITING
            if isinstance(outcome, Lease) and wanted and not self._closed:
                put, sleeper = True, self._put(call, outcome, self._lane(outcome.loaded))
            elif wanted:
                failed = True
                self._room.leave(call)
                call.state = State.OVER
                call.error = outcome if isinstance(outcome, Exception) else ModelNotReady(call.model)
        if sleeper is not None:
            sleeper.lock.release()
        # Once put, the call may be over by now, and is no longer looked at here.
        if failed:
            deliver([call])
        if isinstance(outcome, Lease) and not put:
            outcome.release()
        if put and not self._started:
            self._start()

    def _withdraw(self, call: Call) -> None:
        """Take a call that nobody waits for any more out of the queue."""
        with self._lock:
            if call.state is not State.WAITING:
                return
            call.state = State.OVER
            self._room.leave(call)
            if call.lane is not None:
                call.lane.room.leave(call)
                call.lane.remove(call)
            lease, call.lease = call.lease, None
        if lease is not None:
            lease.release()

    def _lane(self, loaded: Loaded) -> Lane:
        key = id(loaded.runtime)
        known = self._lanes.get(key)
        if known is not None:
            return known[1]
        lane = Lane(loaded, *self._limits)
        self._lanes[key] = weakref.ref(loaded.runtime, lambda _: self._lanes.pop(key, None)), lane
        return lane

    def _start(self) -> None:
        with self._lock:
            if self._started or self._closed:
                return
            self._started = True
            # Under the lock: a close that sees the flag joins them all.
            for thread in self._threads:
                thread.start()

    # Under the lock.

    def _take(self, now: float) -> _Turn | None:
        found = self._agenda.next(now)
        return None if found is None else self._turn(*found, len(self._sleepers.idle))

    def _turn(self, lane: Lane, urgency: Urgency, idle: int) -> _Turn:
        calls = lane.take(urgency, idle)
        for call in calls:
            call.state = State.RUNNING
            self._room.leave(call)
            lane.room.leave(call)
        lane.running += 1
        self._running += len(calls)
        self._agenda.yielding += urgency is Urgency.YIELDING
        self._agenda.put(lane, urgency)
        return _Turn(lane, urgency, calls)

    def _account(self, turn: _Turn, now: float) -> None:
        lane = turn.lane
        lane.running -= 1
        self._running -= len(turn.calls)
        self._agenda.yielding -= turn.urgency is Urgency.YIELDING
        for call in turn.over:
            call.state = State.OVER
        for call in turn.left:
            call.state = State.WAITING
            self._room.enter(call)
            lane.room.enter(call)
        if turn.left:
            lane.push_back(turn.left)
        if turn.over:
            lane.rate.add(len(turn.over), now)
            self._rate.add(len(turn.over), now)
        self._agenda.put(lane, Urgency.USER)
        self._agenda.put(lane, Urgency.YIELDING)

    # On an event loop's thread.

    def _summon(self, loop: asyncio.AbstractEventLoop) -> None:
        """Have a loop run what waits for quick models, once it has read whatever else has come in by now."""
        if self._enter is not None and loop not in self._summoned:
            self._enter()
        if not self._summoned.get(loop):
            self._summoned[loop] = True
            loop.call_soon(self._attend, loop)

    def _attend(self, loop: asyncio.AbstractEventLoop) -> None:
        """Run batches one after the other, as long as a loop can bear it."""
        self._summoned[loop] = False
        over: list[Call] = []
        begun = now = time.monotonic()
        turn: _Turn | None = None
        while True:
            with self._lock:
                if turn is not None:
                    self._account(turn, now)
                lane = self._agenda.quick(now)
                more = lane is not None and now - begun >= _STINT_S
                turn = None
                if lane is not None and not more:
                    self._agenda.take(lane)
                    # No thread is to share in what is as short as this.
                    turn = self._turn(lane, Urgency.USER, 0)
                # For what is not quick, or turned out not to be.
                sleeper = None if more or turn is not None else self._sleepers.baton()
            if turn is None:
                break
            over += self._work(turn).over
            before, now = now, time.monotonic()
            if now - before > _OVERRUN_S:
                turn.lane.overran(now)
        if sleeper is not None:
            sleeper.lock.release()
        if more:
            self._summon(loop)
        deliver(over, loop)

    # On a worker thread.

    def _serve(self) -> None:
        if self._enter is not None:
            self._enter()
        sleeper = Sleeper()
        done: _Turn | None = None
        woken = False
        with self._lock:
            self._starting -= 1
        while True:
            now = time.monotonic()
            with self._lock:
                self._sleepers.waking -= woken
                if done is not None:
                    self._account(done, now)
                turn = self._take(now)
                if turn is None:
                    if self._closed:
                        break
                    self._sleepers.lie_down(sleeper)
                    baton = None
                else:
                    baton = self._sleepers.baton()
            if baton is not None:
                baton.lock.release()
            if done is not None:
                deliver(done.over)
                done = None
            if turn is None:
                woken = self._sleepers.sleep(sleeper)
                continue
            woken = False
            done = self._work(turn)
        if done is not None:
            deliver(done.over)

    def _work(self, turn: _Turn) -> _Turn:
        """Do a turn. Never raises."""
        now = time.monotonic()
        wanted: list[Call] = []
        for call in turn.calls:
            if call.abandoned():
                turn.over.append(call)
            elif call.deadline <= now:
                call.error = late(call)
                turn.over.append(call)
            else:
                call.started = call.started or now
                wanted.append(call)
        if wanted:
            prediction = Prediction(turn.lane, turn.urgency, self._observer)
            turn.left = prediction.run(wanted)
            turn.over += [call for call in wanted if call not in turn.left] if turn.left else wanted
        release(turn.over)
        return turn
