"""The run file: what `sidelight up` started and where, for `status`, `alerts`, `payloads` and `explain` to find.

One JSON file per run under home()/run; written whole and renamed, so a reader never sees half of it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from deploy import environment
from deploy.errors import UserError


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """One supervised process as the run file shows it."""

    name: str
    pid: int
    command: tuple[str, ...]
    log: str
    restarts: int = 0
    metrics: str = ""
    """URL of its Prometheus page; empty when it has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A local run."""

    name: str
    pid: int
    kafka: str
    prefix: str
    services: Mapping[str, str] = field(default_factory=dict)
    """`namespace/name` → URL where clients send requests."""
    explainers: Mapping[str, str] = field(default_factory=dict)
    """`namespace/name` → URL of the service's explainer."""
    kafka_flags: tuple[str, ...] = ()
    """How the broker is reached, as words for a command line: TLS and SASL by the names of their files."""
    payloads_before: int = 0
    """Records that were on the payload topic already when the run began."""
    processes: tuple[Process, ...] = ()

    @property
    def path(self) -> Path:
        """Where this run's file lies."""
        return folder() / f"{self.name}.json"

    def write(self) -> None:
        """Put the file in place, atomically."""
        folder().mkdir(parents=True, exist_ok=True)
        draft = self.path.with_suffix(".tmp")
        draft.write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")
        draft.replace(self.path)

    def remove(self) -> None:
        """Take the file away; it is fine when it is gone already."""
        self.path.unlink(missing_ok=True)


def folder() -> Path:
    """Give the folder of run files."""
    return environment.home() / "run"


def running() -> list[Run]:
    """List the runs whose process lives, newest first."""
    found = [_read(path) for path in sorted(folder().glob("*.json"), key=_written_ns, reverse=True)]
    return [run for run in found if run is not None and alive(run.pid)]


def current() -> Run:
    """Give the newest live run.

    Raises:
        UserError: nothing is running here.
    """
    runs = running()
    if not runs:
        raise UserError("nothing is running here; start with `sidelight up service.yaml`, or name --kafka host:port")
    return runs[0]


def alive(pid: int) -> bool:
    """Tell whether a process exists; one that waits to be reaped does not count."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return state != "Z"


def _written_ns(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0  # its run has just ended


def _read(path: Path) -> Run | None:
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        processes = tuple(
            Process(**{**item, "command": tuple(item["command"])}) for item in fields.pop("processes", ())
        )
        return Run(**fields | {"kafka_flags": tuple(fields.get("kafka_flags", ()))}, processes=processes)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
