"""A worker of ours that is killed again and again; for the tests that do so."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

START_S: Final = 180.0


class Worker:
    """A worker process that is started again after each kill."""

    def __init__(self, words: Sequence[str], log: Path) -> None:
        self._words, self._log = words, log
        self._read = 0
        self._process = self._start()

    def at_work(self) -> bool:
        """Tell whether the process has taken its partitions over, with their state, since it was started."""
        return b"assigned [" in self._log.read_bytes()[self._read :]

    def kill(self) -> None:
        """End the process without any warning and start another."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self._process = self._start()

    def stop(self) -> None:
        """Drain; a worker that does not exit cleanly fails the test."""
        self._process.send_signal(signal.SIGTERM)

        assert self._process.wait(60) == 0, self._log.read_text()[-4000:]

    def end(self) -> None:
        """End it, whatever it does."""
        self._process.kill()
        self._process.wait()

    def _start(self) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as output:
            self._read = output.tell()
            return subprocess.Popen([sys.executable, "-m", "deploy.cli", *self._words], stdout=output, stderr=output)


def await_one_at_work(workers: Sequence[Worker], generator: random.Random) -> Worker:
    """Choose one of the workers, and wait until it has its partitions."""
    victim = generator.choice(workers)
    deadline = time.monotonic() + START_S
    while not victim.at_work():
        assert time.monotonic() < deadline, "it never got its partitions"
        time.sleep(0.05)
    return victim
