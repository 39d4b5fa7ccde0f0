"""What the commands `payloads` and `alerts` share: their arguments, and the loop that prints."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from deploy import runfile
from deploy.follow import FollowSettings, duration, keep, lines
from streams.bindings import encode_event
from streams.events import Event
from streams.topics import Topics


def add_follow_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what both commands take."""
    parser.add_argument("--follow", action="store_true", help="go on as records come; Ctrl-C ends")
    parser.add_argument("--from-beginning", action="store_true", help="begin with the oldest record")
    parser.add_argument("--since", default="", metavar="TIME", help="begin this long ago: 90s, 10m, 2h, 1d")
    parser.add_argument(
        "--service", action="append", default=[], metavar="NS/NAME", help="only this service; repeatable"
    )
    parser.add_argument("--count", type=int, default=0, help="end after so many (default: no end)")
    parser.add_argument("--json", action="store_true", help="one CloudEvent in JSON per line")
    parser.add_argument("--kafka", default="", metavar="HOST:PORT", help="bootstrap address (default: the local run's)")
    parser.add_argument("--prefix", default="", help="first part of the topic names (default: the local run's)")


def source(arguments: argparse.Namespace) -> tuple[str, Topics]:
    """Give broker and topics: as named, else those of the local run."""
    if arguments.kafka:
        return arguments.kafka, Topics(arguments.prefix or "inference")
    run = runfile.current()
    return run.kafka, Topics(arguments.prefix or run.prefix)


def print_events(
    arguments: argparse.Namespace, kafka: str, topics: tuple[str, ...], shown: Callable[[Event], str]
) -> int:
    """Print records until there are no more, enough, or Ctrl-C; give the exit code."""
    settings = FollowSettings(
        kafka=kafka,
        topics=topics,
        beginning=arguments.from_beginning,
        since_s=duration(arguments.since) if arguments.since else 0.0,
        follow=arguments.follow,
    )
    printed = unreadable = 0
    try:
        for line in lines(settings):
            if line is None:
                continue
            if line.event is None:
                unreadable += 1
                print(f"{line.topic}[{line.partition}]@{line.offset}: unreadable: {line.problem}", file=sys.stderr)  # noqa: T201
                continue
            if keep(line.event, arguments.service):
                print(encode_event(line.event).decode() if arguments.json else shown(line.event), flush=True)  # noqa: T201
                printed += 1
            if arguments.count and printed >= arguments.count:
                break
    except KeyboardInterrupt:
        pass
    if unreadable:
        print(f"{unreadable} records were unreadable", file=sys.stderr)  # noqa: T201
    return 0
