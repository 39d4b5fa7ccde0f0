"""Finds the two ports of a broker on loopback, and keeps them with its folder, so that clients find it again."""

from __future__ import annotations

import json
import os
import secrets
import socket
import sys
from collections import deque
from pathlib import Path
from typing import Final

from deploy.errors import UserError
from deploy.kafka.properties import LOOPBACK

_RANGE: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")
_LOWEST: Final = 12_000
_USUAL: Final = 32_768
_TRIES: Final = 200
_MOST_HELD: Final = 64
_held: deque[int] = deque()
"""File descriptors of the last ports that were given, open until the process ends."""


def free_port() -> int:
    """Give a TCP port on loopback that nobody listens on.

    It is none of those that the system gives to whoever asks for any, or connects: else a stranger might have it before
    its server has begun to listen, or while that restarts. Nor is it given again, here or in another process, while it
    is among the last ones that this process was given.
    """
    for _ in range(_TRIES):
        port = _LOWEST + secrets.randbelow(max(1, _given_by_the_system() - _LOWEST))
        if _hold(port):
            return port
    raise UserError(f"no free port on {LOOPBACK} from {_LOWEST} to {_given_by_the_system()}")


def _hold(port: int) -> bool:
    """Bind a port so that its server may bind it, too, and `_hold` may not."""
    with socket.socket() as probe:
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
        if sys.platform == "linux":
            # Linux looks at what both sockets say now. This one never listens, so a server comes in, as all of them
            # say SO_REUSEADDR; the bind above does not.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            _held.append(probe.detach())
    if len(_held) > _MOST_HELD:
        os.close(_held.popleft())
    return True


def _given_by_the_system() -> int:
    """Give the lowest of the ports that Linux hands out by itself: ip(7), `ip_local_port_range`."""
    try:
        lowest = int(_RANGE.read_text(encoding="ascii").split()[0])
    except (OSError, ValueError, IndexError):
        return _USUAL
    # Where the range was widened downwards there is nothing below it; then nearly all ports are as good.
    return lowest if lowest > 2 * _LOWEST else _USUAL


def is_free(port: int) -> bool:
    """Tell whether a server could listen on this port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
        return True


def choose(folder: Path, named: int) -> tuple[int, int]:
    """Give client and controller port: what was named, else those of the last start where they are free, else new ones.

    Raises:
        UserError: the named port is in use.
    """
    if named and not is_free(named):
        raise UserError(f"--port {named}: already in use on {LOOPBACK}")
    kept_client, kept_controller = _kept(folder)
    client = named or (kept_client if kept_client and is_free(kept_client) else free_port())
    controller = kept_controller if kept_controller not in {0, client} and is_free(kept_controller) else free_port()
    (folder / "ports.json").write_text(json.dumps([client, controller]), encoding="utf-8")
    return client, controller


def _kept(folder: Path) -> tuple[int, int]:
    try:
        client, controller = json.loads((folder / "ports.json").read_text(encoding="utf-8"))
        return int(client), int(controller)
    except (OSError, ValueError, TypeError):
        return 0, 0
