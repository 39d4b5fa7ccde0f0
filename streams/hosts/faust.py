"""The faust-streaming host, in the one shape that loses nothing: one agent, concurrency 1, `take_events`, raw bytes.

Faust commits past messages when an agent runs concurrently, uses `noack`, or lets an exception out (measured with
0.15.3), so none of these happens here. The checkpoint rule is `runner.py`'s, as on every host; Faust's own commit only
follows it. A stage runs in a thread, so that Faust's loop keeps its heartbeats.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from typing import Any, Final

try:
    import faust
except ModuleNotFoundError as missing:
    from streams.errors import MissingExtra

    raise MissingExtra("the faust host", "faust", "faust") from missing

from streams.errors import StreamError
from streams.hosts.runner import Runner, RunnerSettings
from streams.hosts.settings import HostSettings
from streams.stage import Publisher, Record, StageFactory, StateStore

log = logging.getLogger(__name__)

_WITHIN_S: Final = 0.1
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
        self._settings, self._runner_settings, self._factory = settings, runner, factory
        self._publisher, self._store = publisher, store
        self._stopping = threading.Event()
        self._runners: dict[int, Runner] = {}
        self._quiet_since: dict[int, float] = {}
        self._failure: Exception | None = None
        self._busy = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._done: asyncio.Event | None = None

    def run(self) -> None:
        """Work until `stop`; then finish the running batch, commit and leave the group.

        Raises:
            StreamError: a checkpoint cannot be read.
        """
        pump = threading.Thread(target=self._pump, name="publisher-poll", daemon=True)
        pump.start()
        try:
            asyncio.run(self._main())
        finally:
            self._stopping.set()
            pump.join()
        if self._failure is not None:
            raise StreamError(str(self._failure)) from self._failure

    def stop(self) -> None:
        """Ask `run` to drain and return. Any thread may call it."""
        self._stopping.set()
        if self._loop is not None and self._done is not None:
            self._loop.call_soon_threadsafe(self._done.set)

    def runners(self) -> dict[int, Runner]:
        """Give the runners of the partitions that have been worked on."""
        return dict(self._runners)

    async def _main(self) -> None:
        self._loop, self._done = asyncio.get_running_loop(), asyncio.Event()
        app = self._app()
        idle = asyncio.create_task(self._idle(app))
        await app.start()
        if self._stopping.is_set():
            self._done.set()
        await self._done.wait()
        idle.cancel()
        if self._failure is not None or not await self._drained(app):
            # Faust commits what it holds when it stops, done or not; a worker that just ends is like one that crashed.
            return
        await asyncio.wait_for(app.stop(), self._settings.drain_s)

    async def _drained(self, app: Any) -> bool:  # noqa: ANN401 - faust ships no types
        """Let nothing new in and wait for the running batch: a cancelled one would be committed undone."""
        app.flow_control.suspend()
        deadline = time.monotonic() + self._settings.drain_s
        quiet = 0
        while quiet < _QUIET_LOOKS:
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(_WITHIN_S)
            quiet = 0 if self._busy else quiet + 1
        return True

    def _app(self) -> Any:  # noqa: ANN401 - faust ships no types
        settings = self._settings
        app = faust.App(
            settings.group,
            broker=f"kafka://{settings.bootstrap}",
            value_serializer="raw",
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
            async for events in stream.take_events(settings.batch_records, within=_WITHIN_S):
                await self._take([event.message for event in events])

        app.agent(topic, concurrency=1)(work)
        app.on_partitions_revoked.connect(self._revoked, weak=False)
        return app

    def _revoked(self, _app: Any, /, *given: Any, signal: Any = None, **_: Any) -> None:  # noqa: ANN401, ARG002 - faust's
        # State goes with the partition; whoever gets it next reads it from the topic.
        for item in given[0]:
            self._runners.pop(item.partition, None)

    async def _take(self, messages: list[Any]) -> None:
        """Bring messages to their effect. No exception leaves: Faust would count the messages as done."""
        by_partition: dict[int, list[Record]] = {}
        for message in messages:
            by_partition.setdefault(message.partition, []).append(_record(message))
        self._busy = True
        for partition, records in by_partition.items():
            self._quiet_since[partition] = time.monotonic()
            await self._guarded(partition, records, None)
        self._busy = False

    async def _guarded(self, partition: int, records: list[Record], idle_ms: int | None) -> None:
        try:
            await asyncio.to_thread(self._run_one, partition, records, idle_ms)
        except Exception as exc:  # noqa: BLE001 - see `_take`; the worker ends, with the messages not committed
            self._failure = exc
            self.stop()
            await self._hold()

    def _run_one(self, partition: int, records: list[Record], idle_ms: int | None) -> None:
        runner = self._runners.get(partition)
        if runner is None:
            runner = Runner(
                partition, self._factory, self._publisher, self._store, self._runner_settings, self._stopping.wait
            )
            runner.open()
            self._runners[partition] = runner
        runner.take(records, idle_ms)

    async def _hold(self) -> None:
        """Wait for the end inside the batch, so that its messages stay unacknowledged."""
        await asyncio.Event().wait()

    async def _idle(self, app: Any) -> None:  # noqa: ANN401 - as above
        """Tell the stages of silent partitions, as the native host does."""
        while self._settings.idle_after_s:
            await asyncio.sleep(self._settings.idle_after_s / 4)
            now = time.monotonic()
            for item in list(app.consumer.assignment()) if app.consumer is not None else []:
                partition, highwater = item.partition, app.consumer.highwater(item)
                position = self._runners[partition].position if partition in self._runners else None
                at_end = highwater is not None and (highwater == 0 or (position is not None and position >= highwater))
                since = self._quiet_since.setdefault(partition, now)
                if not at_end:
                    self._quiet_since[partition] = now
                elif now - since >= self._settings.idle_after_s:
                    self._quiet_since[partition] = now
                    await self._guarded(partition, [], int((time.time() - self._settings.idle_grace_s) * 1000))

    def _pump(self) -> None:
        while not self._stopping.is_set():
            self._publisher.poll(0.1)


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
