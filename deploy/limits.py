"""The logger's flags for limits and time-outs of its proxy: one table, from flag to setting."""

from __future__ import annotations

import argparse
from dataclasses import fields
from typing import Any, Final

from deploy.errors import UserError
from logger.settings import ProxySettings

_FLAGS: Final = {
    "--max-connections": ("max_connections", "open client connections of each proxy; one more is 503"),
    "--max-connections-per-address": ("max_per_address", "of one client address; one more is 429; 0 is no limit"),
    "--max-requests-per-connection": ("max_requests", "after so many a connection closes; 0 is no limit"),
    "--max-body-bytes": ("max_body", "of a request that is passed on; more is 413; 0 is no limit"),
    "--max-url-bytes": ("max_target", "of a request target; more is 414"),
    "--max-head-bytes": ("max_head", "of request line and headers; more is 431"),
    "--max-headers": ("max_headers", "header fields; more is 431"),
    "--head-timeout": ("head_s", "seconds for a request's head; longer is 408"),
    "--idle-timeout": ("idle_s", "seconds of silence between requests"),
    "--min-body-rate": ("min_rate", "bytes a second that a client has to send of a body; slower is 408; 0 is no limit"),
    "--send-timeout": ("send_s", "seconds for which a client may take nothing of its answer"),
    "--connect-timeout": ("connect_s", "seconds for connecting to the model; longer is 503"),
    "--first-byte-timeout": ("first_byte_s", "seconds until the model's answer begins; longer is 504"),
    "--answer-timeout": ("answer_s", "seconds of silence within the model's answer"),
    "--request-timeout": ("total_s", "seconds for a whole exchange; 0 is no limit"),
    "--drain-timeout": ("drain_s", "seconds that a stop waits for running requests"),
}
_DEFAULTS: Final = {item.name: item.default for item in fields(ProxySettings)}


def add_limit_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare them."""
    parser.add_argument(
        "--component-socket", default="", metavar="PATH", help="the model's unix socket, in place of --component-port"
    )
    group = parser.add_argument_group("limits and time-outs (docs/proxy.md; for gRPC docs/grpc.md)")
    for flag, (name, text) in _FLAGS.items():
        default = _DEFAULTS[name]
        kind = int if isinstance(default, int) else float
        group.add_argument(
            flag, dest=name, type=kind, default=default, metavar="N", help=f"{text} (default: {default:g})"
        )


def limits(arguments: argparse.Namespace) -> dict[str, Any]:
    """Give the settings that the arguments name.

    Raises:
        UserError: a limit below 0, or none.
    """
    found = {name: getattr(arguments, name) for name, _ in _FLAGS.values()}
    for flag, (name, _) in _FLAGS.items():
        # NaN is not below 0, and nothing is ever above it: time-outs that never come.
        if not found[name] >= 0:
            raise UserError(f"{flag}: expected 0 or more, got {found[name]}")
    return found | {"upstream_socket": arguments.component_socket}
