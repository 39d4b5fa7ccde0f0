"""`sidelight explain`: explains a request that was logged, found by its event id or correlation id."""

from __future__ import annotations

import argparse
import http.client
import json
import urllib.error
import urllib.request
from contextlib import closing
from typing import Any, Final
from urllib.parse import quote

import orjson

from deploy import runfile
from deploy.errors import UserError
from deploy.follow import FollowSettings, duration, lines
from deploy.listing import Source, printable, source
from deploy.privacy import add_keys_argument, opening_keys
from deploy.security import add_kafka_arguments
from inference.observations import body_of, decode_inputs, protocol_of
from inference.protocol import v1
from inference.protocol.errors import ProtocolError
from streams.envelope import opened
from streams.errors import Sealed
from streams.events import COMPONENT, MODEL_NAME, REQUEST_TYPE, SERVICE, SHADOW, Event
from streams.keyring import Keyring

HELP = "explain a logged request"
EXAMPLES = """\
  sidelight explain --event 5113-5d9a21b7bad1-26           # a correlation id, or an event's own id
  sidelight explain --event ID --row 3 --json
  sidelight explain --event ID --kafka broker:9092 --explainer-url http://127.0.0.1:8082"""
_BAR: Final = 24
_REMEDY: Final = "give the service one (spec.explainer) and start it with `sidelight up`, or name --explainer-url"
_NAMED: Final = 5
"""Requests that a message names when an id is several requests'."""

