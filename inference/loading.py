"""A few threads that load models, in the order in which requests asked for them. Used by `inference/stock.py`.

Bounded, because loads compete with predictions for cores and memory; the threads start with the first load.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import TypeAlias

Job: TypeAlias = Callable[[], None]


class Loads:
    """Runs what is put, on at most `threads` threads. It must not raise."""

    def __init__(self, threads: int) -> None:
        self._most = threads
        self._lock = threading.Lock()
        self._waiting: SimpleQueue[Job | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._idle = 0

    def put(self, job: Job) -> None:
        """Have it done when its turn comes; returns at once."""
        self._waiting.put(job)
        with self._lock:
            if self._waiting.qsize() > self._idle and len(self._threads) < self._most:
                thread = threading.Thread(target=self._serve, name="load models", daemon=True)
                try:
                    thread.start()
                except RuntimeError:
                    # The system gives no more. Others do it, or the next that is started.
                    if not self._threads:
                        raise
                else:
                    self._threads.append(thread)

    def close(self) -> None:
        """Let the threads end after what they load now."""
        for _ in self._threads:
            self._waiting.put(None)

    def _serve(self) -> None:
        while True:
            self._idle += 1
            job = self._waiting.get()
            self._idle -= 1
            if job is None:
                return
            job()
            # What it loaded is not to live until the next.
            del job
