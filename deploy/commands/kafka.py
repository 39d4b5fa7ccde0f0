"""`sidelight kafka`: the embedded Apache Kafka by itself."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from deploy import environment
from deploy.errors import ProcessFailed, UserError
from deploy.kafka import broker, jars, java

HELP = "start, stop or show an Apache Kafka on this machine (one KRaft node, loopback only)"
EXAMPLES = """\
  sidelight kafka start                 # first start fetches about 42 MiB, later ones need no network
  sidelight kafka start --data ./kafka --port 9092 --java /usr/bin/java
  sidelight kafka status --json
  sidelight kafka stop"""


def default_folder() -> Path:
    """Give the folder of the broker that commands use when none is named."""
    return environment.home() / "kafka" / "broker"


def start(folder: Path, port: int, java_named: str) -> broker.Running:
    """Start the broker of a folder, with progress on standard error; errors become one sentence."""
    runtime = java.find(java_named)
    class_path = jars.class_path(environment.home() / "kafka", _progress)
    settings = broker.BrokerSettings(folder=folder, java=runtime, class_path=class_path, port=port)
    try:
        return broker.start(settings, environment.inherited())
    except ProcessFailed as exc:
        raise UserError(str(exc)) from exc


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("action", choices=("start", "stop", "status"))
    parser.add_argument(
        "--data", type=Path, default=None, help="folder that keeps the data (default: ~/.sidelight/kafka/broker)"
    )
    parser.add_argument("--port", type=int, default=0, help="client port (default: a free one, kept for the folder)")
    parser.add_argument("--java", default="", help="an existing java, 17 or newer, instead of the one from the extra")
    parser.add_argument("--json", action="store_true", help="answer in JSON")


def run(arguments: argparse.Namespace) -> int:
    """Do it."""
    folder: Path = (arguments.data or default_folder()).absolute()
    if arguments.action == "stop":
        stopped = broker.stop(folder)
        print("stopped" if stopped else "was not running")
        return 0
    if arguments.action == "start":
        found: broker.Running | None = start(folder, arguments.port, arguments.java)
    else:
        found = broker.running(folder)
    _show(found, folder, as_json=arguments.json)
    return 0 if found else 3


def _show(found: broker.Running | None, folder: Path, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"running": found is not None, "folder": str(folder), **(asdict(found) if found else {})}))
    elif found is None:
        print(f"no Kafka runs in {folder}")
    else:
        print(f"Kafka at {found.bootstrap} (pid {found.pid}, data in {folder})")


def _progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
