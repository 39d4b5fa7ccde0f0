"""One partition's stage and the checkpoint rule around it: process, publish, save, and only then say how far it got.

Every host drives this, in one step (`take`) or in two that may run on two threads (`work`, then `deliver`). It talks
to the broker through the seams `Publisher` and `StateStore`; it waits for a broker that is away, or for what a stage
needs, and it puts a record that a stage cannot bear, and an output that the broker will never take, on the dead-letter
topic without losing its neighbours.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

from streams.deadletter import dead_letter
from streams.errors import NotNow, PublishError, Refused, StreamError
from streams.publishing import Refusal, Sending
from streams.refusals import bare_letter, refused_letter
from streams.stage import Batch, Checkpoint, Output, Publisher, Record, Stage, StageFactory, StateStore

log = logging.getLogger(__name__)

_FIRST_PAUSE_S: Final = 0.1
_LONGEST_PAUSE_S: Final = 5.0
_TAKE: Final = "take its records"

T = TypeVar("T")


class Abandoned(StreamError):
    """The host took the partition back while the runner worked or waited; nothing that was unfinished counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerSettings:
    """What is the same for every partition of a stage."""

    stage: str
    """The stage's name, for dead letters and counters."""
    deadletter: str
    """The dead-letter topic."""
    publish_timeout_s: float = 10.0
    """After how long without acknowledgement the log says so; what is on its way is not sent a second time."""


@dataclass(slots=True)
class RunnerCounters:
    """What a runner did since it opened."""

    records: int = 0
    skipped: int = 0
    outputs: int = 0
    poisoned: int = 0
    """Records that the stage raised on; they are on the dead-letter topic."""
    refused: int = 0
    """Outputs that the broker will never take; they are on the dead-letter topic."""
    retries: int = 0
    """Attempts to reach the broker, or what the stage needs, that failed and were made again."""
    stage: dict[str, int] = field(default_factory=dict)
    """The stage's own counters, since the first record ever."""


@dataclass(frozen=True, slots=True)
class Held:
    """Why a partition stands still."""

    kind: str
    """What is away, in a word: `broker`, or what the stage says (`claims`, `model`)."""
    detail: str


@dataclass(frozen=True, slots=True)
class Worked:
    """What a stage made of a batch, before anybody knows of it."""

    records: tuple[Record, ...]
    outputs: tuple[Output, ...]
    position: int | None
    state: bytes
    counters: Mapping[str, int]


