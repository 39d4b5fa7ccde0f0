"""Reads request bodies: bounded in size and time; gzip and deflate are undone within the same bound, on a worker."""

from __future__ import annotations

import asyncio
import zlib
from typing import Any, Final

from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive

from inference.errors import BodyTooLarge, BodyTooSlow
from inference.protocol.errors import MalformedBody

# 32 more: zlib recognises gzip and zlib by their head.
_WINDOW: Final = {"gzip": zlib.MAX_WBITS + 32, "x-gzip": zlib.MAX_WBITS + 32, "deflate": zlib.MAX_WBITS + 32}


class Bodies:
    """Reads bodies on one event loop."""

    def __init__(self, *, limit: int, timeout_s: float) -> None:
        self.limit, self._timeout_s = limit, timeout_s
        self._reading: dict[asyncio.Task[Any], float] = {}
        """When each is late; in the order of time."""
        self._late: set[asyncio.Task[Any]] = set()
        self._timer: asyncio.TimerHandle | None = None

    async def read(self, request: Request) -> bytes:
        """Give a request's body as it was sent.

        Raises:
            BodyTooLarge: more bytes than the limit.
            BodyTooSlow: not complete in time.
            ClientDisconnect: the client went away.
        """
        declared = dict(request.scope["headers"]).get(b"content-length", b"")
        if declared.isdigit() and int(declared) > self.limit:
            raise BodyTooLarge(self.limit, int(declared))
        task = self._begin()
        try:
            return await self._collect(request.receive)
        except asyncio.CancelledError:
            if task not in self._late:
                raise
            task.uncancel()
            raise BodyTooSlow(self._timeout_s) from None
        finally:
            self._reading.pop(task, None)
            self._late.discard(task)

    async def _collect(self, receive: Receive) -> bytes:
        parts: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            part = message.get("body", b"")
            size += len(part)
            if size > self.limit:
                raise BodyTooLarge(self.limit)
            parts.append(part)
            if not message.get("more_body", False):
                return parts[0] if len(parts) == 1 else b"".join(parts)

    def _begin(self) -> asyncio.Task[Any]:
        # One timer for all: nearly every body is there at once, and has no use for one of its own.
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None  # noqa: S101 - this is a coroutine
        self._reading[task] = loop.time() + self._timeout_s
        if self._timer is None:
            self._timer = loop.call_later(self._timeout_s, self._look, loop)
        return task

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        now = loop.time()
        for task, due in list(self._reading.items()):
            if due > now:
                self._timer = loop.call_at(due, self._look, loop)
                break
            del self._reading[task]
            self._late.add(task)
            task.cancel()


def plain(body: bytes, encoding: bytes | None, limit: int) -> bytes:
    """Undo a body's content encoding; never more than the limit is held.

    Raises:
        BodyTooLarge: more bytes than the limit come out.
        MalformedBody: an unknown encoding, or data that do not follow it.
    """
    if encoding is None or encoding == b"identity":
        return body
    named = encoding.decode("latin-1")
    window = _WINDOW.get(named.strip().lower())
    if window is None:
        raise MalformedBody("content-encoding", f"expected one of {', '.join(_WINDOW)}, got {named!r}")
    machine = zlib.decompressobj(window)
    try:
        inflated = machine.decompress(body, limit + 1)
    except zlib.error as exc:
        raise MalformedBody("body", f"no valid {named} data: {exc}") from exc
    if len(inflated) > limit:
        raise BodyTooLarge(limit)
    if not machine.eof:
        raise MalformedBody("body", f"{named} data end too early")
    return inflated
