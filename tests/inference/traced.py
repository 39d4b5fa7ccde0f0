"""Tells how much memory a test's own calls hold, whatever threads of other tests do meanwhile."""

from __future__ import annotations

import tracemalloc
from types import TracebackType
from typing import Self

_FRAMES = 8


class Traced:
    """Notes what is allocated within the block, by calls from one file."""

    def __init__(self, file: str) -> None:
        self._ours = tracemalloc.Filter(True, file, all_frames=True)  # noqa: FBT003 - the library's order

    def __enter__(self) -> Self:
        tracemalloc.start(_FRAMES)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        tracemalloc.stop()

    def held(self) -> int:
        """Give the bytes that have not been freed yet."""
        return sum(trace.size for trace in tracemalloc.take_snapshot().filter_traces([self._ours]).traces)
