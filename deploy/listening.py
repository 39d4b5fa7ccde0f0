"""Takes the address that a server of uvicorn's is to listen on: left to itself, it takes `::` for IPv6 alone."""

from __future__ import annotations

import socket
from typing import Final

import uvicorn

from deploy.errors import UserError
from streams.addresses import bound, shown

_NOT_STARTED: Final = 3
"""uvicorn's own."""


def serve(config: uvicorn.Config) -> int:
    """Run uvicorn until a signal ends it; give the exit code.

    Raises:
        UserError: the address cannot be listened on.
    """
    server = uvicorn.Server(config)
    server.run(listening(config.host, config.port))
    return 0 if server.started else _NOT_STARTED


def listening(host: str, port: int) -> list[socket.socket] | None:
    """Give the socket for an IPv6 address; None: uvicorn finds those of a name, or of IPv4, itself.

    Raises:
        UserError: it cannot be had.
    """
    if ":" not in host:
        return None
    try:
        return [bound(host, port, shared=False)]
    except OSError as exc:
        raise UserError(f"cannot listen on {shown(host, port)}: {(exc.strerror or str(exc)).lower()}") from exc
