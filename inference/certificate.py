"""The certificate that HTTP and gRPC are served with: read when the server starts, and again when its files change.

A new handshake gets the newest; connections that are open stay as they are. Used by `inference/server.py`.
"""

from __future__ import annotations

import ssl
from typing import Final

from inference.settings import CertificateFiles
from streams import pem

_HTTP: Final = "http/1.1"
_GRPC: Final = "h2"


class Certificate:
    """What one process proves with who it is.

    Raises:
        BadCredentials: a file is missing, or no certificate, or no key that belongs to it.
    """

    def __init__(self, files: CertificateFiles) -> None:
        self._files = files
        self._contexts = pem.Reread(
            [file for file in (files.certificate, files.key) if file is not None],
            lambda: {protocol: _context(files, protocol) for protocol in (_HTTP, _GRPC)},
            taken="the certificate has changed: new connections get the new one",
            refused="the new certificate cannot be used, the old one stays",
        )
        self.http, self.grpc = self._serving(_HTTP), self._serving(_GRPC)

    def look(self) -> None:
        """Take up files that were replaced. Called again and again; files that cannot be used change nothing."""
        self._contexts.look()

    def _serving(self, protocol: str) -> ssl.SSLContext:
        """Give a context for a listener, which keeps it for good: it hands each handshake on to the newest one.

        Loading the files into a context that is in use would leave it without a key when they do not go together.
        """
        context = _context(self._files, protocol)

        def hand_on(connection: ssl.SSLSocket | ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
            connection.context = self._contexts.newest[protocol]

        # Called for clients that name no server, too.
        context.sni_callback = hand_on
        return context


def _context(files: CertificateFiles, protocol: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols([protocol])
    pem.load_identity(context, str(files.certificate), str(files.key or ""))
    return context
