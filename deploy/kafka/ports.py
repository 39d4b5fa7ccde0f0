"""Finds the two ports of a broker on loopback, and keeps them with its folder, so that clients find it again."""

from __future__ import annotations

import json
import socket
from pathlib import Path

from deploy.errors import UserError
from deploy.kafka.properties import LOOPBACK


def free_port() -> int:
    """Give a TCP port on loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


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
