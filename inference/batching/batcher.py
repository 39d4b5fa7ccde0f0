"""Adaptive batching: idle, a call runs at once; busy, what waits for the same model is joined and runs as one.

One pool of threads for all models. A thread that becomes free takes what waits for the next model in turn, up to a
batch, decodes it, predicts once, and hands every caller its rows; the event loop is woken once per batch. A batch that
fails is done again call by call, so that nobody pays for another's rows. Models whose settings say so wait a little for
company. Predictions that proved short need no thread: see `inline.py`. Used by `inference/dataplane.py`. Whose turn it
is stands in `turns.py` and `agenda.py`, what is joined in `lane.py`, how in `joining.py`; `sleepers.py` has the idle
threads, and `waiting.py` tells the callers.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
import time
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from inference.batching import inline
from inference.batching.call import Call, State, presentable
from inference.batching.inline import Place
from inference.batching.lane import Lane
from inference.batching.sleepers import Sleeper
from inference.batching.turns import Observer, Turn, Turns
from inference.batching.waiting import Gone, Patience, deliver, late, release
from inference.errors import ClientGone, ModelNotReady
from inference.repository import Lease, Wanted


class Loader(Protocol):
    """The part of a repository that loads for a request; see `inference/repository.py`."""

    def lease(self, name: str, version: Wanted = None) -> Lease | None:
        """Hold a loaded model."""

    def lease_later(self, name: str, version: Wanted, done: Callable[[Lease | Exception], None]) -> None:
        """Load it first."""


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
        self._models = models
        self._enter = enter
        self.timeout_s = timeout_s
        """What a call gets, whatever its own terms."""
        self._turns = Turns(observer, threads, queue, queue_bytes, yielding_every)
        self._places: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Place] = weakref.WeakKeyDictionary()
        self._threads = [threading.Thread(target=self._serve, name="predict", daemon=True) for _ in range(threads)]
        self._started = False

    @property
    def in_progress(self) -> int:
        """Count the calls that wait or run."""
        return self._turns.running + self.waiting

    @property
    def waiting(self) -> int:
        """Count the calls that wait."""
        return self._turns.waiting

    async def run(self, call: Call, version: Wanted = None, gone: Gone | None = None) -> Any:  # noqa: ANN401 - whatever the call's finish gives
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
        answer = loop.create_future()
        call.loop, call.answer = loop, answer
        place = self._places.get(loop)
        if place is None:
            place = self._places[loop] = Place(self._turns, Patience(self._withdraw), self._enter)
        self._submit(call, version, place)
        place.patience.begin(call, gone)
        try:
            return await answer
        except asyncio.CancelledError:
            self._withdraw(call)
            if not answer.cancel() and not answer.cancelled():
                # It was told in this very turn; what nobody asks for would be logged as a mistake.
                answer.exception()
            raise
        finally:
            place.patience.end(call)
            # An error knows its callers, and they the request: nothing that stays is to know the error. Who loads the
            # call's model may keep it for long.
            del answer
            if call.lane is None:
                call.answer = None

    def begin(self, call: Call, version: Wanted = None) -> None:
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

    def start(self, call: Call, version: Wanted = None) -> None:
        """Run a call that nobody waits for; its `finish` is all that comes of it. Raises what `run` raises at once."""
        self._submit(call, version)

    def close(self, grace_s: float = 1.0) -> None:
        """Drop what waits, and give what runs a moment."""
        with self._turns.lock:
            dropped, sleepers = self._turns.close()
            for call in dropped:
                call.state, call.error = State.OVER, ModelNotReady(call.model)
            started = self._started
        for sleeper in sleepers:
            sleeper.lock.release()
        release(dropped)
        deliver(dropped)
        deadline = time.monotonic() + grace_s
        for thread in self._threads if started else ():
            thread.join(max(0.0, deadline - time.monotonic()))

    # On the caller's thread.

    def _submit(self, call: Call, version: Wanted, place: Place | None = None) -> None:
        lease = self._models.lease(call.model, version)
        if lease is not None:
            try:
                self._enqueue(call, lease, place)
            except BaseException:
                lease.release()
                raise
            return
        with self._turns.lock:
            self._turns.expect(call)
        if callable(version):
            call.choose, version = version, partial(_chosen, call)
        self._models.lease_later(call.model, version, partial(self._loaded, call, place))

    def _enqueue(self, call: Call, lease: Lease, place: Place | None) -> None:
        turns = self._turns
        with turns.lock:
            if turns.closed:
                raise ModelNotReady(call.model)
            lane = turns.lane(lease.loaded)
            turns.put(call, lane, lease)
            place, sleeper = self._who_comes(call, lane, place)
        if place is not None and call.loop is not None:
            place.summon(call.loop)
        elif sleeper is not None:
            sleeper.lock.release()
        if not self._started:
            self._start()

    def _who_comes(self, call: Call, lane: Lane, place: Place | None) -> tuple[Place | None, Sleeper | None]:
        """Say who is to be told of a call in its lane: its event loop, or a thread if one must wake. Under the lock."""
        if place is not None and inline.may(call, lane):
            return place, None
        return None, self._turns.sleepers.baton()

    def _loaded(self, call: Call, place: Place | None, outcome: Lease | Exception) -> None:
        """Take a model that had to be loaded. On a thread of the repository's."""
        put, failed, sleeper = False, False, None
        with self._turns.lock:
            wanted = self._turns.told(call)
            if isinstance(outcome, Lease) and wanted and not self._turns.closed:
                lane = self._turns.lane(outcome.loaded)
                self._turns.line_up(call, lane, outcome)
                put = True
                place, sleeper = self._who_comes(call, lane, place)
            elif wanted:
                failed = True
                call.state = State.OVER
                call.error = outcome if isinstance(outcome, Exception) else ModelNotReady(call.model)
        if sleeper is not None:
            sleeper.lock.release()
        if put and place is not None and call.loop is not None:
            # A loop that has been closed has nobody left who waits.
            with contextlib.suppress(RuntimeError):
                call.loop.call_soon_threadsafe(place.summon, call.loop)
        # Once put, the call may be over by now, and is no longer looked at here.
        if failed:
            deliver([call])
        if isinstance(outcome, Lease) and not put:
            outcome.release()
        if put and not self._started:
            self._start()

    def _withdraw(self, call: Call) -> None:
        """Take a call that nobody waits for any more out of the queue."""
        with self._turns.lock:
            if call.state is not State.WAITING:
                return
            call.state = State.OVER
            self._turns.remove(call)
            lease, call.lease = call.lease, None
            # Who loads its model keeps the call until that is done, but not what it would be read from.
            call.decode = call.finish = call.alone = call.inputs = call.choose = None
        if lease is not None:
            lease.release()

    def _start(self) -> None:
        with self._turns.lock:
            if self._started or self._turns.closed:
                return
            self._started = True
            # Under the lock: a close that sees the flag joins them all.
            for thread in self._threads:
                thread.start()

    # On a worker thread.

    def _serve(self) -> None:
        if self._enter is not None:
            self._enter()
        turns, sleeper = self._turns, Sleeper()
        done: Turn | None = None
        woken = False
        with turns.lock:
            turns.starting -= 1
        while True:
            now = time.monotonic()
            with turns.lock:
                turns.sleepers.waking -= woken
                if done is not None:
                    turns.account(done, now)
                turn = turns.take_next(now)
                if turn is None:
                    if turns.closed:
                        break
                    turns.sleepers.lie_down(sleeper)
                    baton = None
                else:
                    baton = turns.sleepers.baton()
            if baton is not None:
                baton.lock.release()
            if done is not None:
                deliver(done.over)
                done = None
            if turn is None:
                woken = turns.sleepers.sleep(sleeper)
                continue
            woken = False
            turns.run(turn)
            done = turn
        if done is not None:
            deliver(done.over)


def _chosen(call: Call) -> str | None:
    """Find out which version is to answer a call, which may read files; not for one that nobody waits for."""
    choose, call.choose = call.choose, None
    if choose is None:
        raise ClientGone
    return choose()
