"""What `sidelight payloads` and `sidelight alerts` share: arguments, and the loop that prints what is followed."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field

from deploy import runfile
from deploy.commands.kafka import default_folder
from deploy.errors import UserError
from deploy.follow import FollowSettings, Line, duration, keep, lines
from deploy.kafka import broker
from deploy.kinds import at_least
from deploy.security import add_kafka_arguments, flags_from, kafka_security
from streams.bindings import encode_event
from streams.credentials import KafkaSecurity
from streams.errors import InvalidEvent
from streams.events import Event
from streams.topics import Topics


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """How events are shown."""

    text: Callable[[Event], str]
    """Gives one line for a person, and maybe more below it. May raise InvalidEvent: then the record is unreadable."""
    json: Callable[[Event], Event] = lambda event: event
    """Gives the event as it goes out in JSON."""


def add_follow_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what both commands take."""
    parser.add_argument("--follow", action="store_true", help="go on as records come; Ctrl-C ends")
    begin = parser.add_mutually_exclusive_group()
    begin.add_argument(
        "--from-beginning",
        action="store_true",
        help="begin with the oldest record (without --follow that is so anyway)",
    )
    begin.add_argument(
        "--since", type=_since, default=0.0, metavar="TIME", help="begin this long ago: 90s, 10m, 2h, 1d"
    )
    parser.add_argument(
        "--service", action="append", type=_service, default=[], metavar="NS/NAME", help="only this service; repeatable"
    )
    parser.add_argument("--count", type=at_least(1), default=0, metavar="N", help="end after so many (default: no end)")
    parser.add_argument("--json", action="store_true", help="one CloudEvent in JSON per line")
    parser.add_argument("--kafka", default="", metavar="HOST:PORT", help="bootstrap address (default: the local run's)")
    parser.add_argument("--prefix", default="", help="first part of the topic names (default: the local run's)")
    add_kafka_arguments(parser)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where records are read from."""

    kafka: str
    topics: Topics
    extra: Mapping[str, str] = field(repr=False)
    """Further client settings: TLS, SASL."""


def source(arguments: argparse.Namespace) -> Source:
    """Give broker and topics: as named, else those of the newest local run, else the broker of `sidelight kafka`.

    Raises:
        UserError: none was named and nothing runs here, or the credentials cannot be used.
    """
    security = kafka_security(arguments)
    kafka, prefix = arguments.kafka, "inference"
    if not kafka and not runfile.running() and (alone := broker.running(default_folder())) is not None:
        kafka = alone.bootstrap
    if not kafka:
        run = runfile.current()
        kafka, prefix, security = run.kafka, run.prefix, security or run_security(run)
    return Source(kafka=kafka, topics=Topics(arguments.prefix or prefix), extra=security.properties())


def run_security(run: runfile.Run) -> KafkaSecurity:
    """Give how the broker of a local run is reached.

    Raises:
        UserError: the credentials cannot be used.
    """
    return kafka_security(flags_from(run.kafka_flags))


def print_events(arguments: argparse.Namespace, found: Source, topics: tuple[str, ...], view: View) -> int:
    """Print records until there are no more, enough, or Ctrl-C; give the exit code."""
    settings = FollowSettings(
        kafka=found.kafka,
        extra=found.extra,
        topics=topics,
        beginning=arguments.from_beginning,
        since_s=arguments.since,
        follow=arguments.follow,
    )
    printer = _Printer(arguments, view)
    with _stop_on_signal() as stop, closing(lines(settings)) as read:
        try:
            next(read)
            _say(f"{'following' if settings.follow else 'reading'} {', '.join(topics)} at {found.kafka}")
            for line in read:
                if line is not None:
                    printer.take(line)
                if stop.is_set() or printer.enough():
                    break
        except BrokenPipeError:
            # The reader of our output, `head` say, has seen enough.
            _let_go()
    if printer.unreadable:
        _say(f"{printer.unreadable} {'record was' if printer.unreadable == 1 else 'records were'} unreadable")
    return 0


def printable(text: str) -> str:
    """Spell out what a terminal would obey: paths and bodies come from whoever sends requests. Lines stay lines."""
    return "\n    ".join("".join(map(_spelled, line)) for line in text.splitlines())


def json_printable(text: str) -> str:
    """Do the same to JSON text, which means what it meant: outside of its strings all is printable."""
    return text if text.isprintable() else "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)


class _Printer:
    def __init__(self, arguments: argparse.Namespace, view: View) -> None:
        self._arguments, self._view = arguments, view
        self.printed = self.unreadable = 0

    def enough(self) -> bool:
        count: int = self._arguments.count
        return 0 < count <= self.printed

    def take(self, line: Line) -> None:
        if line.event is None:
            self._unreadable(line, line.problem)
        elif keep(line.event, self._arguments.service):
            try:
                text = self._shown(line.event)
            except InvalidEvent as exc:
                self._unreadable(line, str(exc))
            else:
                print(text, flush=True)  # noqa: T201 - this is what the commands are for
                self.printed += 1

    def _shown(self, event: Event) -> str:
        if self._arguments.json:
            return json_printable(encode_event(self._view.json(event)).decode())
        return printable(self._view.text(event))

    def _unreadable(self, line: Line, problem: str) -> None:
        self.unreadable += 1
        _say(printable(f"{line.topic}[{line.partition}]@{line.offset}: unreadable: {problem}"))


@contextmanager
def _stop_on_signal() -> Iterator[threading.Event]:
    """Give an event that SIGINT and SIGTERM set."""
    stop = threading.Event()
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _let_go() -> None:
    """Point standard output to nowhere, and with `2>&1` standard error, too: else Python fails at its very end."""
    both = os.path.sameopenfile(sys.stdout.fileno(), sys.stderr.fileno())
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr) if both else (sys.stdout,):
        os.dup2(nowhere, stream.fileno())


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201 - as above


def _spelled(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape").decode()


def _since(text: str) -> float:
    try:
        return duration(text)
    except UserError as exc:
        raise argparse.ArgumentTypeError(str(exc).removeprefix("--since: ")) from exc


def _service(text: str) -> str:
    namespace, slash, name = text.partition("/")
    if not (namespace and slash and name):
        raise argparse.ArgumentTypeError(f"expected namespace/name, got {text!r}")
    return text
