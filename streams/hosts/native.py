"""The default host: one confluent-kafka consumer, and for each partition a thread that runs its stage in order.

The consumer's thread only reads, hands over, pauses what is full and commits what is done. What counts after a crash
is the checkpoint (`runner.py`), so commits are for lag figures and for tools.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, Final

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition

from streams.errors import StreamError
from streams.hosts.runner import Abandoned, Runner, RunnerSettings
from streams.hosts.settings import HostSettings
from streams.stage import Headers, Publisher, Record, StageFactory, StateStore

log = logging.getLogger(__name__)

_POLL_S: Final = 0.05


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
        self._stopping = threading.Event()
        self._lanes: dict[int, _Lane] = {}
        self._consumer = Consumer(_client(settings))

    def run(self) -> None:
        """Work until `stop`; then finish the running batches, commit and leave the group.

        Raises:
            StreamError: a checkpoint cannot be read: going on would count records twice.
        """
        pump = threading.Thread(target=self._pump, name="publisher-poll", daemon=True)
        pump.start()
        self._consumer.subscribe(
            [self._settings.topic], on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost
        )
        try:
            while not self._stopping.is_set():
                self._turn()
        finally:
            self._stopping.set()
            self._close_lanes(self._settings.drain_s)
            self._commit(asynchronous=False)
            self._consumer.close()
            pump.join()

    def stop(self) -> None:
        """Ask `run` to drain and return. Any thread may call it."""
        self._stopping.set()

    def runners(self) -> dict[int, Runner]:
        """Give the runners of the partitions that are assigned now."""
        return {partition: lane.runner for partition, lane in list(self._lanes.items())}

    def _turn(self) -> None:
        for message in self._consumer.consume(self._settings.batch_records, timeout=_POLL_S):
            self._hand_over(message)
        now = time.monotonic()
        for lane in list(self._lanes.values()):
            if lane.failure is not None:
                raise StreamError(f"partition {lane.partition}: {lane.failure}") from lane.failure
            self._balance(lane)
            self._tell_idle(lane, now)
        self._commit(asynchronous=True)

    def _hand_over(self, message: Message) -> None:
        error = message.error()
        if error is not None:
            if error.fatal() or error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
                raise StreamError(f"topic {self._settings.topic!r}: {error.str()}")
            log.warning("topic %s: %s", self._settings.topic, error.str())
            return
        record = _record(message)
        lane = self._lanes.get(record.partition)
        if lane is not None:
            lane.put(record)

    def _balance(self, lane: _Lane) -> None:
        """Pause a partition whose stage is behind, and let it go on when half of the queue is free."""
        waiting = lane.waiting()
        if not lane.paused and waiting >= self._settings.queue_records:
            self._consumer.pause([TopicPartition(self._settings.topic, lane.partition)])
            lane.paused = True
        elif lane.paused and waiting <= self._settings.queue_records // 2:
            self._consumer.resume([TopicPartition(self._settings.topic, lane.partition)])
            lane.paused = False

    def _tell_idle(self, lane: _Lane, now: float) -> None:
        if not self._settings.idle_after_s:
            return
        if lane.waiting() or lane.busy or not self._at_end(lane):
            lane.quiet_since = now
        elif now - lane.quiet_since >= self._settings.idle_after_s:
            lane.quiet_since = now
            lane.tell_idle(int((time.time() - self._settings.idle_grace_s) * 1000))

    def _at_end(self, lane: _Lane) -> bool:
        try:
            ends = self._consumer.get_watermark_offsets(
                TopicPartition(self._settings.topic, lane.partition), cached=True
            )
        except KafkaException:
            return False
        # Before the first fetch both are unknown, which librdkafka spells as a negative offset.
        low, high = ends
        return high >= 0 and (low == high or (lane.runner.position or 0) >= high)

    def _commit(self, *, asynchronous: bool) -> None:
        done = [lane for lane in self._lanes.values() if lane.uncommitted()]
        if not done:
            return
        offsets = [TopicPartition(self._settings.topic, lane.partition, lane.runner.position or 0) for lane in done]
        try:
            if asynchronous:
                self._consumer.commit(offsets=offsets, asynchronous=True)
            else:
                self._consumer.commit(offsets=offsets, asynchronous=False)
        except KafkaException as exc:
            # Harmless: the position that counts is in the checkpoint, and the next turn commits again.
            log.debug("commit: %s", exc)
            return
        for lane in done:
            lane.committed = lane.runner.position

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        starts = []
        for item in partitions:
            runner = Runner(
                item.partition, self._factory, self._publisher, self._store, self._runner_settings, self._stopping.wait
            )
            try:
                position = runner.open()
            except Abandoned:
                return
            starts.append(
                TopicPartition(item.topic, item.partition, OFFSET_BEGINNING if position is None else position)
            )
            lane = _Lane(runner, item.partition, self._settings.batch_records)
            self._lanes[item.partition] = lane
            lane.start()
        consumer.assign(starts)
        log.info("assigned %s of %s", [item.partition for item in partitions], self._settings.topic)

    def _revoked(self, _consumer: Consumer, _partitions: list[TopicPartition]) -> None:
        self._close_lanes(self._settings.drain_s)
        self._commit(asynchronous=False)
        self._lanes.clear()

    def _lost(self, _consumer: Consumer, _partitions: list[TopicPartition]) -> None:
        self._close_lanes(self._settings.drain_s)
        self._lanes.clear()

    def _close_lanes(self, timeout_s: float) -> None:
        for lane in self._lanes.values():
            lane.ask_to_stop()
        deadline = time.monotonic() + timeout_s
        for lane in self._lanes.values():
            lane.join(max(0.0, deadline - time.monotonic()))

    def _pump(self) -> None:
        # Acknowledgements also come while every lane computes; without this they would wait for the next publish.
        while not self._stopping.is_set():
            self._publisher.poll(0.1)


class _Lane:
    """One partition's queue and the thread that empties it into the runner."""

    def __init__(self, runner: Runner, partition: int, batch_records: int) -> None:
        self.runner, self.partition, self._batch_records = runner, partition, batch_records
        self.paused = False
        self.busy = False
        self.quiet_since = time.monotonic()
        # A crash may have come between checkpoint and commit, so what was loaded is committed once more.
        self.committed: int | None = None
        self.failure: Exception | None = None
        self._queue: deque[Record] = deque()
        self._idle_ms: int | None = None
        self._stop = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name=f"partition-{partition}", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def put(self, record: Record) -> None:
        """Queue one record."""
        with self._changed:
            self._queue.append(record)
            self._changed.notify()

    def tell_idle(self, idle_ms: int) -> None:
        """Queue the news that the partition is silent."""
        with self._changed:
            self._idle_ms = idle_ms
            self._changed.notify()

    def waiting(self) -> int:
        """Give how many records wait."""
        return len(self._queue)

    def uncommitted(self) -> bool:
        """Tell whether the checkpoint is ahead of the commit."""
        return self.runner.position is not None and self.runner.position != self.committed

    def ask_to_stop(self) -> None:
        """Let the running batch be the last; what waits stays in the topic."""
        with self._changed:
            self._stop = True
            self._changed.notify()

    def join(self, timeout_s: float) -> None:
        """Wait for the running batch."""
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            log.warning("partition %d: its batch did not finish in time; it will be done again", self.partition)

    def _work(self) -> None:
        try:
            while True:
                records, idle_ms = self._next()
                if not records and idle_ms is None:
                    return
                self.runner.take(records, idle_ms)
                self.busy = False
        except Abandoned as exc:
            log.info("%s", exc)
        except Exception as exc:  # noqa: BLE001 - handed to the host's thread, which ends the worker
            self.failure = exc

    def _next(self) -> tuple[Sequence[Record], int | None]:
        with self._changed:
            while not self._stop and not self._queue and self._idle_ms is None:
                self._changed.wait()
            if self._stop:
                return (), None
            self.busy = True
            count = min(len(self._queue), self._batch_records)
            records = [self._queue.popleft() for _ in range(count)]
            # Silence counts only when nothing came in after it.
            idle_ms, self._idle_ms = (None if records else self._idle_ms), None
            return records, idle_ms


def _client(settings: HostSettings) -> dict[str, str | int | bool]:
    client: dict[str, str | int | bool] = {
        "bootstrap.servers": settings.bootstrap,
        "group.id": settings.group,
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "earliest",
        # Range puts partition p of every topic on the same worker, so state stays with its input.
        "partition.assignment.strategy": "range",
        "session.timeout.ms": settings.session_timeout_ms,
        "heartbeat.interval.ms": settings.session_timeout_ms // 3,
        "fetch.wait.max.ms": 100,
        "queued.max.messages.kbytes": 16 * 1024,
        "log_level": 3,
        **settings.extra,
    }
    if settings.instance:
        client["group.instance.id"] = settings.instance
    return client


def _record(message: Message) -> Record:
    return Record(
        message.topic() or "",
        message.partition() or 0,
        message.offset() or 0,
        message.key(),
        message.value(),
        _headers(message),
        message.timestamp()[1],
    )


def _headers(message: Message) -> Headers:
    # librdkafka gives a list of pairs of text and bytes; the client's annotation allows more than it ever returns.
    pairs: Any = message.headers() or ()
    return tuple(pairs)
