"""Adaptive batching: idle, a call runs at once; busy, what waits for the same model is joined and runs as one.

One pool of threads for all models. A thread that becomes free takes what waits for the next model in turn, up to a
batch, decodes it, predicts once, and hands every caller its rows; the event loop is woken once per batch. A batch that
fails is done again call by call, so that nobody pays for another's rows. Models whose settings say so wait a little for
company. Used by `inference/dataplane.py`; what is joined is decided in `lane.py`, how in `joining.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import logging
import math
import threading
import time
import weakref
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from inference.batching.call import Call, State, Urgency, presentable
from inference.batching.lane import Lane, Room
from inference.batching.prediction import Prediction
from inference.batching.rate import Rate
from inference.errors import ClientGone, DeadlineExceeded, ModelNotReady, Overloaded, Postponed
from inference.repository import Lease, Loaded
from inference.runtime import Runtime

log = logging.getLogger(__name__)

_WATCH_S: Final = 0.1
"""A call that takes longer has its client watched: most calls end before that costs anything."""


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


class _Sleeper:
    """A thread without work. Its lock is let go to wake it."""

    __slots__ = ("alarm", "lock")

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.lock.acquire()
        self.alarm = math.inf


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
        self._yielding_every = yielding_every
        self._threads = [threading.Thread(target=self._serve, name="predict", daemon=True) for _ in range(threads)]
        self._started = self._closed = False
        self._lock = threading.Lock()
        self._lanes: dict[int, tuple[weakref.ref[Runtime], Lane]] = {}
        """By the identity of a loaded runtime, as long as that lives."""
        self._ready: tuple[deque[Lane], deque[Lane]] = (deque(), deque())
        self._delayed: list[tuple[float, int, Lane, Urgency]] = []
        self._delays = self._turns = self._yielding = self._waking = self._running = 0
        self._starting = threads
        self._idle: list[_Sleeper] = []
        self._alarm = math.inf
        """When the first of the sleepers looks up by itself."""
        self._room = Room(queue, queue_bytes)
        self._rate = Rate()

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
        patience = _Patience(self, call, loop, gone)
        try:
            return await call.answer
        except asyncio.CancelledError:
            self._withdraw(call)
            raise
        finally:
            patience.end()

    def run_blocking(self, call: Call, version: str | None = None) -> Any:  # noqa: ANN401 - whatever the call's finish gives
        """Do the same for a caller on a thread of its own, which must not be one of the batcher's."""
        self.begin(call, version)
        return self.wait(call)

    def begin(self, call: Call, version: str | None = None) -> None:
        """Begin a call whose caller comes back to `wait` for it. Raises what `run` raises at once."""
        call.gate = threading.Lock()
        call.gate.acquire()
        self._submit(call, version)

    def wait(self, call: Call) -> Any:  # noqa: ANN401 - as above
        """Wait, once, for a call that has begun. Raises what `run` raises."""
        assert call.gate is not None  # noqa: S101 - it has begun
        if not call.gate.acquire(timeout=min(max(0.0, call.deadline - time.monotonic()), threading.TIMEOUT_MAX)):
            self._withdraw(call)
            raise _late(call)
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
            sleepers, self._idle = self._idle, []
            started = self._started
        for sleeper in sleepers:
            sleeper.lock.release()
        _release(dropped)
        _deliver(dropped)
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
            sleeper = self._put(call, lease, lane)
        if sleeper is not None:
            sleeper.lock.release()
        if not self._started:
            self._start()

    def _admit(self, call: Call, room: Room, rate: Rate) -> None:
        if room.fits(call, len(self._idle) + self._waking + self._starting):
            return
        kind = Postponed if call.urgency is Urgency.YIELDING else Overloaded
        waiting = sum(room.calls)
        raise kind(waiting + self._running, rate.retry_after_s(waiting, time.monotonic()))

    def _put(self, call: Call, lease: Lease, lane: Lane) -> _Sleeper | None:
        """Put a call into its lane; give a thread to wake. Under the lock."""
        call.lease, call.lane = lease, lane
        lane.room.enter(call)
        lane.push(call)
        self._list(lane, call.urgency)
        return self._baton()

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
            _deliver([call])
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

    # Who is next. All under the lock.

    def _list(self, lane: Lane, urgency: Urgency) -> None:
        """Have a lane served, now or when it has waited for company long enough."""
        if lane.listed[urgency] or not lane.open() or not lane.waiting(urgency):
            return
        if not lane.wait_s or lane.full(urgency):
            lane.listed[urgency], lane.due[urgency] = True, math.inf
            self._ready[urgency].append(lane)
        elif lane.due[urgency] == math.inf:
            lane.due[urgency] = lane.since(urgency) + lane.wait_s
            self._delays += 1
            heapq.heappush(self._delayed, (lane.due[urgency], self._delays, lane, urgency))

    def _ripen(self, now: float) -> None:
        while self._delayed and self._delayed[0][0] <= now:
            due, _, lane, urgency = heapq.heappop(self._delayed)
            if lane.due[urgency] != due:
                # It went earlier, as a full batch.
                continue
            lane.due[urgency] = math.inf
            if lane.open() and lane.waiting(urgency) and not lane.listed[urgency]:
                lane.listed[urgency] = True
                self._ready[urgency].append(lane)

    def _runnable(self) -> tuple[bool, bool]:
        # One thread stays free of what yields, where there are several: it may take long.
        yielding = bool(self._ready[Urgency.YIELDING]) and self._yielding < max(1, len(self._threads) - 1)
        return bool(self._ready[Urgency.USER]), yielding

    def _next_urgency(self) -> Urgency | None:
        users, yielding = self._runnable()
        if users and yielding:
            self._turns += 1
            return Urgency.USER if self._turns % self._yielding_every else Urgency.YIELDING
        return Urgency.USER if users else Urgency.YIELDING if yielding else None

    def _baton(self) -> _Sleeper | None:
        """Give a thread to wake, if there is something for it and no other is on its way.

        One at a time: what comes in while it wakes up goes into its batch, and it passes the baton on if it must.
        """
        if self._waking or not self._idle:
            return None
        overdue = bool(self._delayed) and self._delayed[0][0] < self._alarm
        if any(self._runnable()) or overdue:
            self._waking += 1
            # The one that slept last: what it needs is still in the caches.
            return self._idle.pop()
        return None

    def _take(self, now: float) -> _Turn | None:
        if self._delayed:
            self._ripen(now)
        while (urgency := self._next_urgency()) is not None:
            lane = self._ready[urgency].popleft()
            lane.listed[urgency] = False
            if not lane.waiting(urgency) or not lane.open():
                # Withdrawn meanwhile, or as many batches run as may: it comes back when one of them ends.
                continue
            calls = lane.take(urgency, len(self._idle))
            for call in calls:
                call.state = State.RUNNING
                self._room.leave(call)
                lane.room.leave(call)
            lane.running += 1
            self._running += len(calls)
            self._yielding += urgency is Urgency.YIELDING
            self._list(lane, urgency)
            return _Turn(lane, urgency, calls)
        return None

    def _account(self, turn: _Turn, now: float) -> None:
        lane = turn.lane
        lane.running -= 1
        self._running -= len(turn.calls)
        self._yielding -= turn.urgency is Urgency.YIELDING
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
        self._list(lane, Urgency.USER)
        self._list(lane, Urgency.YIELDING)

    # On a worker thread.

    def _serve(self) -> None:
        if self._enter is not None:
            self._enter()
        sleeper = _Sleeper()
        done: _Turn | None = None
        woken = False
        with self._lock:
            self._starting -= 1
        while True:
            now = time.monotonic()
            with self._lock:
                self._waking -= woken
                if done is not None:
                    self._account(done, now)
                turn = self._take(now)
                if turn is None:
                    if self._closed:
                        break
                    self._lie_down(sleeper)
                    baton = None
                else:
                    baton = self._baton()
            if baton is not None:
                baton.lock.release()
            if done is not None:
                _deliver(done.over)
                done = None
            if turn is None:
                woken = self._sleep(sleeper)
                continue
            woken = False
            done = self._work(turn)
        if done is not None:
            _deliver(done.over)

    def _lie_down(self, sleeper: _Sleeper) -> None:
        self._idle.append(sleeper)
        sleeper.alarm = math.inf
        if self._delayed and self._delayed[0][0] < self._alarm:
            sleeper.alarm = self._alarm = self._delayed[0][0]

    def _sleep(self, sleeper: _Sleeper) -> bool:
        """Wait to be woken, or for the alarm; say whether another woke this thread."""
        timeout = -1 if sleeper.alarm == math.inf else max(0.0, sleeper.alarm - time.monotonic())
        woken = sleeper.lock.acquire(timeout=timeout)
        if sleeper.alarm == math.inf:
            return woken
        with self._lock:
            self._alarm = min((other.alarm for other in self._idle if other is not sleeper), default=math.inf)
            if not woken and sleeper in self._idle:
                self._idle.remove(sleeper)
                return False
        if not woken:
            # Chosen to be woken in the same moment.
            sleeper.lock.acquire()
        return True

    def _work(self, turn: _Turn) -> _Turn:
        """Do a turn. Never raises."""
        now = time.monotonic()
        wanted: list[Call] = []
        for call in turn.calls:
            if call.abandoned():
                turn.over.append(call)
            elif call.deadline <= now:
                call.error = _late(call)
                turn.over.append(call)
            else:
                call.started = call.started or now
                wanted.append(call)
        if wanted:
            prediction = Prediction(turn.lane, turn.urgency, self._observer)
            turn.left = prediction.run(wanted)
            turn.over += [call for call in wanted if call not in turn.left] if turn.left else wanted
        _release(turn.over)
        return turn


