"""`sidelight alerts`: reads the alert topics."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

import orjson

from deploy.listing import View, add_follow_arguments, print_events, source
from streams.errors import InvalidEvent
from streams.events import Event
from streams.topics import FAMILIES

HELP = "show alerts: opened, updated, resolved"
EXAMPLES = """\
  sidelight alerts                       # all that there are, oldest first
  sidelight alerts --follow              # as they come
  sidelight alerts --since 1h --family drift --json | jq .data.evidence"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_follow_arguments(parser)
    parser.add_argument("--family", action="append", choices=FAMILIES, default=[], help="only this family; repeatable")


def run(arguments: argparse.Namespace) -> int:
    """Do it."""
    found = source(arguments)
    # Each one once, however often it was named.
    families = tuple(dict.fromkeys(arguments.family)) or FAMILIES
    return print_events(arguments, found, tuple(map(found.topics.alerts, families)), View(text=shown))


def shown(event: Event) -> str:
    """Give an alert event as one line: time, state, family, service, monitor and detector, message, numbers, alert id.

    Raises:
        InvalidEvent: its data are no alert.
    """
    body = _body(event)
    detector = body["detector"]
    where = "/".join(str(part) for part in (body.get("monitor"), detector.get("name"), detector.get("key")) if part)
    facts = (
        event.time or "-", f"{body['state']:<8}", f"{body['family']:<11}", event.service(), where, body["message"],
        f"({numbers(body)})", f"[{event.subject or event.id}]",
    )  # fmt: skip
    return "  ".join(facts)


def numbers(body: Mapping[str, Any]) -> str:
    """Sum the evidence up: what was measured, against what, over how many rows."""
    p_value, alpha, window = body.get("p_value"), body.get("alpha"), body.get("window")
    rows = window.get("rows") if isinstance(window, dict) else None
    facts = [f"statistic {body.get('statistic'):.4g}"] if _number(body.get("statistic")) else []
    if _number(p_value) and _number(alpha):
        facts.append(f"p {p_value:.2g}, alarm below {alpha:.2g}")
    elif _number(body.get("threshold")):
        facts.append(f"threshold {body.get('threshold'):.4g}")
    return ", ".join([*facts, *([f"{rows} rows"] if _number(rows) else [])]) or "no numbers"


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _body(event: Event) -> dict[str, Any]:
    try:
        body = orjson.loads(event.data or b"")
    except orjson.JSONDecodeError as exc:
        raise InvalidEvent("not-an-alert", f"event {event.id}: its data are no JSON: {exc}") from exc
    texts = ("state", "family", "message")
    if not isinstance(body, dict) or not all(isinstance(body.get(name), str) for name in texts):
        raise InvalidEvent("not-an-alert", f"event {event.id}: expected an object with {', '.join(texts)}")
    if not isinstance(body.get("detector"), dict):
        raise InvalidEvent("not-an-alert", f"event {event.id}: expected an object 'detector'")
    return body
