"""A stage whose work is seen in the traces of what it works on: one span for each trace in a batch.

A record belongs to the trace that its event names, or to those of the calls whose rows it holds. Outputs stay the same.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Final

from streams.events import TRACEPARENT, TRACEPARENTS
from streams.stage import Batch, Effects, Record, Stage
from streams.tracecontext import MOST_NAMED, below, recorded
from streams.traces import Traces

_MOST: Final = {f"ce_{TRACEPARENT}": 1, f"ce_{TRACEPARENTS}": MOST_NAMED}
"""How many traces such a header names; whoever wrote more shall not have a span for each."""


class TracedStage:
    """A `Stage` around another."""

    def __init__(self, inner: Stage, name: str, traces: Traces) -> None:
        self._inner, self._name, self._traces = inner, name, traces

    def process(self, batch: Batch) -> Effects:
        """Have it take a batch; see `streams.stage.Stage`."""
        began = time.time_ns() // 1000
        effects = self._inner.process(batch)
        found: dict[str, list[Record]] = {}
        for record in batch.records:
            for traceparent in _named(record):
                found.setdefault(traceparent, []).append(record)
        if found:
            self._record(found, began, time.time_ns() // 1000)
        return effects

    def snapshot(self) -> bytes:
        """Give its state."""
        return self._inner.snapshot()

    def restore(self, state: bytes) -> None:
        """Take its state."""
        self._inner.restore(state)

    def counters(self) -> Mapping[str, int]:
        """Give its counters."""
        return self._inner.counters()

    def _record(self, found: Mapping[str, list[Record]], began_us: int, ended_us: int) -> None:
        for traceparent, records in found.items():
            parent, last = recorded(traceparent), records[-1]
            if parent is not None:
                self._traces.record(
                    f"{self._name} {last.topic}", "CONSUMER",
                    below(parent, self._name, last.topic, last.partition, last.offset), parent, began_us, ended_us,
                    {
                        "messaging.system": "kafka", "messaging.destination.name": last.topic,
                        "messaging.batch.message_count": len(records),
                    },
                )  # fmt: skip


def _named(record: Record) -> list[str]:
    """Give what it names; several are separated by spaces."""
    return [
        traceparent
        for name, value in record.headers
        if value and name in _MOST
        for traceparent in value.decode("ascii", "replace").split()[: _MOST[name]]
    ]
