"""The default host: one confluent-kafka consumer, and for each partition a thread that runs its stage in order.

The consumer's thread only reads, hands over (`lane.py`), pauses what is full and commits what is done. What counts
after a crash is the checkpoint (`runner.py`), so commits are for lag figures and for tools.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition

from streams.errors import StreamError
from streams.hosts.clients import BrokerEnds, consumer_settings
from streams.hosts.lane import Lane
from streams.hosts.pace import Pace
from streams.hosts.runner import Abandoned, Runner, RunnerSettings
from streams.hosts.settings import HostSettings
from streams.hosts.watchdog import State, Watchdog
from streams.reading import as_record
from streams.stage import Publisher, Record, StageFactory, StateStore

log = logging.getLogger(__name__)

_POLL_S: Final = 0.05
_STEP_S: Final = 0.005
"""How often it looks whether queues that were full have room again."""
_LOOK_S: Final = 0.5
"""How often the ends of the partitions are noted, for the lag that the metrics page shows."""
_STUCK_S: Final = 120.0
"""After how long without a turn the consumer's thread is taken for lost: all that a turn may wait for takes less."""
_NEVER: Final = frozenset({KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.GROUP_AUTHORIZATION_FAILED})


class NativeHost:
    """Runs a stage over one Kafka topic as a member of a consumer group."""

    def __init__(
        self,
        settings: HostSettings,
        runner: RunnerSettings,
        factory: StageFactory,
        publisher: Publisher,
        store: StateStore,
    ) -> None:
        self._settings, self._runner_settings, self._factory = settings, runner, factory
        self._publisher, self._store = publisher, store
        # Not an Event: `stop` runs inside signal handlers, where a lock may be held by the thread that is interrupted.
        self._asked = False
        self._lanes: dict[int, Lane] = {}
        self._ends: dict[int, tuple[int, int]] = {}
        self._look_at = 0.0
        self._joined = False
        self._pace = Pace()
        self._turned = time.monotonic()
        self._watchdog = Watchdog(settings.still_after_s, self._states, BrokerEnds(settings))
        self._consumer = Consumer({**consumer_settings(settings), "on_commit": self._on_commit})

    def run(self) -> None:
        """Work until `stop`; then finish the running batches, commit and leave the group.

        Raises:
            StreamError: a checkpoint cannot be read: going on would count records twice.
        """
        ended = threading.Event()
        pump = threading.Thread(target=self._pump, args=(ended,), name="publisher-poll", daemon=True)
        pump.start()
        threading.Thread(target=self._watchdog.run, args=(ended,), name="watchdog", daemon=True).start()
        self._consumer.subscribe(
            [self._settings.topic], on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost
        )
        try:
            while not self._asked:
                self._turn()
        finally:
            self._asked = True
            self._release(list(self._lanes), commit=True)
            self._consumer.close()
            ended.set()
            pump.join()

    def stop(self) -> None:
        """Ask `run` to drain and return. Any thread or signal handler may call it."""
        self._asked = True

    def ready(self) -> bool:
        """Say whether it has joined its group, with partitions or without, and works."""
        return self._joined and not self._asked

    def lost(self) -> str:
        """Say why it does not go on, empty when it does; a broker that is away does not keep it from that."""
        quiet_s = time.monotonic() - self._turned
        return f"no turn for {quiet_s:.0f} s" if quiet_s > _STUCK_S else self._watchdog.found

    def runners(self) -> dict[int, Runner]:
        """Give the runners of the partitions that are assigned now."""
        return {partition: lane.runner for partition, lane in list(self._lanes.items())}

    def waiting(self) -> int:
        """Give how many records have been read and wait for their stage."""
        return sum(lane.waiting() for lane in list(self._lanes.values()))

    def waiting_bytes(self) -> int:
        """Give the size of what has been read and waits for its stage, about."""
        return sum(lane.waiting_bytes() for lane in list(self._lanes.values()))

    def lags(self) -> dict[int, int]:
        """Give, for each assigned partition whose end is known, how many records are not done yet."""
        found = {}
        for partition, lane in list(self._lanes.items()):
            low, high = self._ends.get(partition, (-1, -1))
            if high >= 0:
                found[partition] = max(
                    0, high - (max(low, 0) if lane.runner.position is None else lane.runner.position)
                )
        return found

    def _states(self) -> dict[int, State]:
        return {
            partition: State(
                lane.following, lane.waiting(), lane.runner.position, not (lane.busy or lane.runner.held()), lane.paused
            )
            for partition, lane in list(self._lanes.items())
        }

    def _turn(self) -> None:
        if self._reads(time.monotonic()):
            self._hand_over(self._read(self._room()))
        else:
            time.sleep(_STEP_S)
        self._turned = now = time.monotonic()
        self._look(now)
        for lane in list(self._lanes.values()):
            if lane.failure is not None:
                raise StreamError(f"partition {lane.partition}: {lane.failure}") from lane.failure
            self._balance(lane)
            self._tell_idle(lane, now)
        self._commit(list(self._lanes.values()), asynchronous=True)

    def _read(self, most: int) -> list[Message]:
        """Wait for a record, and a little for more; `consume` alone would always wait for as many as it may give."""
        linger_s = self._settings.poll_ms / 1000
        if linger_s >= _POLL_S:
            return self._consumer.consume(most, timeout=linger_s)
        first = self._consumer.poll(_POLL_S)
        return [] if first is None else [first, *self._consumer.consume(most, timeout=linger_s)]

    def _room(self) -> int:
        """Give how many records may be read: as many as every queue that is not paused can still take."""
        room = [self._settings.queue_records - lane.waiting() for lane in self._lanes.values() if not lane.paused]
        return max(1, min([self._settings.batch_records, *room]))

    def _hand_over(self, messages: list[Message]) -> None:
        by_partition: dict[int, list[Record]] = {}
        ended: dict[int, int] = {}
        for message in messages:
            error, partition = message.error(), message.partition() or 0
            if error is None:
                by_partition.setdefault(partition, []).append(as_record(message))
                ended.pop(partition, None)
            elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - librdkafka's own codes are spelt so
                ended[partition] = message.offset() or 0
            else:
                self._complain(error)
        # A partition may have gone while its messages were on their way; its next owner reads them.
        for partition, lane in self._lanes.items():
            if partition in by_partition:
                lane.put(by_partition[partition])
            if partition in ended:
                lane.end(ended[partition])

    def _complain(self, error: KafkaError) -> None:
        if error.fatal() or error.code() in _NEVER:
            raise StreamError(f"topic {self._settings.topic!r}: {error.str()}")
        log.warning("topic %s: %s", self._settings.topic, error.str())

    def _reads(self, now: float) -> bool:
        """Say whether to read on; pause what is behind first."""
        fills = {lane.partition: lane.fill() for lane in self._lanes.values() if not lane.paused}
        reads, behind = self._pace.decide(fills, now)
        for partition in behind:
            self._consumer.pause([TopicPartition(self._settings.topic, partition)])
            self._lanes[partition].paused = True
        return reads

    def _balance(self, lane: Lane) -> None:
        """Let a partition that is paused go on when half of its queue is free."""
        if lane.paused and lane.fill() <= 1 / 2:
            self._consumer.resume([TopicPartition(self._settings.topic, lane.partition)])
            lane.paused = False

    def _tell_idle(self, lane: Lane, now: float) -> None:
        if not self._settings.idle_after_s:
            return
        if lane.waiting() or lane.busy or not lane.at_end:
            lane.quiet_since = now
        elif now - lane.quiet_since >= self._settings.idle_after_s:
            lane.quiet_since = now
            lane.tell_idle(int((time.time() - self._settings.idle_grace_s) * 1000))

    def _look(self, now: float) -> None:
        """Note where the partitions end. The consumer's own thread does: any other would wait while that reads."""
        if now >= self._look_at:
            self._look_at = now + _LOOK_S
            self._ends = {partition: self._bounds(partition) for partition in list(self._lanes)}

    def _bounds(self, partition: int) -> tuple[int, int]:
        try:
            place = TopicPartition(self._settings.topic, partition)
            low, high = self._consumer.get_watermark_offsets(place, cached=True)
        except (KafkaException, RuntimeError):  # not assigned any more, or the consumer is closed
            return -1, -1
        return low, high

    def _commit(self, lanes: list[Lane], *, asynchronous: bool) -> None:
        done = [(lane, lane.runner.position) for lane in lanes if lane.uncommitted()]
        if not done:
            return
        offsets = [TopicPartition(self._settings.topic, lane.partition, position or 0) for lane, position in done]
        try:
            if asynchronous:
                self._consumer.commit(offsets=offsets, asynchronous=True)
            else:
                self._consumer.commit(offsets=offsets, asynchronous=False)
        except KafkaException as exc:
            # Harmless: the position that counts is in the checkpoint, and the next turn commits again.
            log.debug("commit: %s", exc)
            return
        for lane, position in done:
            lane.committed = position

    def _on_commit(self, error: KafkaError | None, partitions: list[TopicPartition]) -> None:
        if error is None:
            return
        for item in partitions:
            if item.partition in self._lanes:
                self._lanes[item.partition].committed = None

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        lanes = [Lane(item.partition, self._settings, self._runner(item.partition)) for item in partitions]
        starts = []
        for lane in lanes:
            try:
                position = lane.runner.open()
            except Abandoned:
                return
            self._turned = time.monotonic()
            start = OFFSET_BEGINNING if position is None else position
            lane.following = position or 0
            starts.append(TopicPartition(self._settings.topic, lane.partition, start))
        consumer.assign(starts)
        # The client keeps a partition paused even while it is someone else's; our new lanes are empty.
        consumer.resume(starts)
        for lane in lanes:
            self._lanes[lane.partition] = lane
            lane.start()
        self._joined = True
        log.info("assigned %s of %s", sorted(self._lanes), self._settings.topic)

    def _runner(self, partition: int) -> Callable[[Callable[[float], bool]], Runner]:
        def build(wait: Callable[[float], bool]) -> Runner:
            return Runner(
                partition, self._factory, self._publisher, self._store, self._runner_settings,
                lambda seconds: self._paused(wait, seconds),
            )  # fmt: skip

        return build

    def _paused(self, wait: Callable[[float], bool], seconds: float) -> bool:
        # The consumer's own thread pauses, too, while it reads states that no broker gives it.
        self._turned = time.monotonic()
        return wait(seconds) or self._asked

    def _revoked(self, _consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._release([item.partition for item in partitions], commit=True)

    def _lost(self, _consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._release([item.partition for item in partitions], commit=False)

    def _release(self, partitions: list[int], *, commit: bool) -> None:
        """Let the running batches finish, within bounds, and forget the partitions."""
        lanes = [self._lanes[partition] for partition in partitions if partition in self._lanes]
        for lane in lanes:
            lane.ask_to_stop()
        deadline = time.monotonic() + self._settings.drain_s
        for lane in lanes:
            lane.join(max(0.0, deadline - time.monotonic()))
        if commit:
            self._commit(lanes, asynchronous=False)
        for lane in lanes:
            self._lanes.pop(lane.partition, None)

    def _pump(self, ended: threading.Event) -> None:
        # Acknowledgements also come while every lane computes; without this they would wait for the next publish.
        while not ended.is_set():
            self._publisher.poll(0.1)
