"""CloudEvents as JSON lines in a folder, in files of bounded size: for a laptop, an air-gapped site, an auditor.

An event counts as delivered once the operating system has its line; with `sync`, once the disk has.
"""

from __future__ import annotations

import os
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from streams.bindings import encode_event, from_kafka
from streams.errors import PublishError, Refused, Unavailable
from streams.stage import Done, Output


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSettings:
    """Where the files lie."""

    folder: Path
    file_bytes: int = 64 << 20
    """Size at which the next file is begun."""
    max_bytes: int = 4 << 30
    """All files together; beyond it events are refused: files are never removed here, they are the user's."""
    waiting: int = 10_000
    """Events that may wait for a write."""
    sync: bool = False


class FilePublisher:
    """A `Publisher` into files `events-000001.jsonl`, `events-000002.jsonl` and so on. One thread calls it.

    Raises:
        OSError: the folder cannot be made.
    """

    def __init__(self, settings: FileSettings) -> None:
        self._settings = settings
        settings.folder.mkdir(parents=True, exist_ok=True)
        old = sorted(settings.folder.glob("events-*.jsonl"))
        self._total = sum(path.stat().st_size for path in old)
        # What a crash may have cut in two stays the last line of its file.
        self._number = int(old[-1].stem.removeprefix("events-")) if old else 0
        self._file: BinaryIO | None = None
        self._size = 0
        self._queue: deque[tuple[Output, Done]] = deque()

    def send(self, output: Output, done: Done) -> None:
        """See `streams.stage.Publisher`."""
        if len(self._queue) >= self._settings.waiting:
            raise Unavailable(f"{self._settings.waiting} events wait for {self._settings.folder}")
        self._queue.append((output, done))

    def poll(self, timeout_s: float) -> None:  # noqa: ARG002 - nothing here comes later
        """See `streams.stage.Publisher`."""
        if not self._queue:
            return
        taken, self._queue = self._queue, deque()
        lines = [encode_event(from_kafka(output.headers, output.value)) + b"\n" for output, _ in taken]
        error = self._write(b"".join(lines))
        for _, done in taken:
            done(error)

    def flush(self, timeout_s: float) -> int:
        """See `streams.stage.Publisher`."""
        self.poll(timeout_s)
        return 0

    def _write(self, data: bytes) -> PublishError | None:
        if self._total + len(data) > self._settings.max_bytes:
            return Refused(f"{self._settings.folder}: {self._settings.max_bytes} bytes are full")
        try:
            if self._file is None or self._size >= self._settings.file_bytes:
                self._begin()
            self._append(data)
        except OSError as exc:
            # Part of it may be there; a new file keeps its last line from running into the next one.
            self.close()
            return Unavailable(f"{self._settings.folder}: {exc}")
        self._size += len(data)
        self._total += len(data)
        return None

    def close(self) -> None:
        """Close the file; the next event begins another."""
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def _begin(self) -> None:
        self.close()
        self._number += 1
        path = self._settings.folder / f"events-{self._number:06d}.jsonl"
        self._file = open(path, "xb", buffering=0)  # noqa: SIM115, PTH123 - it stays open until the next one
        self._size = 0

    def _append(self, data: bytes) -> None:
        if self._file is None:
            return
        left = memoryview(data)
        while left:
            left = left[os.write(self._file.fileno(), left) :]
        if self._settings.sync:
            os.fdatasync(self._file.fileno())
