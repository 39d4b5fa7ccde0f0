"""The demo: serve a model trained on 2015, replay 2016 to 2018 as live traffic, and watch what Sidelight makes of it.

Real census data, a real Kafka, real processes. The people of each year come in random order, for the file is sorted by
household. One thing is planted and says so: for a while a client sends ages in months. Ends with a table and the
conservation laws; the exit code is 1 when an event was lost, by the processes' counts or by the clients' own.
"""

from __future__ import annotations

import argparse
import http.client
import json
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import train
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from deploy import ledger, runfile
from deploy.follow import FollowSettings, lines
from streams.topics import FAMILIES, Topics

HERE = Path(__file__).resolve().parent
ROWS_PER_CALL = 16
CLIENTS = 3
PLANTED_AT, PLANTED = 100_000, 400
"""Of which row on, or of the middle of fewer, the ages of how many people arrive in months."""
SETTLE_S = 120.0
UP_S = 180.0


@dataclass
class Seen:
    """The alerts that came."""

    alerts: list[dict[str, object]] = field(default_factory=list)

    def of(self, family: str, state: str = "opened") -> list[dict[str, object]]:
        """Give the alerts of a family and state."""
        return [alert for alert in self.alerts if alert["family"] == family and alert["state"] == state]


def main(words: Sequence[str] | None = None) -> int:
    """Run the demo."""
    parser = argparse.ArgumentParser(description="Serve a real model, replay real data, watch the alerts.")
    parser.add_argument("--people", type=int, default=sys.maxsize, help="only the first so many (default: all)")
    most = parser.parse_args(words).people
    console = Console()
    began = time.monotonic()
    train.train()
    with tempfile.TemporaryDirectory(prefix="sidelight-demo-") as folder, running(Path(folder), console) as run:
        seen, stop = Seen(), threading.Event()
        watcher = threading.Thread(target=watch, args=(run, seen, stop, console), daemon=True)
        watcher.start()
        rate, calls = replay(run, most, console)
        book = settle(run)
        stop.set()
        watcher.join()
        explain(seen, console)
        summary(seen, book, rate, console)
        losses = lost(book, calls)
    console.print(
        f"{time.monotonic() - began:.0f} s in all. Next: sidelight up examples/employment/service.yaml, README.md"
    )
    for loss in losses:
        console.print(f"[bold red]An event was lost:[/] {loss}")
    return 1 if losses else 0


class running:  # noqa: N801 - reads as `with running(...)`
    """`sidelight up` as a process of its own, as a user would start it."""

    def __init__(self, folder: Path, console: Console) -> None:
        self._folder, self._console = folder, console

    def __enter__(self) -> runfile.Run:
        """Start and wait until it is ready."""
        command = (sys.executable, "-m", "deploy.cli", "up", str(HERE / "service.yaml"), "--name", "demo", "--data",
                   str(self._folder / "kafka"))  # fmt: skip
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + UP_S
        while time.monotonic() < deadline and self._process.poll() is None:
            for run in runfile.running():
                if run.pid == self._process.pid:
                    return run
            time.sleep(0.1)
        self._process.terminate()
        raise SystemExit("sidelight up did not become ready")

    def __exit__(self, *_: object) -> None:
        """Drain."""
        self._console.print("draining …")
        self._process.send_signal(signal.SIGINT)
        self._process.wait(120)


def lost(book: ledger.Ledger, calls: int) -> list[str]:
    """Name what is missing: no law can see an exchange that the logger never counted, but the clients know of it."""
    laws = [
        *book.laws(),
        ledger.Law(name="events of the clients' calls = captured", left=2 * calls, right=book.captured),
    ]
    broken = [f"{law.name}: {law.left:,} = {law.right:,}" for law in laws if not law.holds]
    if book.stripped:
        broken.append(f"kept without their body by the logger: {book.stripped:,}")
    return broken + [f"dropped by the logger, {reason}: {count:,}" for reason, count in book.dropped.items() if count]


