"""The flags that say where a predictor's shadow versions leave their answers, and what of them may be logged."""

from __future__ import annotations

import argparse
import logging
from functools import cache
from typing import TYPE_CHECKING, Final

from deploy.errors import UserError
from deploy.security import add_kafka_arguments, kafka_security

if TYPE_CHECKING:
    from logger.shadows import ShadowLog

log = logging.getLogger(__name__)

_NONE: Final = "none"


def stream_shadow_log(arguments: argparse.Namespace, source: str, payloads: str) -> ShadowLog:
    """Give what keeps the answers of a stream's shadow versions, beside the events of its users' calls.

    Raises:
        UserError: credentials that cannot be used.
    """
    from deploy import ways  # noqa: PLC0415 - only who logs payloads needs it
    from logger.settings import OutboxSettings, SpoolSettings, TapSettings  # noqa: PLC0415
    from logger.shadows import ShadowLog  # noqa: PLC0415
    from logger.tap import Tap  # noqa: PLC0415
    from streams.events import SHADOW  # noqa: PLC0415

    (sink,) = ways.destinations(f"kafka://{arguments.kafka}/{payloads}", "drop")
    capture = TapSettings().capture
    settings = ways.WaySettings(
        outbox=OutboxSettings(), spool=SpoolSettings(), spool_folder=None, capture=capture, events_each=2, kafka={},
        security=kafka_security(arguments),
    )  # fmt: skip

    @cache
    def named(model: str) -> Tap:
        service = arguments.inference_service or model
        return Tap(TapSettings(source=source, service=service, namespace=arguments.namespace, component=SHADOW))

    return ShadowLog(named(""), lambda: ways.build(sink, settings), capture, named=named)


def add_shadow_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments; they are named as the logger's."""
    group = parser.add_argument_group("events of shadow versions", "what the service's logger cannot see")
    group.add_argument(
        "--log-shadows", default="", metavar="URL[,URL]",
        help="where what shadow versions answer goes as events: kafka://host:port[,host:port][/topic] or"
        " http(s)://host/path; without it, nowhere",
    )  # fmt: skip
    group.add_argument(
        "--privacy", default="", metavar="FILE",
        help=f"the logger's rules, for these events, too: docs/privacy.md; {_NONE}: none are wanted. Must be said",
    )  # fmt: skip
    group.add_argument("--inference-service", default="", metavar="NAME", help="of the events, as of the logger's")
    group.add_argument("--namespace", default="", help="of the events, as of the logger's")
    group.add_argument("--endpoint", default="", help="of the events, as of the logger's")
    group.add_argument("--source-uri", default="", help="of the events (default: http://localhost:PORT/)")
    add_kafka_arguments(parser)


def open_shadow_log(arguments: argparse.Namespace) -> ShadowLog | None:
    """Give what keeps the answers; None where none are to be kept. In the process that predicts.

    Raises:
        UserError: a sink, rules or credentials that cannot be used, or none where they must be named.
        MissingExtra: the rules ask for encryption, and the library is not installed.
    """
    if not arguments.log_shadows:
        return None
    if not arguments.privacy:
        raise UserError(f"--log-shadows: expected --privacy FILE with the logger's rules, or --privacy {_NONE}")
    if not arguments.inference_service:
        raise UserError("--log-shadows: expected --inference-service, the name under which the logger's events go")
    # Whoever logs no shadows needs none of it.
    from deploy import ways  # noqa: PLC0415
    from deploy.privacy import collectors, private  # noqa: PLC0415
    from logger.settings import OutboxSettings, SpoolSettings, TapSettings  # noqa: PLC0415
    from logger.shadows import ShadowLog  # noqa: PLC0415
    from logger.tap import Tap  # noqa: PLC0415
    from streams.events import SHADOW  # noqa: PLC0415

    sinks = ways.destinations(arguments.log_shadows, "drop")
    if len(sinks) != 1 or sinks[0].policy != "drop":
        raise UserError(f"--log-shadows: expected one sink without a spool, got {arguments.log_shadows!r}")
    tapped = TapSettings(
        source=arguments.source_uri or f"http://localhost:{arguments.http_port}/",
        service=arguments.inference_service, namespace=arguments.namespace, component=SHADOW,
        endpoint=arguments.endpoint,
    )  # fmt: skip
    settings = ways.WaySettings(
        outbox=OutboxSettings(), spool=SpoolSettings(), spool_folder=None, capture=tapped.capture,
        events_each=2, kafka={}, security=kafka_security(arguments),
    )  # fmt: skip
    tap = private(Tap(tapped), tapped, "" if arguments.privacy == _NONE else arguments.privacy)
    log.info("what shadow versions answer goes to %s", sinks[0].name)
    return ShadowLog(tap, lambda: ways.build(sinks[0], settings), tapped.capture, more=collectors(tap))
