"""How a connection to the model ended: what it still held, and whether that was the end which the model meant.

Used by `upstream.py`, `grpc/back.py` and `batching/calls.py`. Over TLS only `close_notify` is an end: whoever cuts the
wire, or dies, ends TCP as well. What came while nobody read is still there then: uvloop does not read TLS to its end.
"""

from __future__ import annotations

import ssl
from asyncio import BaseTransport
from typing import Final

_PIECE: Final = 256 * 1024


def of(transport: BaseTransport | None, exc: Exception | None) -> tuple[bytes, bool]:
    """Give what was not read of a connection that is lost, and whether the model ended it. Called once."""
    veil = transport.get_extra_info("ssl_object") if transport is not None else None
    if veil is None:
        return b"", exc is None
    pieces = []
    try:
        # Nothing once there was a close_notify, or an error of that name once it was answered.
        while piece := veil.read(_PIECE):
            pieces.append(piece)
    except ssl.SSLZeroReturnError:
        pass
    except ssl.SSLError:
        return b"".join(pieces), False
    # A reset behind close_notify cuts nothing off. An alert ends what is to be read as well, and is told as `exc`.
    return b"".join(pieces), not isinstance(exc, ssl.SSLError)


def problem(exc: Exception | None) -> str:
    """Say of a connection that is lost what it means to whoever waits for an answer."""
    said = "the model closed the connection before its answer was whole"
    # Such as "certificate required": TLS 1.3 refuses a client when that has already begun to ask.
    reason = exc.reason if isinstance(exc, ssl.SSLError) else ""
    return f"{said}: {reason.lower().replace('_', ' ')}" if reason else said
