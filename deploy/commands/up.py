"""`sidelight up`: runs services and monitors on this machine, around an embedded Kafka or an existing one."""

from __future__ import annotations

import argparse
import logging
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NoReturn

from deploy.cli import load, parser_of
from deploy.errors import ProcessFailed, UserError
from deploy.local import LocalRun, LocalSettings
from deploy.runfile import Run
from deploy.security import add_kafka_arguments, kafka_security, spelt

HELP = "run InferenceService and InferenceMonitor files on this machine"
EXAMPLES = """\
  sidelight up examples/employment/service.yaml
  sidelight up service.yaml monitor.yaml --kafka broker:9092 --prefix team --port 8080
  sidelight up service.yaml --volume models=./models     # serves pvc://models/...
  sidelight up service.yaml --privacy privacy.yaml --logger-flags='--outbox spool --sample 10'
Ctrl-C drains everything: running requests, then the topics, then Kafka."""

# What `up` says itself, as it knows where everything is.
_OURS: Final = frozenset({
    "--log-url", "--host", "--port", "--component-port", "--metrics-port", "--metrics-host", "--inference-service",
    "--namespace", "--component", "--privacy", "--claims", "--component-tls", "--component-ca-file",
    "--component-server-name", "--component-cert-file", "--component-key-file",
})  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="InferenceService, InferenceMonitor YAML")
    parser.add_argument("--name", default="local", help="name of this run (default: local)")
    parser.add_argument("--kafka", default="", metavar="HOST:PORT", help="use this broker instead of the embedded one")
    parser.add_argument("--data", type=Path, default=None, help="folder of the embedded broker's data")
    parser.add_argument("--java", default="", help="an existing java, 17 or newer, for the embedded broker")
    parser.add_argument("--prefix", default="inference", help="first part of every topic name (default: inference)")
    parser.add_argument("--partitions", type=int, default=2, help="partitions of topics that are created (default: 2)")
    parser.add_argument("--workers", type=int, default=1, help="assembler and detector processes, each (default: 1)")
    parser.add_argument(
        "--host", choices=("native", "faust"), default="native", help="what runs assembler and detector"
    )
    parser.add_argument("--port", type=int, default=0, help="where the first service listens (default: a free port)")
    parser.add_argument("--volume", action="append", default=[], metavar="CLAIM=DIR", help="folder behind pvc://CLAIM")
    parser.add_argument("--privacy", default="", metavar="FILE", help="rules for what is logged: docs/privacy.md")
    parser.add_argument(
        "--keys", default="", metavar="FILE", help="keys of encrypted payloads, for the assembler, which reads them"
    )
    parser.add_argument(
        "--claims", default="", metavar="URL", help="store of large bodies: file:///folder or s3://bucket/prefix"
    )
    parser.add_argument(
        "--logger-flags", default="", metavar="'FLAGS'",
        help="any others of `sidelight logger`, for every logger: --logger-flags='--outbox spool --sample 10'",
    )  # fmt: skip
    add_kafka_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Do it."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
    settings = LocalSettings(
        files=tuple(arguments.files), name=arguments.name, kafka=arguments.kafka, data=arguments.data,
        java=arguments.java,
        prefix=arguments.prefix, partitions=arguments.partitions, workers=arguments.workers, host=arguments.host,
        port=arguments.port, volumes=dict(map(_volume, arguments.volume)),
        kafka_flags=_kafka_flags(arguments), security=kafka_security(arguments), logger_flags=_logger_flags(arguments),
        assembler_flags=_given(arguments, "keys", "claims"),
    )  # fmt: skip
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    local = LocalRun(settings, _say)
    try:
        _greet(local.start())
    except ProcessFailed as exc:
        raise UserError(str(exc)) from exc
    while not stopping.wait(0.2):
        local.watch()
    local.drain()
    return 0


def _greet(run_: Run) -> None:
    for service, url in run_.services.items():
        print(f"{service}: {url}")
    for service, url in run_.explainers.items():
        print(f"{service}, explainer: {url}")
    print(f"Kafka: {run_.kafka}, topics {run_.prefix}.*")
    print("next: sidelight status | sidelight alerts --follow | sidelight payloads --follow; Ctrl-C drains", flush=True)


def _kafka_flags(arguments: argparse.Namespace) -> tuple[str, ...]:
    words = spelt(arguments)
    if words and not arguments.kafka:
        raise UserError(f"{words[0].partition('=')[0]}: the embedded broker needs none; name yours with --kafka")
    if words and arguments.host == "faust":
        raise UserError("--host faust: takes no TLS")
    return words


def _logger_flags(arguments: argparse.Namespace) -> tuple[str, ...]:
    """Give what every logger is told beyond what follows from the YAML; whatever is wrong with it is said here."""
    command = load("logger")
    spell: Callable[[Sequence[str]], list[str]] = getattr(command, "spell", list)
    try:
        words = spell(shlex.split(arguments.logger_flags))
    except ValueError as exc:
        raise UserError(f"--logger-flags: {exc}") from exc
    parser_of("logger", command, _Checking).parse_args(words)
    for word in words:
        if word.partition("=")[0] in _OURS:
            raise UserError(f"--logger-flags: {word.partition('=')[0]} is not yours to set: `up` does")
    return (*words, *_given(arguments, "privacy", "claims"))


class _Checking(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"--logger-flags: {message}")


def _given(arguments: argparse.Namespace, *names: str) -> tuple[str, ...]:
    return tuple(f"--{name}={getattr(arguments, name)}" for name in names if getattr(arguments, name))


def _volume(text: str) -> tuple[str, Path]:
    claim, equals, path = text.partition("=")
    if not equals:
        raise UserError(f"--volume: expected CLAIM=DIR, got {text!r}")
    return claim, Path(path)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
