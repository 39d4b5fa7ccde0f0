"""An event loop on a thread of its own, for models whose methods are coroutines.

The server's loop never waits for a model, nor a model for the server's loop. Coroutines of several calls run on one
loop at the same time, as their authors expect. Used by `inference/runtimes/custom.py`.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Iterator
from typing import TypeVar

T = TypeVar("T")


class LoopThread:
    """Runs coroutines for callers on other threads. Starts with the first."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self._closing = threading.Event()

    def run(self, waited: Awaitable[T]) -> T:
        """Await something to its end while the calling thread waits; its errors come through, SystemExit, too."""
        return asyncio.run_coroutine_threadsafe(_result(waited), self._started()).result()

    def each(self, pieces: AsyncIterator[T]) -> Iterator[T]:
        """Give what an asynchronous generator yields, and close it when the caller stops."""
        try:
            while True:
                try:
                    piece = self.run(_next(pieces))
                except StopAsyncIteration:
                    return
                yield piece
        finally:
            close = getattr(pieces, "aclose", None)
            if close is not None:
                self.run(close())

    def close(self) -> None:
        """Cancel what still runs, and end the thread."""
        if self._loop is None or self._thread is None:
            return
        self.run(_cancel_others())
        self._closing.set()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._loop = self._thread = None

    def _started(self) -> asyncio.AbstractEventLoop:
        with self._starting:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(
                    target=_serve, args=(self._loop, self._closing), name=self._name, daemon=True
                )
                self._thread.start()
            return self._loop


def _serve(loop: asyncio.AbstractEventLoop, closing: threading.Event) -> None:
    asyncio.set_event_loop(loop)
    while True:
        try:
            loop.run_forever()
        except (SystemExit, KeyboardInterrupt):
            # A coroutine's: whoever awaits it is told by the loop that it ends, and others run there, too.
            if not closing.is_set():
                continue
        break
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.run_until_complete(loop.shutdown_default_executor())


async def _result(waited: Awaitable[T]) -> T:
    return await waited


async def _next(pieces: AsyncIterator[T]) -> T:
    return await anext(pieces)


async def _cancel_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
