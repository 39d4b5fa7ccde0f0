"""One partition of the native host: a bounded queue, and the thread that empties it into the runner, batch by batch.

The consumer's thread fills the queue and looks at what is done; it stays the only one that talks to the consumer. Where
the stage may run ahead, a second thread delivers what the first has worked out, in the same order.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from queue import Queue
from typing import Final

from streams.hosts.runner import Abandoned, Runner, Worked
from streams.hosts.settings import HostSettings
from streams.stage import Record

log = logging.getLogger(__name__)

_FIRST: Final = 8
"""The first batch, whose pace nobody knows, is so many times smaller."""
_LEARN: Final = 0.3
_RECORD_BYTES = 200
"""What a record costs besides key and value, about."""


class _End:
    """Says that no batch follows."""


_END: Final = _End()


class Lane:
    """One partition's queue and thread."""

    def __init__(
        self, partition: int, settings: HostSettings, runner: Callable[[Callable[[float], bool]], Runner]
    ) -> None:
        self.partition, self._settings = partition, settings
        self.paused = False
        self.at_end = False
        """Whether the consumer has said that nothing follows what is queued."""
        self.following = 0
        """Offset of the first record that has not been read, as far as is known."""
        self.quiet_since = time.monotonic()
        self.committed: int | None = None
        """The position that the group was told last. None at first: a crash may have come between checkpoint and
        commit, so what was loaded is committed once more."""
        self.failure: Exception | None = None
        self._queue: deque[Record] = deque()
        self._bytes = 0
        self._idle_ms: int | None = None
        self._stop = threading.Event()
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name=f"partition-{partition}", daemon=True)
        self._worked: Queue[Worked | _End | None] = Queue(settings.ahead)
        self._pace_s = 0.0
        """What a record takes, about; 0 before anything is known."""
        self._unfinished = 0
        """Batches that are worked on or not delivered yet."""
        self._deliverer = threading.Thread(target=self._deliver, name=f"deliver-{partition}", daemon=True)
        self.runner = runner(self._stop.wait)

    def start(self) -> None:
        """Begin."""
        self._thread.start()
        if self._settings.ahead:
            self._deliverer.start()

    def put(self, records: Sequence[Record]) -> None:
        """Queue records, which follow those before."""
        with self._changed:
            self._queue.extend(records)
            self._bytes += sum(map(_size, records))
            self.at_end = False
            self.following = records[-1].offset + 1
            self._changed.notify()

    def end(self, offset: int) -> None:
        """Note that nothing follows what is queued."""
        self.at_end, self.following = True, max(self.following, offset)

    def tell_idle(self, idle_ms: int) -> None:
        """Queue the news that the partition is silent."""
        with self._changed:
            self._idle_ms = idle_ms
            self._changed.notify()

    @property
    def busy(self) -> bool:
        """Whether something is worked on or not delivered yet."""
        return self._unfinished > 0

    def waiting(self) -> int:
        """Give how many records wait."""
        return len(self._queue)

    def waiting_bytes(self) -> int:
        """Give their size, about."""
        return self._bytes

    def fill(self) -> float:
        """Give how full the queue is: 1 and more is full."""
        return max(len(self._queue) / self._settings.queue_records, self._bytes / (self._settings.queue_kib * 1024))

    def uncommitted(self) -> bool:
        """Tell whether the checkpoint is ahead of the commit."""
        return self.runner.position is not None and self.runner.position != self.committed

    def ask_to_stop(self) -> None:
        """Let the running batch be the last; what waits stays in the topic."""
        with self._changed:
            self._stop.set()
            self._changed.notify()

    def join(self, timeout_s: float) -> None:
        """Wait for the running batch; one that takes longer is given up and saves nothing."""
        deadline = time.monotonic() + timeout_s
        for thread in (self._thread, self._deliverer):
            if thread.ident is not None:
                thread.join(max(0.0, deadline - time.monotonic()))
        if self._thread.is_alive() or self._deliverer.is_alive():
            self.runner.abandon()
            log.warning("partition %d: its batch did not finish in time; it will be done again", self.partition)

    def _work(self) -> None:
        self._watched(self._work_on)
        self._worked.put(_END)

    def _work_on(self) -> None:
        while True:
            records, idle_ms = self._next()
            if not records and idle_ms is None:
                return
            began = time.monotonic()
            worked = self.runner.work(records, idle_ms)
            self._learn(len(records), time.monotonic() - began)
            if self._settings.ahead:
                self._worked.put(worked)
            else:
                self._finish(worked)

    def _deliver(self) -> None:
        if self._watched(self._deliver_on):
            return
        # Nobody takes what follows, and the other thread must not wait for room.
        self.ask_to_stop()
        while not isinstance(self._worked.get(), _End):
            pass

    def _deliver_on(self) -> None:
        while not isinstance(worked := self._worked.get(), _End):
            self._finish(worked)

    def _finish(self, worked: Worked | None) -> None:
        if worked is not None:
            self.runner.deliver(worked)
        with self._changed:
            self._unfinished -= 1

    def _watched(self, loop: Callable[[], None]) -> bool:
        try:
            loop()
        except Abandoned as exc:
            log.info("%s", exc)
        except Exception as exc:  # noqa: BLE001 - handed to the host's thread, which ends the worker
            self.failure = exc
        else:
            return True
        return False

    def _next(self) -> tuple[Sequence[Record], int | None]:
        with self._changed:
            self._changed.wait_for(lambda: self._stop.is_set() or self._queue or self._idle_ms is not None)
            self._changed.wait_for(self._enough, self._settings.batch_ms / 1000 if self._queue else 0)
            if self._stop.is_set():
                return (), None
            self._unfinished += 1
            records = [self._queue.popleft() for _ in range(min(len(self._queue), self._most()))]
            self._bytes -= sum(_size(record) for record in records)
            # Silence counts only when nothing came in after it.
            idle_ms, self._idle_ms = (None if records else self._idle_ms), None
            return records, idle_ms

    def _enough(self) -> bool:
        return self._stop.is_set() or len(self._queue) >= self._most() or self.fill() >= 1

    def _most(self) -> int:
        """Give how many records the next batch may have."""
        most, batch_s = self._settings.batch_records, self._settings.batch_s
        if not batch_s:
            return most
        return max(1, min(most, int(batch_s / self._pace_s) if self._pace_s else most // _FIRST))

    def _learn(self, records: int, took_s: float) -> None:
        if records:
            self._pace_s += (_LEARN if self._pace_s else 1.0) * (took_s / records - self._pace_s)


def _size(record: Record) -> int:
    return len(record.value or b"") + len(record.key or b"") + _RECORD_BYTES