# The explain server is on this machine or in the cluster: a proxy that the environment names is for elsewhere.
_OPENER: Final = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--event", required=True, metavar="ID", help="correlation id, or id of the request event")
    parser.add_argument("--row", type=int, default=0, help="which row of the request (default: the first)")
    parser.add_argument("--explainer-url", default="", help="explain server (default: the local run's)")
    parser.add_argument("--kafka", default="", metavar="HOST:PORT", help="bootstrap address (default: the local run's)")
    parser.add_argument("--prefix", default="", help="first part of the topic names (default: the local run's)")
    parser.add_argument("--since", default="", metavar="TIME", help="look this far back only: 10m, 2h, 1d")
    parser.add_argument("--seed", type=int, default=0, help="seed of the search")
    parser.add_argument("--json", action="store_true", help="answer in JSON")
    add_keys_argument(parser)
    add_kafka_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Do it."""
    since_s = duration(arguments.since) if arguments.since else 0.0
    keys = opening_keys(arguments)
    found = source(arguments)
    explainers = _explainers(arguments.explainer_url, found.kafka)
    event = find(arguments.event, found, since_s)
    url = arguments.explainer_url.rstrip("/") or explainers.get(event.service(), "")
    if not url:
        raise UserError(f"service {event.service()} has no explainer, {', '.join(explainers)} has: {_REMEDY}")
    instances = _instances(_opened(event, keys))
    if not 0 <= arguments.row < len(instances):
        rows = f"rows 0 to {len(instances) - 1}" if instances else "no rows"
        raise UserError(f"--row {arguments.row}: the request has {rows}")
    model = event.text(MODEL_NAME) or event.text(SERVICE)
    answer = _ask(url, model, instances[arguments.row], arguments.seed, event.correlation())
    if arguments.json:
        print(json.dumps(answer))
    else:
        print("\n".join(table(answer, instances[arguments.row], event)))
    return 0


def find(identity: str, where: Source, since_s: float) -> Event:
    """Find a logged request by its event's id, which is its own, or by a correlation id, which clients choose.

    Raises:
        UserError: it is not there, or the correlation id is several requests'; the message says what to do.
    """
    looked, oldest, found = 0, "", dict[str, Event]()
    topic = where.topics.payloads
    settings = FollowSettings(
        kafka=where.kafka, topics=(topic,), beginning=not since_s, since_s=since_s, extra=where.extra
    )
    with closing(lines(settings)) as read:
        for event in (line.event for line in read if line is not None and line.event is not None):
            looked, oldest = looked + 1, oldest or event.time or "an unknown time"
            if event.type != REQUEST_TYPE:
                continue
            if event.id == identity:
                return event
            # An event that was delivered twice has one id. More than are named are not kept: each holds its body.
            # A shadow's copy is the same request once more.
            meant = event.correlation() == identity and event.text(COMPONENT) != SHADOW
            if meant and len(found) <= _NAMED:
                found.setdefault(event.id, event)
    if not found:
        raise UserError(f"no logged request has the id {identity!r}: {_looked(topic, looked, oldest, since_s)}")
    if len(found) > 1:
        named = ", ".join([*list(found)[:_NAMED], *(["..."] if len(found) > _NAMED else [])])
        raise UserError(f"several requests have the correlation id {identity!r}; name one by its own id: {named}")
    return next(iter(found.values()))


def table(answer: dict[str, Any], instance: Any, event: Event) -> list[str]:  # noqa: ANN401 - a row in either protocol
    """Give an explanation as lines: the largest contributions first, with bars."""
    found = answer["explanations"][0]
    values, errors = found["values"][-1], found["standard_errors"][-1]
    given = dict(zip(found["feature_names"], instance, strict=True)) if isinstance(instance, list) else dict(instance)
    widest = max((abs(value) for value in values), default=0.0) or 1.0
    lines_ = [
        printable(f"request {event.correlation()} of {event.service()} at {event.time}"),
        f"prediction {found['prediction'][-1]:.4f}, mean over the background {found['base_values'][-1]:.4f}",
    ]
    order = sorted(range(len(values)), key=lambda at: -abs(values[at]))
    for at in order:
        name, value = found["feature_names"][at], given.get(found["feature_names"][at], "")
        bar = ("+" if values[at] >= 0 else "-") * round(_BAR * abs(values[at]) / widest)
        error = f" ± {errors[at]:.4f}" if found["method"] == "sampled" else ""
        lines_.append(f"  {printable(name):<14}{printable(str(value)):>10}  {values[at]:+.4f}{error}  {bar}")
    stats = answer["stats"]
    partial = ", partial: the budget ended first" if found["partial"] else ""
    lines_.append(f"kernel SHAP, {found['method']}{partial}; {stats['calls']} calls, {stats['rows']} rows")
    return lines_


def _looked(topic: str, looked: int, oldest: str, since_s: float) -> str:
    if since_s:
        return f"{topic} took {looked} events since then; look further back, or leave --since out"
    if not looked:
        return f"{topic} holds no events"
    return f"{topic} holds {looked} events, the oldest of {oldest}; what was before has expired (its retention.ms)"


def _opened(event: Event, keys: Keyring) -> Event:
    try:
        return opened(event, keys)
    except Sealed as exc:
        raise UserError(f"event {event.id}: its body cannot be opened: {exc}") from exc


def _instances(event: Event) -> list[Any]:
    try:
        body = body_of(event)
        if protocol_of(event, body) == "v1":
            return v1.decode_request(body).instances
        columns, count = decode_inputs(event)
    except ProtocolError as exc:
        raise UserError(f"event {event.id}: its body cannot be decoded: {exc}") from exc
    values = [column.to_pylist() for column in columns.values()]
    if len(values) == 1 and values[0] and isinstance(values[0][0], list):
        return list(values[0])
    names = [name.removeprefix("in.") for name in columns]
    return [{name: column[row] for name, column in zip(names, values, strict=True)} for row in range(count)]


def _ask(url: str, model: str, instance: Any, seed: int, correlation: str) -> dict[str, Any]:  # noqa: ANN401 - as above
    body = orjson.dumps({"instances": [instance], "parameters": {"seed": seed}})
    headers = {"content-type": "application/json", "x-request-id": f"{correlation}-x"}
    try:
        where = f"{url}/v1/models/{quote(model, safe='')}:explain"
        request = urllib.request.Request(where, body, headers)  # noqa: S310 - the user's own URL
        with _OPENER.open(request, timeout=120) as answer:
            found = orjson.loads(answer.read())
    except urllib.error.HTTPError as exc:
        text = printable(exc.read().decode(errors="replace")[:500])
        raise UserError(f"the explain server at {url} answered {exc.code}: {text}") from exc
    except orjson.JSONDecodeError as exc:
        raise UserError(f"{url} is no explain server: its answer is no JSON: {exc}") from exc
    except (OSError, ValueError, http.client.HTTPException) as exc:
        problem = printable(str(exc).strip())
        raise UserError(f"the explain server at {url} cannot be reached: {problem}; does it run? {_REMEDY}") from exc
    if not isinstance(found, dict) or not found.get("explanations"):
        raise UserError(f"{url} is no explain server: its answer has no 'explanations'")
    return found


def _explainers(named: str, kafka: str) -> dict[str, str]:
    """Give the explainer of each service of the local runs on this broker, the newest run's first of all.

    Raises:
        UserError: there is none, and none was named.
    """
    runs = [run_ for run_ in runfile.running() if run_.kafka == kafka]
    found = {service: url for run_ in reversed(runs) for service, url in run_.explainers.items()}
    if not found and not named:
        raise UserError(f"no explainer runs here for Kafka at {kafka}: {_REMEDY}")
    return found
