"""`sidelight kafka`: the embedded Apache Kafka by itself."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import threading
from dataclasses import asdict
from pathlib import Path

from deploy import environment
from deploy.errors import ProcessFailed, UserError
from deploy.kafka import broker, jars, java
from deploy.supervisor import tail

HELP = "start, stop or show an Apache Kafka on this machine (one KRaft node, loopback only)"
EXAMPLES = """\
  sidelight kafka start                 # first start fetches about 43 MiB, later ones need no network
  sidelight kafka start --data ./kafka --port 9092 --java /usr/bin/java
  sidelight kafka start --foreground    # for a service manager: SIGTERM or Ctrl-C stops it
  sidelight kafka status --json
  sidelight kafka stop
exit codes: 0 done or running, 2 refused, 3 status: not running"""

_NOT_RUNNING = 3
_LAST_PORT = 65_535


def default_folder() -> Path:
    """Give the folder of the broker that commands use when none is named."""
    return environment.home() / "kafka" / "broker"


def start(folder: Path, port: int, java_named: str) -> broker.Running:
    """Give the broker of a folder, started when it does not run, with progress on standard error.

    One that already runs is taken over: what a killed `sidelight up` left behind serves its next run.
    """
    return broker.running(folder) or _start(folder, port, java_named)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("action", choices=("start", "stop", "status"))
    parser.add_argument(
        "--data", type=Path, default=None, help="folder that keeps the data (default: ~/.sidelight/kafka/broker)"
    )
    parser.add_argument("--port", type=_port, default=0, help="client port (default: a free one, kept for the folder)")
    parser.add_argument("--java", default="", help="an existing java, 17 or newer, instead of the one from the extra")
    parser.add_argument("--foreground", action="store_true", help="start: stay until SIGTERM or Ctrl-C, then stop it")
    parser.add_argument("--json", action="store_true", help="answer in JSON")


def run(arguments: argparse.Namespace) -> int:
    """Do it."""
    folder: Path = (arguments.data or default_folder()).absolute()
    if arguments.action == "stop":
        return _stop(folder)
    if arguments.action == "status":
        return _status(folder, as_json=arguments.json)
    if arguments.foreground:
        return _foreground(arguments, folder)
    _show(_start(folder, arguments.port, arguments.java), folder, as_json=arguments.json)
    return 0


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > _LAST_PORT:
        raise argparse.ArgumentTypeError(f"expected a port from 1 to {_LAST_PORT}, got {text!r}")
    return int(text)


def _start(folder: Path, port: int, java_named: str, *, with_parent: bool = False) -> broker.Running:
    runtime = java.find(java_named)
    class_path = jars.class_path(environment.home() / "kafka", _progress)
    settings = broker.BrokerSettings(
        folder=folder, java=runtime, class_path=class_path, port=port, with_parent=with_parent
    )
    _progress(f"starting Apache Kafka {jars.KAFKA_VERSION} in {folder}")
    try:
        return broker.start(settings, environment.inherited())
    except ProcessFailed as exc:
        raise UserError(str(exc)) from exc


def _foreground(arguments: argparse.Namespace, folder: Path) -> int:
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    _show(_start(folder, arguments.port, arguments.java, with_parent=True), folder, as_json=arguments.json)
    while not stopping.wait(0.2):
        if broker.running(folder) is None:
            print(f"Kafka ended by itself\n{tail(folder / 'server.log')}", file=sys.stderr)
            return 1
    return _stop(folder)


def _stop(folder: Path) -> int:
    try:
        stopped = broker.stop(folder)
    except ProcessFailed as exc:
        raise UserError(str(exc)) from exc
    print("stopped" if stopped else f"no Kafka runs in {folder}")
    return 0


def _status(folder: Path, *, as_json: bool) -> int:
    found = broker.running(folder)
    _show(found, folder, as_json=as_json)
    return 0 if found else _NOT_RUNNING


def _show(found: broker.Running | None, folder: Path, *, as_json: bool) -> None:
    cluster = broker.cluster_id(folder)
    answers = found is not None and broker.answers(found.bootstrap) == cluster
    if as_json:
        facts = {"running": found is not None, "answers": answers, "folder": str(folder), "cluster": cluster}
        print(json.dumps(facts | (asdict(found) if found else {})), flush=True)
    elif found is None:
        print(f"no Kafka runs in {folder}")
    else:
        silent = "" if answers else ", does not answer"
        print(f"Kafka at {found.bootstrap} (pid {found.pid}{silent}, data in {folder})", flush=True)


def _progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
