"""`sidelight explain`: explains a request that was logged, found by its event id or correlation id."""

from __future__ import annotations

import argparse
import json
import urllib.error
import urllib.request
from typing import Any

import orjson

from deploy import runfile
from deploy.errors import UserError
from deploy.follow import FollowSettings, duration, lines
from inference.observations import body_of, decode_inputs, protocol_of
from inference.protocol import v1
from inference.protocol.errors import ProtocolError
from streams.events import MODEL_NAME, REQUEST_TYPE, SERVICE, Event
from streams.topics import Topics

HELP = "explain a logged request"
EXAMPLES = """\
  sidelight explain --event 5113-5d9a21b7bad1-26           # a correlation id, or an event's own id
  sidelight explain --event ID --row 3 --json
  sidelight explain --event ID --kafka broker:9092 --explainer-url http://127.0.0.1:8082"""
_BAR = 24


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


def run(arguments: argparse.Namespace) -> int:
    """Do it."""
    kafka, prefix, url = _places(arguments)
    event = find(arguments.event, kafka, Topics(prefix), duration(arguments.since) if arguments.since else 0.0)
    instances = _instances(event)
    if not 0 <= arguments.row < len(instances):
        raise UserError(f"--row {arguments.row}: the request has rows 0 to {len(instances) - 1}")
    model = event.text(MODEL_NAME) or event.text(SERVICE)
    answer = _ask(url, model, instances[arguments.row], arguments.seed, event.correlation())
    if arguments.json:
        print(json.dumps(answer))
    else:
        print("\n".join(table(answer, instances[arguments.row], event)))
    return 0


def find(identity: str, kafka: str, topics: Topics, since_s: float) -> Event:
    """Find a logged request.

    Raises:
        UserError: it is not there; the message says how far was looked.
    """
    looked = 0
    settings = FollowSettings(kafka=kafka, topics=(topics.payloads,), beginning=not since_s, since_s=since_s)
    for line in lines(settings):
        if line is None or line.event is None:
            continue
        looked += 1
        event = line.event
        if event.type == REQUEST_TYPE and identity in {event.id, event.correlation()}:
            return event
    raise UserError(f"no logged request has the id {identity!r}; looked at {looked} events of {topics.payloads}")


def table(answer: dict[str, Any], instance: Any, event: Event) -> list[str]:  # noqa: ANN401 - a row in either protocol
    """Give an explanation as lines: the largest contributions first, with bars."""
    found = answer["explanations"][0]
    values, errors = found["values"][-1], found["standard_errors"][-1]
    given = dict(zip(found["feature_names"], instance, strict=True)) if isinstance(instance, list) else dict(instance)
    widest = max((abs(value) for value in values), default=0.0) or 1.0
    lines_ = [
        f"request {event.correlation()} of {event.service()} at {event.time}",
        f"prediction {found['prediction'][-1]:.4f}, mean over the background {found['base_values'][-1]:.4f}",
    ]
    order = sorted(range(len(values)), key=lambda at: -abs(values[at]))
    for at in order:
        name = found["feature_names"][at]
        bar = ("+" if values[at] >= 0 else "-") * round(_BAR * abs(values[at]) / widest)
        error = f" ± {errors[at]:.4f}" if found["method"] == "sampled" else ""
        lines_.append(f"  {name:<14}{given.get(name, '')!s:>10}  {values[at]:+.4f}{error}  {bar}")
    stats = answer["stats"]
    partial = ", partial: the budget ended first" if found["partial"] else ""
    lines_.append(f"kernel SHAP, {found['method']}{partial}; {stats['calls']} calls, {stats['rows']} rows")
    return lines_


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
    request = urllib.request.Request(  # noqa: S310 - the user's own URL
        f"{url}/v1/models/{model}:explain",
        body,
        {"content-type": "application/json", "x-request-id": f"{correlation}-x"},
    )
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:  # noqa: S310 - likewise
            found: dict[str, Any] = orjson.loads(answer.read())
            return found
    except urllib.error.HTTPError as exc:
        raise UserError(f"{url} answered {exc.code}: {exc.read().decode(errors='replace')[:500]}") from exc
    except (OSError, ValueError) as exc:
        raise UserError(f"the explain server at {url} cannot be reached: {exc}") from exc


def _places(arguments: argparse.Namespace) -> tuple[str, str, str]:
    kafka, prefix, url = arguments.kafka, arguments.prefix, arguments.explainer_url
    if not kafka or not url:
        run_ = runfile.current()
        kafka, prefix, url = kafka or run_.kafka, prefix or run_.prefix, url or run_.explainer
    if not url:
        raise UserError("the local run has no explainer; give the service one, or name --explainer-url")
    return kafka, prefix or "inference", url.rstrip("/")
