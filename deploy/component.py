"""The logger's flags for a model that wants its connections encrypted. Next: `logger/connector.py`."""

from __future__ import annotations

import argparse
import ssl

from deploy.errors import UserError
from logger.connector import Connector
from logger.settings import ModelTls, ProxySettings
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


def component_tls(arguments: argparse.Namespace) -> ModelTls | None:
    """Give what the arguments say; None: in the clear.

    Raises:
        UserError: the authorities cannot be used as they are now, or the name is none.
    """
    ca_file, name = arguments.component_ca_file, arguments.component_server_name
    if not (arguments.component_tls or ca_file or name):
        return None
    try:
        # As every connection does it: there, nobody could say what is wrong.
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).wrap_bio(
            ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname=name or "localhost"
        )
    except ValueError as exc:
        raise UserError(f"--component-server-name {name}: {exc}") from exc
    tls = ModelTls(ca_file=ca_file, server_name=name)
    try:
        Connector(ProxySettings(upstream_tls=tls))
    except BadCredentials as exc:
        raise UserError(f"--component-ca-file: {exc}") from exc
    return tls
