"""What waits for one loaded model, and what has been learnt about it. Not thread-safe: the batcher's lock guards it."""

from __future__ import annotations

import math
from collections import deque
from typing import Final

from inference.batching.call import Call, Urgency
from inference.batching.rate import Rate
from inference.repository import Loaded
from inference.runtime import Runtime

_WORTH_SPLITTING_S: Final = 0.002
"""A batch that takes longer is shared among idle threads; a shorter one costs less than their waking up."""
_SHORT_S: Final = 0.000_5
"""A prediction that takes less of a processor holds nobody up, and hardly pays the way to a thread and back."""
_JOINED_S: Final = _SHORT_S / 2
"""How long a batch may take that is longer than its runtime's usual: well within what still counts as short."""
_AT_MOST_S: Final = 4 * _SHORT_S
"""What a prediction counts for at most: one that was held up by others' work says little about the next."""
_LEARN_CPU: Final = 0.1
_MOST_ROWS: Final = 8_192
"""Of a batch of a model that is quick with many."""
_TIMED: Final = 8
"""Of so many short predictions one is timed: the system's clock of a thread costs as much as a tenth of a small one."""
_INLINE_BYTES: Final = 1 << 12, 1 << 18
"""Longer bodies, and those that may prove longer, are read on a thread, however short the model's predictions are: at
first, when only the row that its load tried says so, and at last."""
_FIRST_PAUSE_S, _LAST_PAUSE_S = 1.0, 60.0
_LEARN: Final = 0.2
_LONGEST_APART: Final = 1_024


def usual_batch(loaded: Loaded) -> int:
    """Say how many rows calls of a model are joined to at most, as its settings and its runtime have it; 1: never."""
    settings, runtime = loaded.settings, loaded.runtime
    if settings.pad_to and settings.max_batch is None and runtime.max_batch > 1:
        return settings.pad_to[-1]
    return settings.max_batch or runtime.max_batch


_NOBODY: Final[deque[Call]] = deque(maxlen=0)
"""The queue of a lane where nobody waits: of thousands of models, most. A queue of one's own is 760 bytes."""


