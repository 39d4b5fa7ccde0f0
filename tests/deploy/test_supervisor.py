"""The supervisor with real child processes."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deploy import environment
from deploy.errors import ProcessFailed
from deploy.runfile import alive
from deploy.supervisor import Program, Supervisor


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    """Give a supervisor and stop what it started."""
    supervisor = Supervisor(tmp_path / "logs", environment.inherited())
    yield supervisor
    supervisor.stop_all()


def python(name: str, code: str, ready: Callable[[], bool], grace_s: float = 10.0) -> Program:
    """Make a program of a line of Python."""
    return Program(name=name, command=(sys.executable, "-c", code), ready=ready, grace_s=grace_s)


def until(condition: Callable[[], bool]) -> None:
    """Wait for something that will come."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.01)


def test_a_killed_child_is_started_again(supervisor: Supervisor, tmp_path: Path) -> None:
    """A process that dies comes back by itself, with a new pid, and the restart is counted."""
    flag = tmp_path / "up"
    code = f"import pathlib, time; pathlib.Path({str(flag)!r}).touch(); time.sleep(60)"
    child = supervisor.start(python("a", code, flag.exists))
    supervisor.wait_ready("a", 60)
    first = child.process.pid
    os.kill(first, signal.SIGKILL)
    until(lambda: supervisor.watch() and child.restarts == 1)

    assert child.process.pid != first
    assert alive(child.process.pid)
    assert not alive(first)


def test_a_child_that_never_gets_ready_shows_its_log(supervisor: Supervisor) -> None:
    """The error holds the end of the process's own output: where a user has to look."""
    supervisor.start(python("broken", "raise SystemExit('no model here')", lambda: False))
    with pytest.raises(ProcessFailed, match="no model here"):
        supervisor.wait_ready("broken", 60)


def test_stop_lets_a_child_drain(supervisor: Supervisor, tmp_path: Path) -> None:
    """SIGTERM comes first, and its handler has time to finish."""
    up, drained = tmp_path / "up", tmp_path / "drained"
    code = (
        "import pathlib, signal, sys\n"
        f"signal.signal(signal.SIGTERM, lambda *_: (pathlib.Path({str(drained)!r}).touch(), sys.exit(0)))\n"
        f"pathlib.Path({str(up)!r}).touch()\n"
        "signal.pause()"
    )
    supervisor.start(python("a", code, up.exists))
    supervisor.wait_ready("a", 60)

    assert supervisor.stop("a") == 0
    assert drained.exists()


def test_a_deaf_child_is_killed_after_its_grace(supervisor: Supervisor, tmp_path: Path) -> None:
    """A process that ignores SIGTERM cannot hold up the others for ever."""
    up = tmp_path / "up"
    code = (
        "import pathlib, signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"pathlib.Path({str(up)!r}).touch()\n"
        "time.sleep(60)"
    )
    supervisor.start(python("a", code, up.exists, grace_s=0.2))
    supervisor.wait_ready("a", 60)

    assert supervisor.stop("a") == -signal.SIGKILL