class _Patience:
    """One timer per call: first to have the client watched, then for the deadline."""

    __slots__ = ("_batcher", "_call", "_gone", "_timer", "_watch")

    def __init__(
        self,
        batcher: Batcher,
        call: Call,
        loop: asyncio.AbstractEventLoop,
        gone: Callable[[], Awaitable[None]] | None,
    ) -> None:
        self._batcher, self._call, self._gone = batcher, call, gone
        self._watch: asyncio.Task[None] | None = None
        left = call.deadline - call.arrived
        watched = gone is not None and left > _WATCH_S
        self._timer: asyncio.TimerHandle | None = None
        if watched:
            self._timer = loop.call_later(_WATCH_S, self._begin_watch)
        elif left < math.inf:
            self._timer = loop.call_later(max(0.0, left), self._expire)

    def end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._watch is not None:
            self._watch.cancel()

    def _begin_watch(self) -> None:
        call = self._call
        assert call.loop is not None  # noqa: S101 - only a call on a loop has patience
        self._watch = call.loop.create_task(self._watched())
        left = call.deadline - time.monotonic()
        self._timer = call.loop.call_later(max(0.0, left), self._expire) if left < math.inf else None

    async def _watched(self) -> None:
        assert self._gone is not None  # noqa: S101 - else nobody is watched
        await self._gone()
        answer = self._call.answer
        if answer is not None and not answer.done():
            self._batcher._withdraw(self._call)  # noqa: SLF001 - a part of it
            answer.set_exception(ClientGone())

    def _expire(self) -> None:
        call = self._call
        if call.answer is not None and not call.answer.done():
            self._batcher._withdraw(call)  # noqa: SLF001 - a part of it
            call.answer.set_exception(_late(call))


def _release(calls: Sequence[Call]) -> None:
    for call in calls:
        lease, call.lease = call.lease, None
        if lease is not None:
            lease.release()


def _late(call: Call) -> DeadlineExceeded:
    return DeadlineExceeded(round(max(0.0, call.deadline - call.arrived), 3))


def _deliver(calls: Sequence[Call]) -> None:
    """Tell who waits; an event loop is woken once for all of its calls."""
    loops: dict[asyncio.AbstractEventLoop, list[Call]] = {}
    for call in calls:
        if call.loop is not None:
            loops.setdefault(call.loop, []).append(call)
        elif call.gate is not None:
            call.gate.release()
        elif call.failed is not None and call.error is not None:
            call.failed(call.error)
    for loop, theirs in loops.items():
        # A loop that has been closed has nobody left who waits.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(_settle, theirs)


def _settle(calls: Sequence[Call]) -> None:
    for call in calls:
        call.settle()
