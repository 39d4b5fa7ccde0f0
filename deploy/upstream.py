"""KServe's `--predictor_*` arguments: the predictor before which a transformer stands. Next: `inference/upstream/`."""

from __future__ import annotations

import argparse
import logging
import random
from typing import Any, Final

from deploy.errors import UserError
from deploy.kinds import at_least, boolean, seconds
from inference.upstream.link import Link
from inference.upstream.settings import Protocol, UpstreamSettings
from streams.addresses import parsed
from streams.errors import MissingExtra

log = logging.getLogger(__name__)

THREADS: Final = 32
"""Calls at once of a transformer, by default: its threads mostly wait for the predictor."""
_DEFAULTS: Final = UpstreamSettings(host="", port=0)
_PORTS: Final = {False: 80, True: 443}


def add_upstream_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    group = parser.add_argument_group("predictor behind a transformer")
    words: tuple[tuple[str, dict[str, Any], str], ...] = (
        ("host", {"metavar": "HOST[:PORT]"}, "where it is; --model_dir then holds the transformer's class, no model"),
        (
            "protocol",
            {"choices": [each.value for each in Protocol]},
            f"what it is asked in (default: {_DEFAULTS.protocol})",
        ),
        ("use_ssl", {"type": boolean, "nargs": "?", "const": True, "metavar": "BOOL"}, "encrypted (default: false)"),
        (
            "request_timeout_seconds",
            {"type": seconds, "metavar": "SECONDS"},
            f"for a call with its retries (default: {_DEFAULTS.timeout_s:g}; --request-timeout holds, too)",
        ),
        (
            "request_retries",
            {"type": at_least(0), "metavar": "N"},
            f"of calls that it was not reached by, or too busy for (default: {_DEFAULTS.retries})",
        ),
    )
    words += (
        (
            "max_piece_bytes",
            {"type": at_least(0), "metavar": "BYTES"},
            f"of one piece of a text (default: {_DEFAULTS.max_piece})",
        ),
    )
    for name, options, text in words:
        group.add_argument(*_spelt(f"predictor_{name}"), help=text, **options)
    group.add_argument(
        *_spelt("enable_predictor_health_check"), type=boolean, nargs="?", const=True, metavar="BOOL",
        help="be ready only while it is ready",
    )  # fmt: skip


def open_link(arguments: argparse.Namespace) -> Link | None:
    """Give the way to the predictor; None where the command is none of a transformer.

    Raises:
        UserError: an address that is none, or gRPC without its library.
    """
    settings = upstream_settings(arguments)
    if settings is None:
        return None
    try:
        return Link(settings, random.Random())  # noqa: S311 - spreads retries, guards no secret
    except MissingExtra as exc:
        raise UserError(str(exc)) from exc


def upstream_settings(arguments: argparse.Namespace) -> UpstreamSettings | None:
    """Read the arguments."""
    given = getattr(arguments, "predictor_host", None)
    if not given:
        return None
    tls = bool(arguments.predictor_use_ssl)
    host, port = _address(given, _PORTS[tls])
    timeout_s, retries = arguments.predictor_request_timeout_seconds, arguments.predictor_request_retries
    most = arguments.predictor_max_piece_bytes
    return UpstreamSettings(
        host=host,
        port=port,
        protocol=Protocol(arguments.predictor_protocol or _DEFAULTS.protocol),
        tls=tls,
        timeout_s=_DEFAULTS.timeout_s if timeout_s is None else timeout_s,
        retries=_DEFAULTS.retries if retries is None else retries,
        max_piece=_DEFAULTS.max_piece if most is None else most,
        check_health=bool(arguments.enable_predictor_health_check),
    )


def without_host(arguments: argparse.Namespace) -> list[str]:
    """List the arguments that were given for a predictor that was not."""
    return [
        name
        for name, value in vars(arguments).items()
        if name.startswith(("predictor_", "enable_predictor_")) and name != "predictor_host" and value is not None
        if not getattr(arguments, "predictor_host", None)
    ]


def _address(given: str, port: int) -> tuple[str, int]:
    try:
        return parsed(given, port)
    except ValueError as exc:
        raise UserError(f"--predictor_host: expected HOST or HOST:PORT, got {given!r}") from exc


def _spelt(name: str) -> tuple[str, str]:
    return f"--{name}", f"--{name.replace('_', '-')}"
