"""Runs the logger's processes: proxies that share a port, and the shipper behind them; one that dies is started again.

The parent does nothing else: it has one thread and no handlers, so that a fork is safe at any time. Stopping goes in
order, as the payloads do: first the proxies drain, then the shipper sends what they left.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from deploy.errors import UserError
from deploy.supervisor import end_with_parent, show_as

log = logging.getLogger(__name__)

_WATCHED: Final = frozenset({signal.SIGCHLD, signal.SIGTERM, signal.SIGINT})
_PAUSES: Final = (0.0, 0.2, 1.0, 5.0)
_LIVED_S: Final = 30.0
_USAGE: Final = 2
_COLLECT: Final = (50_000, 20, 100)


@dataclass(slots=True)
class Child:
    """One process: its name, what it does, and how long it may take to stop."""

    name: str
    work: Callable[[], int]
    stop_s: float
    pid: int = 0
    started: float = 0.0
    deaths: int = 0
    due: float = 0.0
    """When it is to be started again; 0 while it runs."""
    again: bool = False
    """It has run before."""


def run(children: Sequence[Child]) -> int:
    """Run until SIGTERM or SIGINT, then stop the children in their order; give the worst exit code."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
    for child in children:
        _start(child)
    while True:
        waits = [max(0.0, child.due - time.monotonic()) for child in children if child.due]
        found = signal.sigtimedwait(_WATCHED, min(waits, default=3_600.0))
        if found is not None and found.si_signo != signal.SIGCHLD:
            break
        fatal = _reap(children)
        if fatal:
            _stop(children)
            return fatal
        for child in children:
            if child.due and child.due <= time.monotonic():
                _start(child)
    return _stop(children)


def _start(child: Child) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        child.pid, child.started, child.due = pid, time.monotonic(), 0.0
        return
    os._exit(_live(child))


def _live(child: Child) -> int:
    """Be the child: give its exit code."""
    # Ctrl-C reaches the whole group; the parent says when to stop, and in which order.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _WATCHED)
    end_with_parent()
    show_as(child.name)
    # What was loaded so far stays for good, and what comes holds hardly any cycles: a search for some is a pause of
    # milliseconds for every call that is on its way.
    gc.freeze()
    gc.set_threshold(*_COLLECT)
    try:
        return child.work()
    except UserError as exc:
        log.error("%s: %s", child.name, exc)  # noqa: TRY400 - a mistake of the user, not ours
        return _USAGE
    except BaseException:
        log.exception("%s failed", child.name)
        return 1
    finally:
        sys.stderr.flush()


def _reap(children: Sequence[Child]) -> int:
    """Note who ended, and when to start it again; give an exit code when there is no point in that."""
    for child in children:
        if not child.pid:
            continue
        pid, status = os.waitpid(child.pid, os.WNOHANG)
        if not pid:
            continue
        code = os.waitstatus_to_exitcode(status)
        child.pid = 0
        if code == _USAGE and not child.again:
            return _USAGE
        # From now on a mistake, as in a model's folder that is being changed, costs nobody the others, who serve.
        child.again = True
        child.deaths = 0 if time.monotonic() - child.started > _LIVED_S else child.deaths + 1
        pause = _PAUSES[min(child.deaths, len(_PAUSES) - 1)]
        child.due = time.monotonic() + max(pause, 0.001)
        log.error("%s ended (%s); it is started again in %g s", child.name, _told(code), pause)
    return 0


def _stop(children: Sequence[Child]) -> int:
    """Stop stage by stage: children of one name's first word stop together."""
    worst = 0
    for stage in dict.fromkeys(child.name.split()[0] for child in children):
        running = [child for child in children if child.pid and child.name.split()[0] == stage]
        for child in running:
            os.kill(child.pid, signal.SIGTERM)
        for child in running:
            worst = max(worst, _await_end(child))
    return worst


def _await_end(child: Child) -> int:
    deadline = time.monotonic() + child.stop_s
    while True:
        pid, status = os.waitpid(child.pid, os.WNOHANG)
        if pid:
            child.pid = 0
            return abs(os.waitstatus_to_exitcode(status))
        left = deadline - time.monotonic()
        if left <= 0:
            log.error("%s did not stop within %g s and is killed", child.name, child.stop_s)
            os.kill(child.pid, signal.SIGKILL)
            deadline += child.stop_s
        signal.sigtimedwait({signal.SIGCHLD}, min(max(left, 0.01), 0.5))


def _told(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
