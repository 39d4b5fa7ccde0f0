"""`sidelight status`: the processes of the local run, what they counted, and whether the sums agree."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from deploy import ledger, runfile
from deploy.errors import UserError
from deploy.ledger import Ledger
from deploy.listing import run_security
from deploy.runfile import Run
from deploy.security import add_kafka_arguments, kafka_security
from streams.credentials import KafkaSecurity

HELP = "show the local run: processes, counters, conservation laws"
EXAMPLES = """\
  sidelight status
  sidelight status --json"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--json", action="store_true", help="answer in JSON")
    add_kafka_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Do it; the exit code is 1 while a process is down or Kafka does not answer."""
    found = runfile.current()
    down = [process.name for process in found.processes if not runfile.alive(process.pid)]
    book, problem = _ledger(found, kafka_security(arguments))
    if arguments.json:
        laws = [asdict(law) | {"holds": law.holds} for law in book.laws()] if book else []
        sums = asdict(book) if book else None
        print(json.dumps({"run": asdict(found), "ledger": sums, "laws": laws, "down": down, "problem": problem}))
    else:
        _show_processes(found, down)
        if book:
            _show_sums(book)
        else:
            print(f"\n{problem}")
    return 1 if down or problem else 0


def _ledger(found: Run, named: KafkaSecurity) -> tuple[Ledger | None, str]:
    """Give the sums, or why there are none: when something is wrong, the processes are what one wants to see."""
    try:
        security = named or run_security(found)
        return ledger.read(found, security.properties()), ""
    except UserError as exc:
        return None, str(exc)


def _show_processes(found: Run, down: list[str]) -> None:
    for service, url in found.services.items():
        print(f"{service:<28}{url}")
    print(f"{'Kafka':<28}{found.kafka}, topics {found.prefix}.*\n")
    for process in found.processes:
        state = "down" if process.name in down else "up"
        print(f"  {process.name:<26}{state:<6}pid {process.pid:<9}restarts {process.restarts}")


def _show_sums(book: Ledger) -> None:
    dropped = ", ".join(f"{count} {reason}" for reason, count in book.dropped.items()) or "none"
    print(f"\nlogger     captured {book.captured}, delivered {book.delivered}, in flight {book.in_flight}")
    if book.recovered or book.spooled or book.unwanted:
        print(f"           recovered {book.recovered}, spooled {book.spooled}, unwanted {book.unwanted}")
    print(f"           dropped {dropped}; {book.stripped} kept without body")
    print(f"topics     {book.payloads} payloads, {book.deadletters} dead letters")
    print("assembler  " + _numbers(book.assembler))
    print("detectors  " + _numbers(book.detectors) + "\n")
    for law in book.laws():
        print(f"  {'ok ' if law.holds else '...'} {law.name}: {law.left} = {law.right}")


def _numbers(counters: object) -> str:
    values = counters if isinstance(counters, dict) else {}
    return ", ".join(f"{name} {value}" for name, value in values.items() if value) or "nothing yet"