class Runner:
    """Runs one stage for one partition. One thread calls `work`, and one calls `deliver`, in the order of the batches.

    `wait(seconds)` is how it pauses between attempts; it answers True when the runner has to give up.
    """

    def __init__(
        self,
        partition: int,
        factory: StageFactory,
        publisher: Publisher,
        store: StateStore,
        settings: RunnerSettings,
        wait: Callable[[float], bool],
    ) -> None:
        self._partition, self._factory, self._settings = partition, factory, settings
        self._publisher, self._store, self._wait = publisher, store, wait
        self._stage: Stage = factory(partition)
        self._state: bytes | None = None
        """The stage's, after the last batch that it worked on."""
        self._reached: int | None = None
        """Offset of the first record that it has not worked on."""
        self._told_ms = 0
        self._abandoned = False
        self._held: dict[str, Held] = {}
        self.position: int | None = None
        """Offset of the first record that is not in the state; None before the first checkpoint."""
        self.counters = RunnerCounters()

    def open(self) -> int | None:
        """Load the checkpoint and restore the stage; give the position to read from, None for the beginning."""
        found = self._persist("load its state", lambda: self._store.load(self._partition))
        if found is not None:
            self.position, self._state = found.position, found.state
            self._reached = found.position
            self._stage = self._restored()
            self.counters.stage = dict(self._stage.counters())
        return self.position

    def take(self, records: Sequence[Record], idle_ms: int | None = None) -> None:
        """Bring records of this partition, oldest first, to their effect; on return they are done for good.

        Records that are in the state already are skipped, also when a client delivers some twice.

        Raises:
            Abandoned: the host is stopping; the checkpoint still holds what was done before this call.
            StreamError: even the dead-letter topic refuses what another topic refused.
        """
        worked = self.work(records, idle_ms)
        if worked is not None:
            self.deliver(worked)

    def work(self, records: Sequence[Record], idle_ms: int | None = None) -> Worked | None:
        """Have the stage take records; None when nothing came of it. What it gives has to be delivered, in order.

        Raises:
            Abandoned: as `take` does.
        """
        fresh = self._fresh(records)
        if not fresh and idle_ms is None:
            return None
        outputs = self._effects(Batch(self._partition, fresh, self._forward(idle_ms)))
        state = self._stage.snapshot()
        if not outputs and not fresh and state == self._state:
            return None
        self._state = state
        if fresh:
            self._reached = fresh[-1].offset + 1
        return Worked(fresh, tuple(outputs), self._reached, state, dict(self._stage.counters()))

    def deliver(self, worked: Worked) -> None:
        """Publish and save what a batch led to; on return it is done for good. Raises what `take` raises."""
        self._publish(worked.outputs, worked.records)
        if worked.position is not None:
            checkpoint = Checkpoint(worked.position, worked.state)
            self._persist("save its state", lambda: self._store.save(self._partition, checkpoint))
            self.position = worked.position
        self.counters.records += len(worked.records)
        self.counters.outputs += len(worked.outputs)
        self.counters.stage = dict(worked.counters)

    def held(self) -> list[Held]:
        """Give what it waits for. Any thread may call it."""
        return list(self._held.values())

    def abandon(self) -> None:
        """Give the partition up: a batch that is still running saves nothing any more. Any thread may call it."""
        self._abandoned = True

    def _fresh(self, records: Sequence[Record]) -> tuple[Record, ...]:
        following = self._reached or 0
        fresh = []
        for record in records:
            if record.offset >= following:
                fresh.append(record)
                following = record.offset + 1
        self.counters.skipped += len(records) - len(fresh)
        return tuple(fresh)

    def _forward(self, idle_ms: int | None) -> int | None:
        """Keep the idle time from going back when the wall clock does."""
        if idle_ms is None:
            return None
        self._told_ms = max(self._told_ms, idle_ms)
        return self._told_ms

    def _publish(self, outputs: Sequence[Output], records: Sequence[Record]) -> None:
        """Publish; what the broker will never take goes to the dead letters, if need be without its content."""
        refused = self._sent(outputs)
        if not refused:
            return
        self.counters.refused += len(refused)
        message = "stage %s, partition %d: the broker refuses %d outputs, which become dead letters; the first: %s"
        log.error(message, self._settings.stage, self._partition, len(refused), refused[0].error)
        stage, topic = self._settings.stage, self._settings.deadletter
        refused = self._sent([refused_letter(item, records, self._partition, stage, topic) for item in refused])
        refused = self._sent([bare_letter(item) for item in refused])
        if refused:
            raise StreamError(
                f"stage {stage}: topic {topic!r} refuses even a dead letter without content: {refused[0].error}"
            )

    def _sent(self, outputs: Sequence[Output]) -> tuple[Refusal, ...]:
        sending = Sending(self._publisher, outputs)
        return self._persist("publish", lambda: sending.wait(self._settings.publish_timeout_s))

    def _effects(self, batch: Batch) -> list[Output]:
        try:
            return self._processed(batch, self._restored)
        except Abandoned:
            raise
        except Exception:  # a stage that raises has a bug; its neighbours must not pay for it
            self._stage = self._restored()
            if batch.records:
                return self._isolated(batch.records)
            log.exception("stage %s, partition %d: failed when told of silence", self._settings.stage, self._partition)
            return []

    def _isolated(self, records: tuple[Record, ...]) -> list[Output]:
        """Take records that hold at least one poisonous one, by halves, and put the poison on the dead letters."""
        if len(records) == 1:
            return [self._poison(records[0])] if self._fails(records) else self._done(records)
        middle = len(records) // 2
        outputs: list[Output] = []
        for half in (records[:middle], records[middle:]):
            outputs += self._isolated(half) if self._fails(half) else self._done(half)
        return outputs

    def _fails(self, records: tuple[Record, ...]) -> bool:
        """Try records on a stage that is thrown away afterwards."""
        state = self._stage.snapshot()
        try:
            self._persist(_TAKE, lambda: self._restored(state).process(Batch(self._partition, records)))
        except Abandoned:
            raise
        except Exception:
            if len(records) == 1:
                log.exception("stage %s cannot bear %s", self._settings.stage, _place(records[0]))
            return True
        return False

    def _done(self, records: tuple[Record, ...]) -> list[Output]:
        state = self._stage.snapshot()
        return self._processed(Batch(self._partition, records), lambda: self._restored(state))

    def _processed(self, batch: Batch, before: Callable[[], Stage]) -> list[Output]:
        """Have the stage take records; `before` gives it as it was before them."""

        def attempt() -> list[Output]:
            try:
                return list(self._stage.process(batch).outputs)
            except NotNow:
                # It may be half-way: some of the records counted, some of the pairs made.
                self._stage = before()
                raise

        return self._persist(_TAKE, attempt)

    def _poison(self, record: Record) -> Output:
        self.counters.poisoned += 1
        detail = f"stage {self._settings.stage} raised on it; the log has the traceback"
        return dead_letter(record, "poison", detail, self._settings.stage, self._settings.deadletter)

    def _restored(self, state: bytes | None = None) -> Stage:
        """Give a stage in a state, by default that after the last batch."""
        stage, state = self._factory(self._partition), self._state if state is None else state
        if state is not None:
            stage.restore(state)
        return stage

    def _persist(self, what: str, attempt: Callable[[], T]) -> T:
        """Do something that needs the broker or a model, again and again, until it is done or the host gives up."""
        pause = _FIRST_PAUSE_S
        try:
            while not self._abandoned:
                try:
                    return attempt()
                except (PublishError, NotNow) as exc:
                    self._waited(what, exc)
                    if self._wait(pause):
                        break
                    pause = min(pause * 2, _LONGEST_PAUSE_S)
        finally:
            # Done, failed or given up: it waits for this no longer.
            self._held.pop(what, None)
        raise Abandoned(f"stage {self._settings.stage}, partition {self._partition}: given up before it could {what}")

    def _waited(self, what: str, problem: StreamError) -> None:
        self.counters.retries += 1
        kind = problem.kind if isinstance(problem, NotNow) else "broker"
        self._held[what] = Held(kind, f"partition {self._partition}: cannot {what} yet: {problem}")
        # A checkpoint that is refused will not pass by itself: the partition stands still until someone changes the
        # broker's settings, for going on without it would do everything twice after a restart.
        level = logging.ERROR if isinstance(problem, Refused) else logging.WARNING
        message = "stage %s, partition %d: cannot %s yet: %s"
        log.log(level, message, self._settings.stage, self._partition, what, problem)


def _place(record: Record) -> str:
    return f"{record.topic}[{record.partition}]@{record.offset}"
