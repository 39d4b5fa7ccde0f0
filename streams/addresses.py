"""Addresses as users write them: of IPv6 with or without brackets, `::` for every one of both kinds.

Used wherever a process listens, or is told where another one does.
"""

from __future__ import annotations

import socket
from typing import Final
from urllib.parse import urlsplit

_EVERY: Final = "::"


def bare(host: str) -> str:
    """Give an address without the brackets that URLs have around it."""
    return host[1:-1] if host.startswith("[") and host.endswith("]") else host


def shown(host: str, port: int) -> str:
    """Give host and port as URLs have them."""
    host = bare(host)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parsed(text: str, port: int) -> tuple[str, int]:
    """Read HOST or HOST:PORT; the port is given for one that is not said.

    Raises:
        ValueError: it is neither.
    """
    # More than one colon without brackets: all of it is the address.
    parts = urlsplit(f"//[{text}]" if text.count(":") > 1 and "[" not in text else f"//{text}")
    if not parts.hostname or parts.path or parts.query or parts.fragment or parts.username is not None:
        raise ValueError(f"expected HOST or HOST:PORT, got {text!r}")
    return parts.hostname, parts.port or port


def bound(host: str, port: int, *, shared: bool) -> socket.socket:
    """Give a socket bound to an address, which others may share if they ask for it, too. It does not listen.

    Raises:
        OSError: the address is taken, or none of this machine's.
    """
    host = bare(host)
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    # Of a name that has addresses of both kinds, the one that every client can reach.
    family, kind, protocol, _, address = min(found, key=lambda each: each[0] != socket.AF_INET)
    made = socket.socket(family, kind, protocol)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if host == _EVERY and socket.has_dualstack_ipv6():
            # Whatever the system's default is.
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        made.bind(address)
    except OSError:
        made.close()
        raise
    made.setblocking(False)  # noqa: FBT003 - the library names no parameter
    return made