class Room:
    """How many calls and bytes may wait, for users and, half as much, for calls that yield."""

    __slots__ = ("_bytes_limits", "_calls_limits", "bytes", "calls")

    def __init__(self, calls: float, size: float) -> None:
        self._calls_limits = (calls, calls if math.isinf(calls) else (calls + 1) // 2)
        self._bytes_limits = (size, size / 2)
        self.calls = [0, 0]
        self.bytes = [0, 0]

    def fits(self, call: Call, spare: int) -> bool:
        """Say whether one more may wait; `spare` more may be there for the moment, because threads are free.

        A call that is too big for all the bytes still fits where nothing waits.
        """
        kind = call.urgency
        if self.calls[kind] >= self._calls_limits[kind] + spare:
            return False
        return not self.calls[kind] or self.bytes[kind] + call.size <= self._bytes_limits[kind]

    def enter(self, call: Call) -> None:
        """Count a call that begins to wait."""
        self.calls[call.urgency] += 1
        self.bytes[call.urgency] += call.size

    def leave(self, call: Call) -> None:
        """Count one that ceases to."""
        self.calls[call.urgency] -= 1
        self.bytes[call.urgency] -= call.size


class Lane:
    """The queues of one loaded model."""

    __slots__ = (
        "_apart", "_cpu_s", "_inline_from", "_next_apart", "_pause_s", "_queues", "_settled", "_untimed", "asks", "due",
        "inline_bytes", "listed", "max_batch", "pad_to", "parallel", "rate", "room", "rows_per_call", "running",
        "seconds_per_row", "takes_bytes", "wait_s",
    )  # fmt: skip

    def __init__(self, loaded: Loaded, threads: int, calls: float, size: float) -> None:
        settings, runtime = loaded.settings, loaded.runtime
        self._queues = [_NOBODY, _NOBODY]
        limit = settings.queue
        self.room = Room(calls if limit.calls is None else limit.calls, size if limit.bytes is None else limit.bytes)
        self.pad_to = settings.pad_to
        self.max_batch = usual_batch(loaded)
        self._settled = settings.max_batch is not None or bool(self.pad_to) or not runtime.computes
        self.wait_s = settings.max_latency_ms / 1_000 if self.max_batch > 1 else 0.0
        self.parallel = (settings.parallel or threads) if runtime.thread_safe else 1
        self.asks = type(runtime).answer is not Runtime.answer
        self.takes_bytes = runtime.takes_bytes
        self.rate = Rate()
        self.listed = [False, False]
        """By urgency: whether the batcher has it among those to be served."""
        self.due = [math.inf, math.inf]
        """By urgency: when a batch that waits for company goes without it."""
        self.running = 0
        self.rows_per_call = 1.0
        self.seconds_per_row = 0.0
        self._apart = 0
        self._next_apart = 1
        self._cpu_s = min(runtime.warm_s, _AT_MOST_S)
        self.inline_bytes = _INLINE_BYTES[0]
        """Of the longest body that an event loop may read itself."""
        self._inline_from = 0.0 if runtime.computes and not self.wait_s else math.inf
        self._pause_s = _FIRST_PAUSE_S
        self._untimed = 0

    def quick(self, now: float) -> bool:
        """Say whether predictions are so short that an event loop may run them itself."""
        return self._cpu_s <= _SHORT_S and now >= self._inline_from

    def light(self, call: Call) -> bool:
        """Say whether an event loop may read a call itself."""
        return call.size <= self.inline_bytes and not call.terms.packed and call.alone is None

    def led_lightly(self) -> bool:
        """Say whether the first of the users' calls is such a one."""
        queue = self._queues[Urgency.USER]
        return bool(queue) and self.light(queue[0])

    def to_be_timed(self) -> bool:
        """Say whether the next prediction should be timed."""
        self._untimed = (self._untimed + 1) % _TIMED
        return not self._untimed or self._cpu_s > _SHORT_S

    def timed(self, cpu_s: float) -> None:
        """Note how much of a processor a prediction took."""
        self._cpu_s += _LEARN_CPU * (min(cpu_s, _AT_MOST_S) - self._cpu_s)
        self.inline_bytes = min(2 * self.inline_bytes, _INLINE_BYTES[1])

    def overran(self, now: float) -> None:
        """Note that a prediction held an event loop up after all: none there for a while, longer each time.

        Not beyond a minute: the process itself may have been held up, as in a container that has used its share of a
        processor.
        """
        self._inline_from = now + self._pause_s
        self._pause_s = min(2 * self._pause_s, _LAST_PAUSE_S)

    def waiting(self, urgency: Urgency) -> bool:
        """Say whether anything waits."""
        return bool(self._queues[urgency])

    def open(self) -> bool:
        """Say whether one more batch may run now."""
        return self.running < self.parallel

    def most(self) -> int:
        """Say how many rows a batch may have: more than the runtime's usual number where they are predicted shortly."""
        if self._settled or self.max_batch == 1 or not self.seconds_per_row:
            return self.max_batch
        return max(self.max_batch, min(_MOST_ROWS, int(_JOINED_S / self.seconds_per_row)))

    def full(self, urgency: Urgency) -> bool:
        """Say whether what waits should make up a whole batch."""
        return len(self._queues[urgency]) * self.rows_per_call >= self.max_batch

    def push(self, call: Call) -> None:
        """Put a call at the end of its queue."""
        self._queue(call.urgency).append(call)

    def push_back(self, calls: list[Call]) -> None:
        """Put calls that were taken, but found no place in the batch, where they were."""
        for call in reversed(calls):
            self._queue(call.urgency).appendleft(call)

    def since(self, urgency: Urgency) -> float:
        """Say since when the first of a queue waits."""
        return self._queues[urgency][0].arrived

    def clear(self) -> list[Call]:
        """Take everything out."""
        calls = [call for queue in self._queues for call in queue]
        self._queues = [_NOBODY, _NOBODY]
        return calls

    def remove(self, call: Call) -> None:
        """Take a call out, wherever it stands."""
        self._queues[call.urgency].remove(call)

    def take(self, urgency: Urgency, idle: int, *, inline: bool = False) -> list[Call]:
        """Take what should make up one batch: the first call and those behind it that go with it.

        For an event loop no more than it may read, which the first call is known to be.
        """
        queue = self._queues[urgency]
        taken = self._taken(queue, idle, inline=inline)
        if not queue:
            self._queues[urgency] = _NOBODY
        return taken

    def learn(self, rows: int, calls: int, compute_s: float) -> None:
        """Note what a batch was like."""
        self.rows_per_call += _LEARN * (rows / calls - self.rows_per_call)
        self.seconds_per_row += _LEARN * (compute_s / rows - self.seconds_per_row)

    def joined(self, *, well: bool) -> None:
        """Note whether joining worked. After a failure calls stay apart for a while, longer each time."""
        if well:
            self._next_apart = 1
            return
        self._apart = self._next_apart
        self._next_apart = min(2 * self._next_apart, _LONGEST_APART)

    def never_join(self) -> None:
        """Note that the model's outputs are not by rows."""
        self.max_batch = 1
        self.pad_to = ()

    def _queue(self, urgency: Urgency) -> deque[Call]:
        """Give a queue to put calls into."""
        queue = self._queues[urgency]
        if queue is _NOBODY:
            queue = self._queues[urgency] = deque()
        return queue

    def _taken(self, queue: deque[Call], idle: int, *, inline: bool) -> list[Call]:
        first = queue.popleft()
        taken = [first]
        if self.max_batch == 1 or first.alone is not None or first.terms.whole or self._keeps_apart():
            return taken
        calls, most = self._share(len(queue) + 1, idle), self.most()
        rows, size = first.rows or self.rows_per_call, first.size
        while queue and len(taken) < calls:
            call = queue[0]
            rows += call.rows or self.rows_per_call
            known = call.shape is not None and first.shape is not None
            if rows > most or call.alone is not None or call.terms.whole or (known and call.shape != first.shape):
                break
            size += call.size
            if inline and (size > self.inline_bytes or not self.light(call)):
                break
            taken.append(queue.popleft())
        return taken

    def _keeps_apart(self) -> bool:
        if self._apart:
            self._apart -= 1
            return True
        return False

    def _share(self, calls: int, idle: int) -> int:
        # Threads that would have to wait for their turn at the model are no help.
        idle = min(idle, self.parallel - self.running - 1)
        if idle > 0 and calls * self.rows_per_call * self.seconds_per_row > _WORTH_SPLITTING_S:
            return math.ceil(calls / (1 + idle))
        return calls
