"""`sidelight predict`: predictions for whole files. Next: `inference/offline/run.py`."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Final

from deploy.errors import UserError
from deploy.kinds import at_least
from deploy.models import add_model_arguments, model_names, open_repository
from deploy.plane import open_plane
from inference.offline.columns import Columns, Wanted, parse_columns
from inference.offline.errors import OfflineError
from inference.offline.inputs import keep_apart, open_input
from inference.offline.parts import Parts
from inference.offline.run import Job, Progress, plan_of

HELP = "predict for the rows of Parquet or CSV files, and go on after a crash"
EXAMPLES = """\
  sidelight predict --model_dir model/ --input people.parquet --output scores.parquet --keep id
  sidelight predict --model_dir model/ --input people.csv --output scores.csv --columns age,income=gross --keep id,name
  sidelight predict --model_dir model/ --input lake/ --output scores.parquet --keep _id

Killed, it goes on where it stopped when it is started with the same words. See docs/predict.md."""

_LINE_S: Final = 5.0
_TERMINAL_S: Final = 0.2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_model_arguments(parser)
    group = parser.add_argument_group("files")
    group.add_argument("--input", type=Path, required=True, metavar="PATH", help="*.parquet, *.csv, *.tsv, or a folder")
    group.add_argument(
        "--output", type=Path, required=True, metavar="FILE", help="*.parquet or *.csv; replaced at the end"
    )
    group.add_argument("--restart", action="store_true", help="forget what an earlier run has done")
    columns = parser.add_argument_group("columns")
    columns.add_argument(
        "--columns",
        default="",
        metavar="NAME[=COLUMN],...",
        help="what the model gets, with the file's name where it differs (default: the features that it names, else all"
        " numeric columns)",
    )
    columns.add_argument("--keep", default="", metavar="COLUMN,...", help="columns that go through to the output")
    columns.add_argument(
        "--output_column", default="", metavar="NAME", help="of the prediction (default: as the model names it)"
    )
    work = parser.add_argument_group("work")
    work.add_argument(
        "--batch_rows", type=at_least(1), default=1_024, help="rows of a prediction (default: %(default)s)"
    )
    work.add_argument("--max_threads", type=at_least(1), default=1, help="predictions at once (default: %(default)s)")
    work.add_argument("--quiet", action="store_true", help="show no progress")


def run(arguments: argparse.Namespace) -> int:
    """Predict."""
    try:
        return _run(arguments)
    except OfflineError as exc:
        raise UserError(str(exc)) from exc


def _run(arguments: argparse.Namespace) -> int:
    names = model_names(arguments)
    if len(names) != 1:
        raise UserError(f"--model_dir: expected one model, got {len(names)}")
    keep_apart(arguments.input, arguments.output)
    source = open_input(arguments.input)
    repository = open_repository(arguments)
    plane = open_plane(repository, arguments.max_threads)
    try:
        loaded = repository.loaded(names[0])
        features = loaded.settings.features or loaded.runtime.features
        wanted = Wanted(
            columns=parse_columns(arguments.columns), keep=_names(arguments.keep), output=arguments.output_column
        )
        columns = Columns(source.schema, wanted, features, loaded.runtime.inputs)
        source.prefer_numbers(columns.read)
        job = Job(
            plane=plane, model=names[0], source=source, columns=columns, batch_rows=arguments.batch_rows,
            threads=arguments.max_threads,
        )  # fmt: skip
        words = {name: getattr(arguments, name) for name in ("columns", "keep", "output_column", "runtime")}
        plan = plan_of(source, *arguments.model_dir, *arguments.model, words=words)
        with Parts(arguments.output, plan, restart=arguments.restart) as parts:
            done = parts.done()
            if done:
                print(f"going on: {sum(done.values()):,} rows of {len(done)} parts are done", file=sys.stderr)
            shown = _Shown(quiet=arguments.quiet)
            rows = job.run(parts, shown.take)
            shown.end(rows, arguments.output)
    finally:
        plane.close()
        repository.close()
    return 0


class _Shown:
    """Progress on standard error: one line that changes on a terminal, a line every few seconds elsewhere."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._terminal = sys.stderr.isatty()
        self._began = self._last = time.monotonic()

    def take(self, progress: Progress) -> None:
        """Show how far it is, if it is time for that."""
        now = time.monotonic()
        if self._quiet or now - self._last < (_TERMINAL_S if self._terminal else _LINE_S):
            return
        self._last = now
        rate = progress.rows / max(now - self._began, 1e-9)
        text = f"{progress.rows + progress.resumed:,} rows, {rate:,.0f} rows/s"
        if progress.total:
            left = progress.total - progress.rows - progress.resumed
            share = (progress.total - left) / progress.total
            text = f"{text}, {share:.0%}, {_time(left / max(rate, 1e-9))} left"
        sys.stderr.write(f"\r{text}\x1b[K" if self._terminal else f"{text}\n")
        sys.stderr.flush()

    def end(self, rows: int, output: Path) -> None:
        """Say what came of it."""
        if not self._quiet:
            took, lead = time.monotonic() - self._began, "\r" if self._terminal else ""
            print(f"{lead}{rows:,} rows in {output}, {took:.1f} s", file=sys.stderr)


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"


def _names(text: str) -> tuple[str, ...]:
    return tuple(filter(None, text.split(",")))
