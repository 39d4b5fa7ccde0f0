"""`sidelight explainer`: the explain server beside a predictor. Takes the arguments that KServe gives explainers."""

from __future__ import annotations

import argparse
import logging
import random
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import uvicorn
from prometheus_client import start_http_server

from deploy import references
from deploy.errors import UserError
from deploy.listening import serve
from deploy.manifests import load_monitors
from explainers.base import Background
from explainers.callback import CallbackClient, CallbackSettings
from explainers.server import ExplainServer
from explainers.settings import ServerSettings
from streams.addresses import bare, parsed, shown
from streams.events import PREDICTOR

HELP = "answer explain requests by calling back into a predictor"
EXAMPLES = """\
  sidelight explainer --model_name income --predictor_host 127.0.0.1:8080 --monitor monitor.yaml
  sidelight explainer --model_name iris --predictor_host iris-predictor.default --http_port 8080 \\
      --background_file train.parquet        # its columns are the features, in the model's order"""

_PORT = 80
"""Of a predictor that is named without one."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    defaults = ServerSettings(model="")
    parser.add_argument("--model_name", required=True)
    parser.add_argument("--predictor_host", required=True, metavar="HOST:PORT", help="where the predictor answers")
    parser.add_argument("--predictor_protocol", choices=("auto", "v1", "v2"), default="auto")
    parser.add_argument("--http_port", type=int, default=defaults.port)
    parser.add_argument("--host", type=bare, default=defaults.host, help="address to listen on (default: all)")
    parser.add_argument("--explainer", default=defaults.explainer, help="which method (default: %(default)s)")
    known = parser.add_mutually_exclusive_group(required=True)
    known.add_argument(
        "--monitor", type=Path, action="append", metavar="FILE",
        help="InferenceMonitor whose features and reference serve as background",
    )  # fmt: skip
    known.add_argument(
        "--background_file", type=Path, metavar="FILE",
        help="Parquet or CSV with the features as columns, in the model's order",
    )  # fmt: skip
    parser.add_argument("--background", type=int, default=defaults.background, help="background rows (default: 50)")
    parser.add_argument("--max_rows", type=int, default=defaults.max_rows, help="callback rows per instance")
    parser.add_argument("--deadline_ms", type=int, default=defaults.deadline_ms, help="longest time for a request")
    parser.add_argument("--metrics-port", type=int, default=0, metavar="PORT", help="Prometheus page; 0 is none")


def run(arguments: argparse.Namespace) -> int:
    """Do it."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s", stream=sys.stderr)
    # A line per callback would drown everything else.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    settings = ServerSettings(
        model=arguments.model_name, explainer=arguments.explainer, host=arguments.host, port=arguments.http_port,
        background=arguments.background, max_rows=arguments.max_rows, deadline_ms=arguments.deadline_ms,
    )  # fmt: skip
    client = CallbackClient(
        CallbackSettings(
            url=_url(arguments.predictor_host), model=arguments.model_name, protocol=arguments.predictor_protocol
        ),
        random.Random(),  # noqa: S311 - spreads retries, nothing else
    )
    if arguments.background_file:
        columns = references.table(arguments.background_file)
    else:
        columns = features(arguments.model_name, arguments.monitor)
    server = ExplainServer(settings, client, background(columns, arguments.background))
    if arguments.metrics_port:
        start_http_server(arguments.metrics_port, addr="127.0.0.1", registry=server.registry)
    # uvicorn drains and then raises the signal again; drained is a good end, so nothing more shall come of it.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    config = uvicorn.Config(
        server.app,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=20,
    )
    return serve(config)


def _url(predictor: str) -> str:
    try:
        return f"http://{shown(*parsed(predictor, _PORT))}"
    except ValueError as exc:
        raise UserError(f"--predictor_host: {exc}") from exc


def features(service: str, files: list[Path]) -> Mapping[str, references.Array]:
    """Give the feature columns in the reference of the monitor that watches a service.

    Raises:
        UserError: none of the files has such a monitor.
    """
    monitors = [
        monitor for monitor in load_monitors(files) if monitor.service == service and monitor.component == PREDICTOR
    ]
    if not monitors:
        raise UserError(f"--monitor: no InferenceMonitor for service {service!r} in {', '.join(map(str, files))}")
    reference = references.load(monitors[0])
    return {column.name: reference[column.name] for column in monitors[0].features}


def background(table: Mapping[str, references.Array], size: int, seed: int = 0) -> Background:
    """Draw background rows from columns; numbers where all of them are numbers."""
    columns = [_numbers(values) for values in table.values()]
    numeric = all(column.dtype != object for column in columns)
    rows = np.column_stack(columns).astype(np.float64 if numeric else object)
    chosen = np.random.default_rng(seed).choice(len(rows), min(size, len(rows)), replace=False)
    return Background(rows=rows[np.sort(chosen)], weights=np.full(len(chosen), 1 / len(chosen)), names=tuple(table))


def _numbers(values: references.Array) -> references.Array:
    """Give coded categories as the numbers that a model takes; real text stays text."""
    try:
        return values.astype(np.float64)
    except ValueError:
        return values.astype(object)
