"""A worker for tests, run as a module: it has lost what it needs from the start, and works until a file is there."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path

from deploy.workers import add_worker_arguments, run_stage
from streams.stage import Batch, Effects
from streams.topics import Topics
from tests.inference.serving import eventually


class Held:
    """A stage whose records take until the file is there."""

    def __init__(self, gate: Path) -> None:
        self._gate = gate

    def process(self, batch: Batch) -> Effects:
        """Wait."""
        if batch.records:
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
    return run_stage(
        arguments, name="held", topic=Topics(arguments.prefix).payloads, partitions=1,
        factory=lambda _partition: Held(arguments.gate), lost=lambda: "the gate is lost",
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
