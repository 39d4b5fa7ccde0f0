"""A small stage for the contract suite: running sums per key, with an id that depends on the input alone."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping

from streams.events import stable_id
from streams.stage import Batch, Effects, Output


class Sums:
    """Adds numbers up per key, puts each new sum out, and cannot bear the value `poison`."""

    def __init__(self, partition: int, topic: str, pause_s: float = 0.0) -> None:
        self._partition, self._topic, self._pause_s = partition, topic, pause_s
        self._sums: dict[str, int] = {}
        self._count = 0

    def process(self, batch: Batch) -> Effects:
        """Give one record per input record."""
        outputs = []
        for record in batch.records:
            key, text = (record.key or b"").decode(), (record.value or b"").decode()
            self._count += 1
            self._sums[key] = self._sums.get(key, 0) + int(text)
            body = {"id": stable_id(key, record.partition, record.offset), "key": key, "sum": self._sums[key]}
            outputs.append(Output(self._topic, record.key, json.dumps(body).encode()))
            time.sleep(self._pause_s)
        if batch.idle_ms is not None:
            outputs.append(Output(self._topic, b"idle", json.dumps({"id": f"idle-{self._partition}"}).encode()))
        return Effects(tuple(outputs))

    def snapshot(self) -> bytes:
        """Give the sums."""
        return json.dumps([self._sums, self._count]).encode()

    def restore(self, state: bytes) -> None:
        """Take the sums."""
        self._sums, self._count = json.loads(state)

    def counters(self) -> Mapping[str, int]:
        """Give how many records were taken."""
        return {"in": self._count}
