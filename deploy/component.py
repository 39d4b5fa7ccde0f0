"""The logger's flags for a model that wants its connections encrypted. Next: `logger/connector.py`."""

from __future__ import annotations

import argparse
import ssl
from collections.abc import Iterator
from contextlib import contextmanager

from deploy.errors import UserError
from logger.connector import Connector
from logger.settings import ModelTls, ProxySettings
from streams import pem
from streams.errors import BadCredentials


def add_component_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare them."""
    group = parser.add_argument_group("TLS to the model, of HTTP and gRPC")
    group.add_argument("--component-tls", action="store_true", help="encrypt; the system's authorities are trusted")
    group.add_argument(
        "--component-ca-file", default="", metavar="FILE",
        help="encrypt, and trust the authorities in this PEM; it is read again when it is replaced",
    )  # fmt: skip
    group.add_argument(
        "--component-server-name", default="", metavar="NAME",
        help="encrypt; the name that the model's certificate has to have (default: the address, 127.0.0.1)",
    )  # fmt: skip
    group.add_argument(
        "--component-cert-file", default="", metavar="FILE",
        help="encrypt, and show the model this certificate (PEM); it is read again when it is replaced",
    )  # fmt: skip
    group.add_argument(
        "--component-key-file", default="", metavar="FILE",
        help="PEM of its key, read again, too (default: in --component-cert-file)",
    )  # fmt: skip


def component_tls(arguments: argparse.Namespace) -> ModelTls | None:
    """Give what the arguments say; None: in the clear.

    Raises:
        UserError: a file cannot be used as it is now, or the name is none.
    """
    ca_file, name = arguments.component_ca_file, arguments.component_server_name
    certificate, key = arguments.component_cert_file, arguments.component_key_file
    if key and not certificate:
        raise UserError(f"--component-key-file {key}: a key needs its certificate; name it with --component-cert-file")
    if not (arguments.component_tls or ca_file or name or certificate):
        return None
    try:
        # As every connection does it: there, nobody could say what is wrong.
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).wrap_bio(
            ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname=name or "localhost"
        )
    except ValueError as exc:
        raise UserError(f"--component-server-name {name}: {exc}") from exc
    with _naming("--component-ca-file"):
        Connector(ProxySettings(upstream_tls=ModelTls(ca_file=ca_file)))
    if key:
        with _naming("--component-key-file"):
            pem.check_readable(key)
    tls = ModelTls(ca_file=ca_file, server_name=name, cert_file=certificate, key_file=key)
    with _naming("--component-cert-file"):
        Connector(ProxySettings(upstream_tls=tls))
    return tls


@contextmanager
def _naming(flag: str) -> Iterator[None]:
    try:
        yield
    except BadCredentials as exc:
        raise UserError(f"{flag}: {exc}") from exc
