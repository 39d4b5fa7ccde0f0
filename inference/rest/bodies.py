"""Reads request bodies: bounded in size and time; gzip and deflate are undone within the same bound, on a worker."""

from __future__ import annotations

import asyncio
import zlib
from typing import Final

from starlette.requests import Request

from inference.errors import BodyTooLarge, BodyTooSlow
from inference.protocol.errors import MalformedBody

# 32 more: zlib recognises gzip and zlib by their head.
_WINDOW: Final = {"gzip": zlib.MAX_WBITS + 32, "x-gzip": zlib.MAX_WBITS + 32, "deflate": zlib.MAX_WBITS + 32}


async def read(request: Request, *, limit: int, timeout_s: float) -> bytes:
    """Give a request's body as it was sent.

    Raises:
        BodyTooLarge: more bytes than the limit.
        BodyTooSlow: not complete in time.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit:
        raise BodyTooLarge(limit, int(declared))
    try:
        async with asyncio.timeout(timeout_s):
            return await _collect(request, limit)
    except TimeoutError:
        raise BodyTooSlow(timeout_s) from None


async def _collect(request: Request, limit: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            raise BodyTooLarge(limit)
        parts.append(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def plain(body: bytes, encoding: str | None, limit: int) -> bytes:
    """Undo a body's content encoding; never more than the limit is held.

    Raises:
        BodyTooLarge: more bytes than the limit come out.
        MalformedBody: an unknown encoding, or data that do not follow it.
    """
    if encoding is None or encoding == "identity":
        return body
    window = _WINDOW.get(encoding.strip().lower())
    if window is None:
        raise MalformedBody("content-encoding", f"expected one of {', '.join(_WINDOW)}, got {encoding!r}")
    machine = zlib.decompressobj(window)
    try:
        inflated = machine.decompress(body, limit + 1)
    except zlib.error as exc:
        raise MalformedBody("body", f"no valid {encoding} data: {exc}") from exc
    if len(inflated) > limit:
        raise BodyTooLarge(limit)
    if not machine.eof:
        raise MalformedBody("body", f"{encoding} data end too early")
    return inflated
