"""A worker for tests, run as a module: it loses what it needs amid its first batch, and works until a file is there."""

from __future__ import annotations

import argparse
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

from deploy.workers import add_worker_arguments, run_stage
from streams.stage import Batch, Effects
from streams.topics import Topics
from tests.inference.serving import eventually


class Held:
    """A stage whose records take until the file is there."""

    def __init__(self, gate: Path, at_work: threading.Event) -> None:
        self._gate, self._at_work = gate, at_work

    def process(self, batch: Batch) -> Effects:
        """Wait."""
        if batch.records:
            self._at_work.set()
            eventually(self._gate.exists, "the gate")
        return Effects()

    def snapshot(self) -> bytes:
        """Have no state."""
        return b""

    def restore(self, state: bytes) -> None:
        """Have none."""

    def counters(self) -> Mapping[str, int]:
        """Count nothing."""
        return {}


def main() -> int:
    """Work until it is noticed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("gate", type=Path)
    add_worker_arguments(parser, "held")
    arguments = parser.parse_args()
    # Lost before it has any work it would be gone before anybody could ask it.
    at_work = threading.Event()
    return run_stage(
        arguments, name="held", topic=Topics(arguments.prefix).payloads, partitions=1,
        factory=lambda _partition: Held(arguments.gate, at_work),
        lost=lambda: "the gate is lost" if at_work.is_set() else "",
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
