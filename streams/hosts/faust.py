"""The faust-streaming host, in the one shape that loses nothing: one agent, concurrency 1, `take_events`, raw bytes.

Faust commits past messages when an agent runs concurrently, uses `noack`, or lets an exception out (measured with
0.15.3), so none of these happens here. The checkpoint rule is `runner.py`'s, as on every host; Faust's own commit only
follows it, and where Faust starts past a checkpoint the records between are read again. A stage runs in a thread, so
that Faust's loop keeps its heartbeats.
"""

from __future__ import annotations

import asyncio
import logging
import tempfile
import threading
import time
from typing import Any, Final

try:
    import faust
except ModuleNotFoundError as missing:
    from streams.errors import MissingExtra

    raise MissingExtra("the faust host", "faust", "faust") from missing

from streams.errors import StreamError, Unavailable
from streams.hosts.runner import Abandoned, Runner, RunnerSettings
from streams.hosts.settings import HostSettings
from streams.reading import Reader
from streams.stage import Publisher, Record, StageFactory, StateStore

log = logging.getLogger(__name__)

_LOOK_S: Final = 0.1
_QUIET_LOOKS: Final = 3


class FaustHost:
    """Runs a stage over one Kafka topic as a Faust worker."""

    def __init__(
        self,
        settings: HostSettings,
        runner: RunnerSettings,
        factory: StageFactory,
        publisher: Publisher,
        store: StateStore,
    ) -> None:
        if settings.extra or settings.instance:
            raise StreamError(
                "the faust host: expected no client settings and no instance name; the native host has both"
            )
        self._settings, self._runner_settings, self._factory = settings, runner, factory
        self._publisher, self._store = publisher, store
        self._reader = Reader(settings.bootstrap)
        self._stopping = threading.Event()
        # Replaced as a whole when partitions are revoked, so that a batch which still runs leaves nothing behind.
        self._runners: dict[int, Runner] = {}
        self._quiet_since: dict[int, float] = {}
        self._turn = asyncio.Lock()
        self._failure: Exception | None = None
        self._undone = False
        self._joined = False
        self._busy = False
        self._app: Any = None
        self._stream: Any = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._done: asyncio.Event | None = None

    def run(self) -> None:
        """Work until `stop`; then finish the running batch, commit and leave the group.

        Raises:
            StreamError: a checkpoint cannot be read.
        """
        ended = threading.Event()
        pump = threading.Thread(target=self._pump, args=(ended,), name="publisher-poll", daemon=True)
        pump.start()
        try:
            # Faust makes a folder for tables, which no stage uses; by default in the working directory.
            with tempfile.TemporaryDirectory(prefix="sidelight-faust-") as folder:
                asyncio.run(self._main(folder))
        finally:
            ended.set()
            pump.join()
        if self._failure is not None:
            raise StreamError(str(self._failure)) from self._failure

    def stop(self) -> None:
        """Ask `run` to drain and return. Any thread may call it."""
        self._stopping.set()
        if self._loop is not None and self._done is not None:
            self._loop.call_soon_threadsafe(self._done.set)

    def ready(self) -> bool:
        """Say whether it has joined its group, with partitions or without, and works."""
        return self._joined and not self._stopping.is_set()

    def lost(self) -> str:
        """Say why it does not go on, empty when it does: Faust ends the process when it does not."""
        return ""

    def runners(self) -> dict[int, Runner]:
        """Give the runners of the partitions that have been worked on."""
        return dict(self._runners)

    def waiting(self) -> int:
        """Give how many records have been read and wait for their stage."""
        return 0 if self._stream is None else int(self._stream.channel.queue.qsize())

    def lags(self) -> dict[int, int]:
        """Give, for each partition that has been worked on and whose end is known, how many records are not done."""
        found = {}
        for partition, runner in self.runners().items():
            high = self._highwater(partition)
            if high is not None:
                found[partition] = max(0, high - (runner.position or 0))
        return found

    async def _main(self, folder: str) -> None:
        self._loop, self._done = asyncio.get_running_loop(), asyncio.Event()
        app = self._app = self._built(folder)
        idle = asyncio.create_task(self._idle())
        await app.start()
        if self._stopping.is_set():
            self._done.set()
        await self._done.wait()
        idle.cancel()
        if not await self._drained(app):
            # Faust commits what it holds when it stops, done or not; one that is not stopped never ends.
            app.consumer.force_commit = _nothing
        await asyncio.wait_for(app.stop(), self._settings.drain_s)

    async def _drained(self, app: Any) -> bool:  # noqa: ANN401 - faust ships no types
        """Let nothing new in and wait for the running batch: a cancelled one would be committed undone."""
        app.flow_control.suspend()
        deadline = time.monotonic() + self._settings.drain_s
        quiet = 0
        while quiet < _QUIET_LOOKS:
            if self._undone or time.monotonic() > deadline:
                return False
            await asyncio.sleep(_LOOK_S)
            quiet = 0 if self._busy or self._turn.locked() else quiet + 1
        return True

    def _built(self, folder: str) -> Any:  # noqa: ANN401 - faust ships no types
        settings = self._settings
        app = faust.App(
            settings.group,
            broker=f"kafka://{settings.bootstrap}",
            value_serializer="raw",
            datadir=folder,
            web_enabled=False,
            topic_disable_leader=True,
            topic_allow_declare=False,
            broker_session_timeout=settings.session_timeout_ms / 1000,
            broker_heartbeat_interval=settings.session_timeout_ms / 3000,
            broker_commit_interval=0.5,
            consumer_auto_offset_reset="earliest",
            stream_wait_empty=False,
            stream_buffer_maxsize=settings.queue_records,
        )
        topic = app.topic(
            settings.topic, key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw"
        )

        async def work(stream: Any) -> None:  # noqa: ANN401 - as above
            self._stream = stream
            async for events in stream.take_events(settings.batch_records, within=settings.batch_ms / 1000):
                await self._take([event.message for event in events])

        app.agent(topic, concurrency=1)(work)
        app.on_partitions_revoked.connect(self._released, weak=False)
        app.on_partitions_assigned.connect(self._taken_in, weak=False)
        return app

    async def _released(self, *_: Any, **__: Any) -> None:  # noqa: ANN401 - what faust passes differs
        """Let the running batch finish, within bounds; then forget every state: it goes with the partitions."""
        try:
            await asyncio.wait_for(self._turn.acquire(), self._settings.session_timeout_ms / 2000)
        except TimeoutError:
            for runner in self._runners.values():
                runner.abandon()
        else:
            self._turn.release()
        self._runners, self._quiet_since = {}, {}

    async def _taken_in(self, *_: Any, **__: Any) -> None:  # noqa: ANN401 - what faust passes differs
        """Note that the group has said which partitions are this worker's: none, when others have them all."""
        await self._released()
        self._joined = True

    async def _take(self, messages: list[Any]) -> None:
        """Bring messages to their effect. No exception leaves: Faust would count the messages as done."""
        by_partition: dict[int, list[Record]] = {}
        for message in messages:
            by_partition.setdefault(message.partition, []).append(_record(message))
        self._busy = True
        for partition, records in by_partition.items():
            async with self._turn:
                # What Faust still held of a partition that has gone is its next owner's.
                if partition in self._assigned():
                    self._quiet_since[partition] = time.monotonic()
                    await self._guarded(partition, records, None)
        self._busy = False

    async def _guarded(self, partition: int, records: list[Record], idle_ms: int | None) -> None:
        try:
            await asyncio.to_thread(self._run_one, self._runners, partition, records, idle_ms)
        except Abandoned as exc:
            log.info("%s", exc)
            if self._stopping.is_set():
                await self._leave_undone()
        except Exception as exc:  # noqa: BLE001 - see `_take`; the worker ends, with the messages not committed
            self._failure = exc
            await self._leave_undone()

    async def _leave_undone(self) -> None:
        """End the worker from inside the batch, so that its messages stay unacknowledged."""
        self._undone = True
        self.stop()
        await asyncio.Event().wait()

    def _run_one(self, runners: dict[int, Runner], partition: int, records: list[Record], idle_ms: int | None) -> None:
        runner = runners.get(partition)
        if runner is None:
            runner = runners[partition] = Runner(
                partition, self._factory, self._publisher, self._store, self._runner_settings, self._stopping.wait
            )
            runner.open()
        stretch: list[Record] = []
        for record in records:
            following = stretch[-1].offset + 1 if stretch else runner.position or 0
            if record.offset > following:
                runner.take(stretch)
                stretch = []
                self._take_left_out(runner, record.topic, partition, following, record.offset)
            stretch.append(record)
        runner.take(stretch, idle_ms)

    def _take_left_out(self, runner: Runner, topic: str, partition: int, start: int, end: int) -> None:
        """Take what Faust left out because its commit was ahead of the checkpoint; mostly it is a hole in the log."""
        while start < end:
            try:
                found = self._reader.read(topic, partition, start, end, self._settings.batch_records)
            except Unavailable as exc:
                log.warning("partition %d: %s", partition, exc)
                if self._stopping.wait(1.0):
                    raise Abandoned(f"partition {partition}: given up before offset {start} could be read") from exc
                continue
            if not found:
                return
            log.warning("partition %d: %d records that Faust left out from offset %d", partition, len(found), start)
            runner.take(found)
            start = found[-1].offset + 1

    async def _idle(self) -> None:
        """Tell the stages of silent partitions, as the native host does."""
        while self._settings.idle_after_s:
            await asyncio.sleep(self._settings.idle_after_s / 4)
            for partition in self._assigned():
                async with self._turn:
                    if self._silent(partition):
                        await self._guarded(partition, [], int((time.time() - self._settings.idle_grace_s) * 1000))

    def _silent(self, partition: int) -> bool:
        now = time.monotonic()
        high = self._highwater(partition)
        position = self._runners[partition].position if partition in self._runners else None
        at_end = high is not None and (high == 0 or (position is not None and position >= high))
        since = self._quiet_since.setdefault(partition, now)
        if at_end and now - since < self._settings.idle_after_s:
            return False
        self._quiet_since[partition] = now
        return at_end

    def _assigned(self) -> tuple[int, ...]:
        consumer = self._app.consumer
        return () if consumer is None else tuple(item.partition for item in consumer.assignment())

    def _highwater(self, partition: int) -> int | None:
        high = self._app.consumer.highwater(faust.types.TP(self._settings.topic, partition))
        return None if high is None else int(high)

    def _pump(self, ended: threading.Event) -> None:
        while not ended.is_set():
            self._publisher.poll(0.1)


async def _nothing(*_: Any, **__: Any) -> bool:  # noqa: ANN401 - in the place of a method of faust's
    return False


def _record(message: Any) -> Record:  # noqa: ANN401 - as above
    return Record(
        message.topic,
        message.partition,
        message.offset,
        message.key,
        message.value,
        # The raw list: Faust's own view is a dict, which loses duplicates.
        tuple(message.headers.items() if isinstance(message.headers, dict) else message.headers or ()),
        int(message.timestamp * 1000),
    )
