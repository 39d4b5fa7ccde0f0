"""Opens connections to the model: to its port or its unix socket, in the clear or encrypted.

Used by `upstream.py` (HTTP), `grpc/front.py` (gRPC) and `batching/calls.py`. What goes over a connection is theirs:
with TLS, only the transport below it is another.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from logger.settings import ModelTls, ProxySettings
from streams import pem

P = TypeVar("P", bound=asyncio.Protocol)

_HTTP: Final = "http/1.1"
_GRPC: Final = "h2"


class Connector:
    """Opens them for one process.

    Raises:
        BadCredentials: a file of authorities, certificate or key cannot be used.
    """

    def __init__(self, settings: ProxySettings) -> None:
        self._settings = settings
        self._trust = _Trust(settings.upstream_tls) if settings.upstream_tls is not None else None

    async def http(self, made: Callable[[], P]) -> P:
        """Open one for HTTP/1.1.

        Raises:
            OSError: refused, unreachable, or not whom we trust.
            TimeoutError: no answer in time.
        """
        return await self._open(made, self._settings.upstream_port, self._settings.upstream_socket, _HTTP)

    async def grpc(self, made: Callable[[], P]) -> P:
        """Open one for gRPC; raises the same."""
        settings = self._settings
        other = settings.grpc_upstream_port
        return await self._open(made, other or settings.upstream_port, "" if other else settings.upstream_socket, _GRPC)

    async def _open(self, made: Callable[[], P], port: int, path: str, protocol: str) -> P:
        loop, settings, trust = asyncio.get_running_loop(), self._settings, self._trust
        context = trust.context(protocol) if trust is not None else None
        name = trust.name or settings.upstream_host if trust is not None else None
        try:
            async with asyncio.timeout(settings.connect_s):
                if path:
                    _, found = await loop.create_unix_connection(made, path, ssl=context, server_hostname=name)
                else:
                    _, found = await loop.create_connection(
                        made, settings.upstream_host, port, ssl=context, server_hostname=name
                    )
        except ConnectionResetError as exc:
            # The loop says nothing of a connection that ends before it is encrypted.
            if str(exc):
                raise
            raise ConnectionResetError("it hung up amid the TLS handshake") from exc
        return found


class _Trust:
    """Whom we take for the model, and what we show to it. Files are read again when they were replaced."""

    def __init__(self, tls: ModelTls) -> None:
        self.name = tls.server_name
        self._contexts = pem.Reread(
            [Path(file) for file in (tls.ca_file, tls.cert_file, tls.key_file) if file],
            lambda: {protocol: _context(tls, protocol) for protocol in (_HTTP, _GRPC)},
            taken="new connections to the model use the authorities, certificate and key that were replaced",
            refused="new authorities, certificate or key for the model cannot be used, the old ones stay",
        )

    def context(self, protocol: str) -> ssl.SSLContext:
        """Give what a new connection is made with."""
        self._contexts.look()
        return self._contexts.newest[protocol]


def _context(tls: ModelTls, protocol: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_alpn_protocols([protocol])
    if tls.ca_file:
        pem.check_readable(tls.ca_file)
        pem.load_authorities(context, tls.ca_file)
    else:
        context.load_default_certs()
    if tls.cert_file:
        pem.load_identity(context, tls.cert_file, tls.key_file)
    return context
