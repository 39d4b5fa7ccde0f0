"""The deterministic host: topics in memory, time as an argument. For replay, dry runs and tests."""

from __future__ import annotations

from streams.hosts.runner import Runner, RunnerSettings
from streams.publishers.memory import MemoryLog
from streams.stage import Publisher, StageFactory, StateStore


class MemoryHost:
    """Runs a stage over one topic of a `MemoryLog`; partitions take turns, one batch each."""

    def __init__(
        self,
        log: MemoryLog,
        topic: str,
        factory: StageFactory,
        publisher: Publisher,
        store: StateStore,
        settings: RunnerSettings,
        *,
        batch: int = 500,
    ) -> None:
        self._log, self._topic, self._batch = log, topic, batch
        self.runners = {
            partition: Runner(partition, factory, publisher, store, settings, wait=lambda _seconds: True)
            for partition in range(log.partitions(topic))
        }
        self._next = {partition: runner.open() or 0 for partition, runner in self.runners.items()}

    def run(self) -> int:
        """Take everything that is in the topic; give how many records that were."""
        taken = 0
        while any([self._turn(partition) for partition in self.runners]):  # noqa: C419 - every partition gets its turn
            taken += 1
        return taken

    def idle(self, idle_ms: int) -> None:
        """Tell every partition's stage that nothing more is there at this time."""
        for runner in self.runners.values():
            runner.take((), idle_ms)

    def counters(self) -> dict[str, int]:
        """Add up the stage's counters over the partitions."""
        totals: dict[str, int] = {}
        for runner in self.runners.values():
            for name, value in runner.counters.stage.items():
                totals[name] = totals.get(name, 0) + value
        return totals

    def _turn(self, partition: int) -> bool:
        records = self._log.read(self._topic, partition, self._next[partition], self._batch)
        if not records:
            return False
        self.runners[partition].take(records)
        self._next[partition] = records[-1].offset + 1
        return True
