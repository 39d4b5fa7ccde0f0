"""Tumbling windows of N rows: the state that windowed detectors share, so that each has only its test to write."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Final

import numpy as np

from detectors.arrays import pack, unpack
from detectors.base import Detector, Finding, Rows, Setup
from detectors.settings import whole

MOST: Final = 100_000
"""Rows of the largest window: an open one is part of every checkpoint, and a checkpoint has 64 MiB at most."""


class Windowed(Detector):
    """A detector that tests every window of N rows once, when it is full."""

    def __init__(self, setup: Setup, *, window: int) -> None:
        super().__init__(setup)
        # 20: the smallest sample with any power. The check is here because settings are YAML, which may say anything.
        self.window = whole("params.window", window, 20, MOST)
        self._open: list[Rows] = []
        self._rows = 0
        self._last_end_us: int | None = None

    @abstractmethod
    def test(self, rows: Rows, elapsed_us: int) -> list[Finding]:
        """Test one full window; `elapsed_us` is the event time since the last window's end."""

    def observe(self, rows: Rows) -> list[Finding]:
        """Fill windows and test the full ones."""
        self.check(rows)
        findings: list[Finding] = []
        at = 0
        while at < len(rows):
            part = rows[at : at + self.window - self._rows]
            self._open.append(part)
            self._rows += len(part)
            at += len(part)
            if self._rows == self.window:
                findings += self._close()
        return findings

    def snapshot(self) -> bytes:
        """Give the open window and the time of the last one's end."""
        fields: dict[str, Any] = {"last_end_us": self._last_end_us, "rows": self._rows}
        if not self._open:
            return pack(fields, {})
        rows = self._open[0].followed_by(self._open[1:])
        # Text goes as fixed-width unicode, which needs no pickle; missing text was already written as "".
        arrays = {f"c.{name}": _plain(values) for name, values in rows.columns.items()}
        return pack(fields, arrays | {"ids": _plain(rows.ids), "times": rows.times_us, "places": rows.places})

    def restore(self, state: bytes) -> None:
        """Take what `snapshot` gave."""
        fields, arrays = unpack(state)
        self._last_end_us, self._rows = fields["last_end_us"], fields["rows"]
        self._open = []
        if self._rows:
            columns = {name[2:]: values for name, values in arrays.items() if name.startswith("c.")}
            self._open = [Rows(columns=columns, ids=arrays["ids"], times_us=arrays["times"], places=arrays["places"])]

    def _close(self) -> list[Finding]:
        rows = self._open[0].followed_by(self._open[1:])
        end = int(rows.times_us.max())
        start = int(rows.times_us.min()) if self._last_end_us is None else self._last_end_us
        self._open, self._rows, self._last_end_us = [], 0, max(end, start)
        return self.test(rows, max(end - start, 1))


def _plain(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return values.astype(str) if values.dtype == object else values