def replay(run: runfile.Run, most: int, console: Console) -> tuple[float, int]:
    """Send the later years through the logger, as several clients; give people per second, and the calls made."""
    people = arrivals()[:most]
    begin = min(PLANTED_AT, len(people) // 2)
    ages = people[begin : begin + PLANTED, 0]
    ages[:] = np.where(ages > 0, ages * 12, ages)
    url = urlsplit(run.services["default/employment"])
    console.print(f"replaying {len(people):,} people of 2016 to 2018 through {url.geturl()}, {ROWS_PER_CALL} per call")
    starts = range(0, len(people), ROWS_PER_CALL)
    calls = iter(starts)
    lock, began = threading.Lock(), time.monotonic()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress, ThreadPoolExecutor(CLIENTS) as clients:
        task = progress.add_task("people", total=len(people))

        def client() -> None:
            connection = http.client.HTTPConnection(url.hostname or "", url.port, timeout=60)
            for at in taken(calls, lock):
                rows = people[at : at + ROWS_PER_CALL]
                body = json.dumps({"instances": rows.tolist()})
                connection.request("POST", "/v1/models/employment:predict", body, {"content-type": "application/json"})
                answer = connection.getresponse()
                text = answer.read()
                if answer.status != http.client.OK:
                    raise RuntimeError(f"{answer.status}: {text[:200]!r}")
                progress.advance(task, len(rows))

        for done in [clients.submit(client) for _ in range(CLIENTS)]:
            done.result()
    return len(people) / (time.monotonic() - began), len(starts)


def arrivals() -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Give everybody's features, year after year, in random order within a year."""
    frame = train.census("analysis")
    order = np.lexsort((np.random.default_rng(0).random(len(frame)), frame["year"].to_numpy()))
    return frame[list(train.FEATURES)].to_numpy()[order]


def taken(calls: Iterator[int], lock: threading.Lock) -> Iterator[int]:
    """Share one iterator between the clients."""
    while True:
        with lock:
            at = next(calls, None)
        if at is None:
            return
        yield at


def watch(run: runfile.Run, seen: Seen, stop: threading.Event, console: Console) -> None:
    """Print alerts as they come, and the counters every ten seconds."""
    topics = tuple(Topics(run.prefix).alerts(family) for family in FAMILIES)
    shown = time.monotonic()
    for line in lines(FollowSettings(kafka=run.kafka, topics=topics, beginning=True, follow=True)):
        if line is not None and line.event is not None and line.event.data:
            alert = json.loads(line.event.data)
            seen.alerts.append(alert)
            if alert["state"] != "updated":
                console.print(
                    f"[bold]{alert['state']:<9}[/]{alert['family']:<8} {alert['detector']['name']}: {alert['message']}"
                )
        if time.monotonic() - shown > 10:  # noqa: PLR2004 - seconds
            shown = time.monotonic()
            console.print(counters(ledger.read(run)), style="dim")
        if line is None and stop.is_set():
            return


def counters(book: ledger.Ledger) -> str:
    """Give the numbers that must add up, in one line."""
    return (
        f"captured {book.captured} events = delivered {book.delivered} + in flight {book.in_flight} + dropped "
        f"{sum(book.dropped.values())}; paired {book.assembler.get('paired', 0)}; rows seen by detectors "
        f"{book.detectors.get('released', 0)}"
    )


def settle(run: runfile.Run) -> ledger.Ledger:
    """Wait until nothing is on its way any more; give the final numbers."""
    deadline = time.monotonic() + SETTLE_S
    while True:
        book = ledger.read(run)
        on_the_way = book.in_flight or book.detectors.get("waiting", 1)
        done = all(law.holds for law in book.laws()) and not on_the_way
        if done or time.monotonic() > deadline:
            return book
        time.sleep(0.5)


def explain(seen: Seen, console: Console) -> None:
    """Ask why about the farthest outlier."""
    outliers = [row for alert in seen.of("outlier") for row in alert["evidence"]["outliers"]]  # type: ignore[index]
    if not outliers:
        console.print("no outlier alert opened")
        return
    worst = max(outliers, key=lambda row: row["distance"])
    shares = ", ".join(f"{column} {share:.0f}" for column, share in worst["contributions"].items())
    console.print(f"\nthe farthest outlier: squared distance {worst['distance']:.0f}, of which {shares}")
    command = (sys.executable, "-m", "deploy.cli", "explain", "--event", str(worst["id"]), "--row", str(worst["row"]))
    console.print(f"sidelight explain --event {worst['id']} --row {worst['row']}", style="dim")
    subprocess.run(command, check=True)


def summary(seen: Seen, book: ledger.Ledger, rate: float, console: Console) -> None:
    """Print the closing table."""
    table = Table("what", "how much", title="summary")
    table.add_row("people per second", f"{rate:,.0f}")
    table.add_row("events on Kafka", f"{book.payloads:,}, {book.stripped:,} of them without body")
    table.add_row("people that the detectors saw", f"{book.detectors.get('rows', 0):,}")
    for family in ("drift", "outlier", "bias"):
        opened = seen.of(family)
        which = ", ".join(sorted({f"{a['detector']['name']}/{a['detector']['key'] or 'all'}" for a in opened}))  # type: ignore[index]
        table.add_row(f"{family} alerts opened", f"{len(opened)}  {which}")
    for alert in seen.of("bias")[-1:]:
        table.add_row("bias, with its interval", str(alert["message"]))
    for law in book.laws():
        table.add_row(law.name, f"{law.left:,} = {law.right:,}  {'holds' if law.holds else 'BROKEN'}")
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
