"""The batcher: a process between the proxies and the model that joins calls and splits the answer.

It is a process of its own because reading JSON would stop a proxy's event loop, because one batcher serves all proxies,
and because the logger in front of it logs what clients sent and got. Every client gets what it would have got alone:
calls are joined only when path, query, relevant headers, parameters and columns are equal, and whenever the answer to a
batch cannot be shared out, each of its calls is made by itself, once.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, Final

from logger.batching.calls import Answer, Lost, Model, Unreachable
from logger.batching.front import LENGTH, Call, Door, written
from logger.batching.gathering import Gathering, Group
from logger.batching.likeness import codec_of, shared
from logger.batching.parts import Codec, Part
from logger.batching.settings import BatchSettings
from logger.batching.tally import BATCHES, CALLS, ERRORS, FALLBACKS, JOINED, WAITING, BatchTally
from logger.heads import Fields
from logger.settings import ProxySettings

log = logging.getLogger(__name__)

_JSON: Final = frozenset({b"", b"application/json", b"application/json; charset=utf-8"})
_BINARY: Final = b"application/octet-stream"
_EXPECTED: Final = b"x-envoy-expected-rq-timeout-ms"
_MOST_SUSPENDED: Final = 1_024
# The model's word on every call alike: it does not know the caller or the path, or it is overloaded, and asking it once
# for each member would make that worse. Any other error may be about one member's rows, or the size of the batch.
_FOR_ALL: Final = frozenset({401, 403, 404, 405, 407, 408, 429, 501, 502, 503, 504, 505})
_OK: Final = range(200, 300)


@dataclass(slots=True, eq=False)
class _Member:
    """A call that may be joined."""

    call: Call
    part: Part
    codec: Codec
    key: Hashable


class Batcher:
    """Joins calls. All of it runs on one event loop."""

    def __init__(self, settings: BatchSettings, proxy: ProxySettings, tally: BatchTally) -> None:
        self._settings, self._answer_s = settings, proxy.answer_s
        self._model = Model(proxy)
        self._gathering: Gathering[_Member] = Gathering(settings)
        self._members: dict[Call, _Member] = {}
        self._tasks: dict[Call, asyncio.Task[None]] = {}
        self._alive: dict[asyncio.Task[None], int] = {}
        """How many clients still wait for what a task does."""
        self._suspended: dict[Hashable, float] = {}
        self._singles = asyncio.Semaphore(settings.singles)
        self._timer: asyncio.TimerHandle | None = None
        self._ids = itertools.count(1)
        self.doors: set[Door] = set()
        self.tally = tally
        # Those that a predecessor held have gone with it.
        tally.set(WAITING, 0)

    async def serve(self, listening: Any, stopping: asyncio.Event) -> None:  # noqa: ANN401 - a socket, of any kind
        """Take calls until `stopping`; then finish those that are there."""
        loop = asyncio.get_running_loop()
        server = await loop.create_server(self._door, sock=listening)
        await stopping.wait()
        server.close()
        for group in self._gathering.everything():
            self._send(group)
        for door in list(self.doors):
            door.close_when_idle()
        while self._alive:
            await asyncio.wait(list(self._alive))
        self._model.close()
        log.info(
            "batcher drained: %d calls, %d of them joined into %d batches, %d batches made one by one",
            *map(self.tally.get, (CALLS, JOINED, BATCHES, FALLBACKS)),
        )  # fmt: skip

    def take(self, call: Call) -> None:
        """Take a whole call; see `logger.batching.front.Receiver`."""
        self.tally.add(CALLS)
        member = self._member(call)
        if member is None:
            self._start(self._alone(call), [call])
            return
        now = time.monotonic()
        self._members[call] = member
        due = now + min(self._settings.max_latency_ms / 1000, _patience(call))
        for group in self._gathering.add(member.key, member, member.part.rows, len(call.body), now, due):
            self._send(group)
        self.tally.set(WAITING, len(self._members))
        self._wind(now)

    def gone(self, call: Call) -> None:
        """A client has gone: what nobody waits for is not done; see `logger.batching.front.Receiver`."""
        member = self._members.pop(call, None)
        if member is not None:
            self.tally.set(WAITING, len(self._members))
            self._gathering.remove(member.key, member, member.part.rows, len(call.body))
        task = self._tasks.pop(call, None)
        if task is not None:
            self._alive[task] -= 1
            if not self._alive[task]:
                task.cancel()

    def _door(self) -> Door:
        door = Door(self, self._settings.max_body, self.doors.discard)
        self.doors.add(door)
        return door

    def _member(self, call: Call) -> _Member | None:
        codec = codec_of(call.target)
        length = call.first(LENGTH)
        binary = call.first(b"content-type") == _BINARY and length.isdigit()
        if call.method != b"POST" or not (binary or (call.first(b"content-type").lower() in _JSON and not length)):
            return None
        if not call.body or codec is None:
            return None
        kind = (call.target, tuple(sorted(shared(call.fields))))
        until = self._suspended.get(kind, 0.0)
        if until and until > time.monotonic():
            return None
        part = codec.read(call.body, int(length[:9]) if binary else None)
        if part is None or part.rows >= self._settings.max_rows:
            return None
        return _Member(call, part, codec, (kind, part.key))

    def _send(self, group: Group[_Member]) -> None:
        members = group.members
        for member in members:
            self._members.pop(member.call, None)
        self.tally.set(WAITING, len(self._members))
        self._start(self._together(group.key, members), [member.call for member in members])

    def _start(self, work: Any, calls: list[Call]) -> None:  # noqa: ANN401 - a coroutine
        task = asyncio.get_running_loop().create_task(work)
        self._alive[task] = len(calls)
        for call in calls:
            self._tasks[call] = task
        task.add_done_callback(lambda done: self._done(done, calls))

    def _done(self, task: asyncio.Task[None], calls: list[Call]) -> None:
        del self._alive[task]
        for call in calls:
            self._tasks.pop(call, None)
        if not task.cancelled() and task.exception() is not None:
            log.error("a call of the model failed", exc_info=task.exception())
            self.tally.add(ERRORS)
            for call in calls:
                self._refuse(call, 502, "the batcher failed")

    async def _together(self, key: Hashable, members: list[_Member]) -> None:
        try:
            if len(members) == 1:
                await self._alone(members[0].call)
            else:
                await self._joined(key, members)
        finally:
            for group in self._gathering.over(key):
                self._send(group)
            self._wind(time.monotonic())

    async def _joined(self, key: Hashable, members: list[_Member]) -> None:
        self.tally.sent(len(members), sum(member.part.rows for member in members))
        answer = Answer(self._settings.max_answer)
        problem = await self._asked(self._request(members), answer)
        if problem is not None and problem[0] != _LOST:
            for member in members:
                self._refuse(member.call, *problem)
            return
        bodies = None
        if problem is None and answer.status in _OK and answer.whole:
            bodies = _shared_out(members, answer)
            if bodies is None:
                self._suspend(key)
        elif problem is None and answer.status in _FOR_ALL and answer.whole:
            bodies = [(answer.body, None)] * len(members)
        if bodies is None:
            await self._each(members)
            return
        for member, (body, length) in zip(members, bodies, strict=True):
            member.call.answer(answer.status, answer.reason, _answer_fields(answer, length), body)

    def _request(self, members: list[_Member]) -> bytes:
        """Write a batch as one call; what was each client's own is not in it."""
        first = members[0]
        body, length = first.codec.join([member.part for member in members])
        fields: Fields = [(b"x-request-id", b"batch-%x-%d" % (_BOOT, next(self._ids)))]
        fields += shared(first.call.fields)
        if length is not None:
            fields.append((LENGTH, b"%d" % length))
        return written(b"POST", first.call.target, fields, body)

    async def _each(self, members: list[_Member]) -> None:
        """Make each call by itself, once: one client's bad rows are not the others' business."""
        self.tally.add(FALLBACKS)

        async def one(call: Call) -> None:
            async with self._singles:
                if call.door is not None:
                    await self._alone(call)

        await asyncio.gather(*(one(member.call) for member in members))

    async def _alone(self, call: Call) -> None:
        """Make one call as it came; its answer goes out as it comes in."""
        problem = await self._asked(call.request(), call)
        if problem is None:
            call.end()
        else:
            self._refuse(call, *problem)

    def _refuse(self, call: Call, status: int, reason: str) -> None:
        if call.door is not None:
            self.tally.refused(status)
            call.refuse(status, reason)

    async def _asked(self, request: bytes, sink: Any) -> tuple[int, str] | None:  # noqa: ANN401 - a Sink
        """Call the model; give status and reason when there is no whole answer."""
        try:
            async with asyncio.timeout(self._answer_s):
                await self._model.call(request, sink)
        except Unreachable as exc:
            return 503, str(exc)
        except Lost as exc:
            return _LOST, str(exc)
        except TimeoutError:
            return 504, f"no answer from the model within {self._answer_s:g} s"
        return None

    def _suspend(self, key: Any) -> None:  # noqa: ANN401 - as made in `_member`
        """Stop joining calls of a kind whose answers cannot be split, for a while."""
        now = time.monotonic()
        if len(self._suspended) >= _MOST_SUSPENDED:
            self._suspended = {kind: until for kind, until in self._suspended.items() if until > now}
        if len(self._suspended) < _MOST_SUSPENDED:
            self._suspended[key[0]] = now + self._settings.suspend_s
        log.warning(
            "%s: an answer to a batch has not one row for each of its rows; calls are not joined for %g s",
            key[0][0].decode("latin-1"), self._settings.suspend_s,
        )  # fmt: skip

    def _wind(self, now: float) -> None:
        """Wake up when the next group's time comes."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = self._gathering.next_due()
        if due is not None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(max(0.0, due - now), self._ring)

    def _ring(self) -> None:
        self._timer = None
        now = time.monotonic()
        for group in self._gathering.due(now):
            self._send(group)
        self._wind(now)


def _shared_out(members: list[_Member], answer: Answer) -> list[tuple[bytes, int | None]] | None:
    if answer.first(b"content-encoding"):
        return None
    length = answer.first(LENGTH)
    header_length = int(length[:9]) if length.isdigit() else None
    return members[0].codec.split(answer.body, header_length, [member.part for member in members])


def _answer_fields(answer: Answer, length: int | None) -> Fields:
    fields = [item for item in answer.fields if item[0] not in {LENGTH, b"x-request-id"}]
    return fields if length is None else [*fields, (LENGTH, b"%d" % length)]


def _patience(call: Call) -> float:
    """Give how long a client that has a deadline can wait: half of it, for the model needs time, too."""
    given = call.first(_EXPECTED)
    return int(given[:9]) / 2_000 if given.isdigit() else float("inf")


_LOST: Final = 502
_BOOT: Final = time.time_ns() & 0xFFFFFFFF
