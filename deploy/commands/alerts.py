"""`sidelight alerts`: reads the alert topics."""

from __future__ import annotations

import argparse

import orjson

from deploy.following import add_follow_arguments, print_events, source
from streams.events import Event
from streams.topics import FAMILIES

HELP = "show alerts: opened, updated, resolved"
EXAMPLES = """\
  sidelight alerts                       # all that there are
  sidelight alerts --follow              # as they come
  sidelight alerts --since 1h --family drift --json"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_follow_arguments(parser)
    parser.add_argument("--family", action="append", choices=FAMILIES, default=[], help="only this family; repeatable")


def run(arguments: argparse.Namespace) -> int:
    """Do it."""
    kafka, topics = source(arguments)
    names = tuple(topics.alerts(family) for family in arguments.family or FAMILIES)
    return print_events(arguments, kafka, names, shown)


def shown(event: Event) -> str:
    """Give an alert event as one line."""
    body = orjson.loads(event.data or b"{}")
    detector = body.get("detector", {})
    where = f"{detector.get('name', '?')}/{detector.get('key') or 'all'}"
    return (
        f"{event.time}  {body.get('state', '?'):<9}{body.get('family', '?'):<8}{event.service()}  {where}  "
        f"{body.get('message', '')}  [{event.subject}]"
    )
