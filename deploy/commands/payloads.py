"""`sidelight payloads`: reads the payload topic. Bodies are shown only when asked for."""

from __future__ import annotations

import argparse

from deploy.following import add_follow_arguments, print_events, source
from streams.events import LATENCY_US, PATH, STATUS_CODE, SYNTHETIC, Event

HELP = "show logged requests and responses"
EXAMPLES = """\
  sidelight payloads --follow
  sidelight payloads --since 10m --service default/iris --bodies
  sidelight payloads --from-beginning --json --count 10"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_follow_arguments(parser)
    parser.add_argument("--bodies", action="store_true", help="show the bodies, too: they may hold personal data")


def run(arguments: argparse.Namespace) -> int:
    """Do it."""
    kafka, topics = source(arguments)
    return print_events(arguments, kafka, (topics.payloads,), lambda event: shown(event, bodies=arguments.bodies))


def shown(event: Event, *, bodies: bool) -> str:
    """Give a payload event as one line, and its body on a second one when asked."""
    kind = event.type.rpartition(".")[2]
    latency = event.text(LATENCY_US)
    facts = [
        event.time or "-", f"{kind:<9}", event.service(), event.text(PATH), event.text(STATUS_CODE),
        f"{int(latency) / 1000:.1f} ms" if latency.isdecimal() else "", f"{len(event.data or b'')} B",
        "synthetic" if event.text(SYNTHETIC) else "", f"[{event.correlation()}]",
    ]  # fmt: skip
    line = "  ".join(fact for fact in facts if fact)
    return f"{line}\n    {(event.data or b'').decode(errors='replace')}" if bodies else line
