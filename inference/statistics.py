"""What one version of a model did since its process began, in the form of Triton's statistics extension.

A record is kept with each version (`inference/entries.py`), outlives its unloads, and is written to by
`inference/metrics.py` under that one's lock, once for each batch. What is said of it is in the extension's own words,
which HTTP's JSON and gRPC's message share. Next: `inference/catalogue.py`.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any, Final, TypeAlias

Said: TypeAlias = dict[str, Any]
"""One version's statistics, as the extension has them."""

_SIZES: Final = 64
"""Different numbers of rows that are told apart; batches of further ones are counted, but not by their size."""
_OTHERS: Final = -1
_DURATIONS: Final = (
    "success", "fail", "queue", "compute_input", "compute_infer", "compute_output", "cache_hit", "cache_miss",
)  # fmt: skip
"""The last two are always nothing: answers are not kept."""
_OF_BATCHES: Final = "compute_input", "compute_infer", "compute_output"


class Batches:
    """What was spent on batches of one size. Seconds."""

    __slots__ = ("calls", "calls_s", "compute_s", "count", "decode_s", "finish_s", "queue_s", "rows", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        self.count = self.calls = self.rows = 0
        self.queue_s = self.decode_s = self.compute_s = self.finish_s = 0.0
        self.calls_s = 0.0
        """Of computing, counted once for each call that shared in it."""


class Record:
    """What one version did."""

    __slots__ = ("_first", "_others", "failed", "failed_s", "last")

    def __init__(self) -> None:
        self._first: Batches | None = None
        """Of thousands of models, most see batches of one size."""
        self._others: dict[int, Batches] | None = None
        self.failed = 0
        self.failed_s = 0.0
        self.last = 0.0
        """When it predicted last, by `time.monotonic()`; 0: never."""

    def take(self, computed: float, rows: int, calls: int, compute_s: float) -> Batches:
        """Count a batch that was predicted on; give what its calls' own times are to be added to."""
        found = self._first
        if found is None:
            found = self._first = Batches(rows)
        elif found.size != rows:
            found = self._of_others(rows)
        self.last = computed
        found.count += 1
        found.calls += calls
        found.rows += rows
        found.compute_s += compute_s
        found.calls_s += compute_s * calls
        return found

    def fail(self, seconds: float) -> None:
        """Count a call that this version was to answer, and did not."""
        self.failed += 1
        self.failed_s += seconds

    def said(self, model: str, version: str) -> Said:
        """Say it all."""
        first, others = self._first, self._others
        sizes = ([] if first is None else [first]) + ([] if others is None else list(others.values()))
        calls = sum(each.calls for each in sizes)
        parts = {
            "queue": sum(each.queue_s for each in sizes),
            "compute_input": sum(each.decode_s for each in sizes),
            "compute_infer": sum(each.calls_s for each in sizes),
            "compute_output": sum(each.finish_s for each in sizes),
        }
        durations = {name: _duration(0, 0.0) for name in _DURATIONS}
        durations |= {name: _duration(calls, seconds) for name, seconds in parts.items()}
        durations["success"] = _duration(calls, sum(parts.values()))
        durations["fail"] = _duration(self.failed, self.failed_s)
        return {
            "name": model,
            "version": version,
            "last_inference": round((time.time() - (time.monotonic() - self.last)) * 1_000) if self.last else 0,
            "inference_count": sum(each.rows for each in sizes),
            "execution_count": sum(each.count for each in sizes),
            "inference_stats": durations,
            "response_stats": {},
            "batch_stats": [
                {
                    "batch_size": each.size,
                    "compute_input": _duration(each.count, each.decode_s),
                    "compute_infer": _duration(each.count, each.compute_s),
                    "compute_output": _duration(each.count, each.finish_s),
                }
                for each in sorted(sizes, key=lambda each: each.size)
                if each.size > 0
            ],
            "memory_usage": [],
        }

    def _of_others(self, rows: int) -> Batches:
        if self._others is None:
            self._others = {}
        found = self._others.get(rows)
        if found is None:
            size = rows if len(self._others) < _SIZES - 1 else _OTHERS
            found = self._others.setdefault(size, Batches(size))
        return found


def merged(processes: Iterable[Iterable[Said]]) -> list[Said]:
    """Sum what several processes say of the same versions."""
    found: dict[tuple[str, str], list[Said]] = {}
    for process in processes:
        for said in process:
            found.setdefault((said["name"], said["version"]), []).append(said)
    return [_sum(parts) for parts in found.values()]


def _sum(parts: Sequence[Said]) -> Said:
    sizes: dict[int, list[Said]] = {}
    for part in parts:
        for each in part["batch_stats"]:
            sizes.setdefault(each["batch_size"], []).append(each)
    return parts[0] | {
        "last_inference": max(part["last_inference"] for part in parts),
        "inference_count": sum(part["inference_count"] for part in parts),
        "execution_count": sum(part["execution_count"] for part in parts),
        "inference_stats": _added([part["inference_stats"] for part in parts], _DURATIONS),
        "batch_stats": [{"batch_size": size} | _added(group, _OF_BATCHES) for size, group in sorted(sizes.items())],
    }


def _added(parts: Sequence[Said], names: Iterable[str]) -> Said:
    return {
        name: {"count": sum(part[name]["count"] for part in parts), "ns": sum(part[name]["ns"] for part in parts)}
        for name in names
    }


def _duration(count: int, seconds: float) -> Said:
    return {"count": count, "ns": round(seconds * 1e9)}
