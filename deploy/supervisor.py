"""Keeps child processes running: start, wait until ready, start again when one dies, stop in order.

Children get their own session, so that Ctrl-C reaches only the parent, which then drains them one after the other; the
kernel ends them should the parent itself be killed. What to run is decided in `deploy/plan.py`.
"""

from __future__ import annotations

import ctypes
import logging
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from deploy.errors import ProcessFailed

log = logging.getLogger(__name__)

_FIRST_PAUSE_S: Final = 0.2
_LONGEST_PAUSE_S: Final = 5.0
_STEADY_S: Final = 30.0
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_NAME: Final = 15


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """One process to keep running."""

    name: str
    command: tuple[str, ...]
    ready: Callable[[], bool]
    """Asked until it says yes; must answer within a second or so."""
    metrics: str = ""
    """URL of the process's Prometheus page, empty when it has none."""
    grace_s: float = 20.0
    """How long a SIGTERM may take before SIGKILL follows."""


@dataclass(slots=True)
class Child:
    """A program and the process that now runs it."""

    program: Program
    log_path: Path
    process: subprocess.Popen[bytes]
    started: float
    restarts: int = 0
    pause_s: float = _FIRST_PAUSE_S
    due: float | None = field(default=None)
    """When to start again, on the monotonic clock; None while the process lives."""


class Supervisor:
    """Owns the children. One thread calls it."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._environment = dict(environment)
        self.children: dict[str, Child] = {}

    def start(self, program: Program) -> Child:
        """Start a program; its output goes to `<folder>/<name>.log`, begun anew."""
        log_path = self._folder / f"{program.name}.log"
        log_path.write_bytes(b"")
        child = Child(program, log_path, self._spawn(program, log_path), time.monotonic())
        self.children[program.name] = child
        return child

    def wait_ready(self, name: str, timeout_s: float) -> None:
        """Wait for one program.

        Raises:
            ProcessFailed: it ended, or was not ready in time; the detail holds the end of its log.
        """
        child = self.children[name]
        deadline = time.monotonic() + timeout_s
        while not child.program.ready():
            if child.process.poll() is not None:
                raise ProcessFailed(name, f"ended with code {child.process.returncode}\n{tail(child.log_path)}")
            if time.monotonic() > deadline:
                raise ProcessFailed(name, f"not ready after {timeout_s:.0f} s\n{tail(child.log_path)}")
            time.sleep(0.05)

    def watch(self) -> bool:
        """Look after every child once: note who died, start again who is due. Says whether anything changed."""
        changes = [self._look_after(child) for child in self.children.values()]
        return any(changes)

    def stop(self, name: str) -> int:
        """Ask one process to drain and wait for it; give its exit code."""
        child = self.children.pop(name)
        if child.process.poll() is None:
            child.process.send_signal(signal.SIGTERM)
            try:
                child.process.wait(child.program.grace_s)
            except subprocess.TimeoutExpired:
                log.warning("%s did not drain in %.0f s and was killed", name, child.program.grace_s)
                child.process.kill()
                child.process.wait()
        return child.process.returncode

    def stop_all(self) -> None:
        """Stop what still runs, newest first."""
        for name in reversed(list(self.children)):
            self.stop(name)

    def _look_after(self, child: Child) -> bool:
        now = time.monotonic()
        if child.due is None:
            if child.process.poll() is None:
                return False
            child.pause_s = _FIRST_PAUSE_S if now - child.started > _STEADY_S else child.pause_s
            child.due = now + child.pause_s
            child.pause_s = min(child.pause_s * 2, _LONGEST_PAUSE_S)
            log.warning("%s ended with code %s; starting it again", child.program.name, child.process.returncode)
            return True
        if now < child.due:
            return False
        child.process = self._spawn(child.program, child.log_path)
        child.started, child.due = now, None
        child.restarts += 1
        return True

    def _spawn(self, program: Program, log_path: Path) -> subprocess.Popen[bytes]:
        with log_path.open("ab") as output:
            return subprocess.Popen(  # noqa: S603 - the command is our own, built in deploy/plan.py
                program.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self._environment,
                start_new_session=True,
                preexec_fn=end_with_parent,  # noqa: PLW1509 - only a system call, and the parent spawns from one thread
            )


def tail(path: Path, lines: int = 15) -> str:
    """Give the end of a log file, indented."""
    text = path.read_bytes()[-8192:].decode(errors="replace")
    return "\n".join(f"    {line}" for line in text.splitlines()[-lines:])


_libc = ctypes.CDLL(None)


def show_as(name: str) -> None:
    """Have `ps` and `top` show this process under a name, of 15 bytes at most."""
    _libc.prctl(_PR_SET_NAME, name.encode()[:15])


def end_with_parent() -> None:
    """Have the kernel end this process when its parent ends. For a child between fork and exec."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
