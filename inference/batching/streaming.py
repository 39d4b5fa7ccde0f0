"""Brings what a model makes piece by piece, such as a text, from a worker thread to the event loop that sends it on."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from typing import Any, Final, Generic, TypeVar

from inference.errors import DeadlineExceeded
from inference.repository import Loaded

T = TypeVar("T")

_AHEAD: Final = 64
"""Pieces that the model may be ahead of its reader. It waits then, and its thread with it."""


class Stream(Generic[T]):
    """One text, or what else comes in pieces. `produce` runs on the worker thread, `pieces` on the event loop."""

    def __init__(self, generate: Callable[[Loaded], Iterator[T]], most_s: float) -> None:
        """Begin; to be called on the event loop.

        Args:
            generate: makes the pieces.
            most_s: how long the model waits for a reader who takes nothing: its thread is others', too.
        """
        self._generate, self._most_s = generate, most_s
        self._loop = asyncio.get_running_loop()
        self._pieces: asyncio.Queue[T] = asyncio.Queue()
        self._places = threading.Semaphore(_AHEAD)
        self._left = threading.Event()

    def produce(self, loaded: Loaded) -> None:
        """Make them, until its end or until nobody reads any more."""
        made = self._generate(loaded)
        try:
            for piece in made:
                if not self._places.acquire(timeout=min(self._most_s, threading.TIMEOUT_MAX)):
                    raise DeadlineExceeded(self._most_s)
                if self._left.is_set():
                    return
                # A loop that has been closed has nobody left who reads.
                with contextlib.suppress(RuntimeError):
                    self._loop.call_soon_threadsafe(self._pieces.put_nowait, piece)
        finally:
            close = getattr(made, "close", None)
            if close is not None:
                close()

    async def pieces(self, production: Awaitable[Any]) -> AsyncGenerator[T, None]:
        """Give the pieces as they come; raises what the model raised after those that it made."""
        producing = asyncio.ensure_future(production)
        try:
            while not producing.done() or not self._pieces.empty():
                reading = asyncio.ensure_future(self._pieces.get())
                try:
                    await asyncio.wait((reading, producing), return_when=asyncio.FIRST_COMPLETED)
                finally:
                    # One that has its piece takes no notice.
                    reading.cancel()
                if not reading.done():
                    continue
                self._places.release()
                yield reading.result()
            await producing
        finally:
            self._left.set()
            # Whoever waits for a place is to see that nobody reads.
            self._places.release()
            producing.cancel()
