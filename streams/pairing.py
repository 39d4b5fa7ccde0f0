"""Pairs requests with responses inside one partition. Pure: decided record by record, by event time, within bounds.

A watermark follows the events' own time, so what expires, and when, is the same in every replay. Rows are ordered by
the watermark at which they completed, which never goes back. Next on the path: `streams/assembler.py`.
"""

from __future__ import annotations

import itertools
import struct
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Final

from streams import records
from streams.bindings import from_kafka
from streams.errors import InvalidEvent, StreamError
from streams.events import COMPONENT, LATENCY_US, REQUEST_TYPE, RESPONSE_TYPE, STATUS_CODE, Event, parse_time
from streams.settings import PairingSettings
from streams.stage import Record

_SKEW_MS: Final = 3_600_000
"""How far an event's clock may run ahead of the broker's: an event from the year 3000 must not stop the merge."""
_SLACK_US: Final = 1_000_000
"""How far the start that a response tells may be from its request's time, in microseconds."""
_CANDIDATES: Final = 64
"""Waiting partners of one correlation id that are looked at, the newest first."""
_DIGEST: Final = 8
_HEAD: Final = struct.Struct("<qII")
"""Watermark, number of waiting events, number of remembered digests."""
_ORDER: Final = struct.Struct("<q")
# What a record and a header cost in memory and in a checkpoint beside their content.
_RECORD_COST: Final = 512
_HEADER_COST: Final = 64
_PARTNER: Final = {REQUEST_TYPE: RESPONSE_TYPE, RESPONSE_TYPE: REQUEST_TYPE}


class Undecodable(Exception):
    """A codec cannot decode an exchange; both of its events go to the dead letters."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


@dataclass(frozen=True, slots=True)
class Held:
    """An event and the record that it came in."""

    event: Event
    record: Record
    order_ms: int
    """The watermark when it came."""
    at_us: int | None
    """The event's own time."""
    identity: bytes
    """What it is known again by."""
    shared: tuple[str, ...]
    """What it shares with its partner."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request and its response."""

    request: Held
    response: Held
    record: Record
    """The record that completed the pair."""
    order_ms: int

    @property
    def status(self) -> int:
        """HTTP status; a KServe agent logs only what was answered with 200, and says nothing. 0 is none at all."""
        event = self.response.event
        return (event.number(STATUS_CODE) or 0) if event.text(STATUS_CODE) else 200


@dataclass(frozen=True, slots=True)
class Rejected:
    """A record that will not be paired, and why."""

    record: Record
    reason: str
    detail: str


@dataclass(slots=True)
class Taken:
    """What one record led to."""

    exchange: Exchange | None = None
    rejected: list[Rejected] = field(default_factory=list)
    duplicate: bool = False


class Pairing:
    """The pairing of one partition.

    An event is known again by service, component, source, id and type: KServe's agents give both events of an exchange
    one id. Partners share service, component and correlation id; when a client uses one correlation id for several
    calls, the start that a response tells (its time less its latency) finds its own request.
    """

    def __init__(self, settings: PairingSettings) -> None:
        self._settings = settings
        self._pending: OrderedDict[bytes, Held] = OrderedDict()
        self._sizes: dict[bytes, int] = {}
        self._pending_bytes = 0
        self._sought: dict[str, dict[tuple[str, ...], dict[bytes, None]]] = {kind: {} for kind in _PARTNER}
        """Which events wait, by type and by what they share with their partner."""
        self._completed: OrderedDict[bytes, None] = OrderedDict()
        self.watermark_ms = 0

    def take(self, record: Record) -> Taken:
        """Take one record, in offset order."""
        try:
            event = from_kafka(record.headers, record.value)
        except InvalidEvent as exc:
            return Taken(rejected=[Rejected(record, exc.reason, exc.detail)])
        at_us = None if event.time is None else parse_time(event.time)
        self._advance(at_us, record)
        taken = Taken()
        if event.type in _PARTNER:
            self._match(_held(event, record, self.watermark_ms, at_us), taken)
        else:
            detail = f"type {event.type!r}: expected {REQUEST_TYPE} or {RESPONSE_TYPE}"
            taken.rejected.append(Rejected(record, "unexpected-type", detail))
        # After the match: an exchange that took longer than the expiry is whole when its response is there in time.
        taken.rejected += self._expired()
        taken.rejected += self._evicted()
        return taken

    def advance_to(self, idle_ms: int) -> list[Rejected]:
        """Move the watermark to a time at which nothing older is expected; give what expired by it."""
        self.watermark_ms = max(self.watermark_ms, idle_ms)
        return list(self._expired())

    def waiting(self) -> int:
        """Give how many events wait for their partner."""
        return len(self._pending)

    def snapshot(self) -> bytes:
        """Give the complete state."""
        parts = [_HEAD.pack(self.watermark_ms, len(self._pending), len(self._completed)), *self._completed]
        for held in self._pending.values():
            parts += (_ORDER.pack(held.order_ms), records.pack(held.record))
        return b"".join(parts)

    def restore(self, state: bytes) -> None:
        """Take what `snapshot` gave.

        Raises:
            StreamError: it is cut off, or something follows it.
        """
        self._pending.clear()
        self._sizes.clear()
        self._pending_bytes = 0
        self._sought = {kind: {} for kind in _PARTNER}
        try:
            self.watermark_ms, pending, completed = _HEAD.unpack_from(state)
            at = _HEAD.size + completed * _DIGEST
            digests = (state[place : place + _DIGEST] for place in range(_HEAD.size, at, _DIGEST))
            self._completed = OrderedDict.fromkeys(digests)
            for _ in range(pending):
                (order_ms,) = _ORDER.unpack_from(state, at)
                record, at = records.unpack(state, at + _ORDER.size)
                event = from_kafka(record.headers, record.value)
                at_us = None if event.time is None else parse_time(event.time)
                self._hold(_held(event, record, order_ms, at_us))
        except struct.error as exc:
            raise StreamError(f"pairing state: cut off after {len(state)} bytes") from exc
        if at != len(state):
            raise StreamError(f"pairing state: {len(state) - at} bytes follow its end")

    def _advance(self, at_us: int | None, record: Record) -> None:
        at_ms = record.timestamp_ms if at_us is None else at_us // 1000
        if record.timestamp_ms > 0:
            at_ms = min(at_ms, record.timestamp_ms + _SKEW_MS)
        self.watermark_ms = max(self.watermark_ms, at_ms)

    def _match(self, held: Held, taken: Taken) -> None:
        own = held.identity
        if own in self._pending or own in self._completed:
            taken.duplicate = True
            return
        found = self._partner(held)
        if found is None:
            self._hold(held)
            return
        other = self._release(found)
        self._remember(own)
        self._remember(found)
        request, response = (held, other) if held.event.type == REQUEST_TYPE else (other, held)
        taken.exchange = Exchange(request, response, held.record, self.watermark_ms)

    def _partner(self, held: Held) -> bytes | None:
        """Give the identity of the event that completes one, if it waits."""
        sought = self._sought[_PARTNER[held.event.type]].get(held.shared)
        if not sought:
            return None
        best, least = None, _SLACK_US + 1
        for identity in itertools.islice(reversed(sought), _CANDIDATES):
            gap = _gap(held, self._pending[identity])
            if gap is None:
                # Nothing tells them apart: first come, first served.
                return next(iter(sought))
            if gap < least:
                best, least = identity, gap
        return best

    def _hold(self, held: Held) -> None:
        self._pending[held.identity] = held
        self._sizes[held.identity] = size = _size(held.record)
        self._pending_bytes += size
        self._sought[held.event.type].setdefault(held.shared, {})[held.identity] = None

    def _release(self, identity: bytes) -> Held:
        held = self._pending.pop(identity)
        self._pending_bytes -= self._sizes.pop(identity)
        sought = self._sought[held.event.type]
        del sought[held.shared][identity]
        if not sought[held.shared]:
            del sought[held.shared]
        return held

    def _remember(self, identity: bytes) -> None:
        self._completed[identity] = None
        while len(self._completed) > self._settings.completed_memory:
            self._completed.popitem(last=False)

    def _expired(self) -> Iterator[Rejected]:
        # Pending events came in watermark order, so the oldest is always first.
        limit = self.watermark_ms - self._settings.expiry_ms
        while self._pending:
            identity, held = next(iter(self._pending.items()))
            if held.order_ms >= limit:
                return
            self._release(identity)
            missing = _PARTNER[held.event.type].rpartition(".")[2]
            detail = f"no {missing} within {self._settings.expiry_ms} ms of event time"
            yield Rejected(held.record, "unpaired", detail)

    def _evicted(self) -> Iterator[Rejected]:
        bounds = self._settings
        while len(self._pending) > bounds.max_pending or self._pending_bytes > bounds.max_pending_bytes:
            held = self._release(next(iter(self._pending)))
            detail = f"more than {bounds.max_pending} events or {bounds.max_pending_bytes} bytes waited"
            yield Rejected(held.record, "evicted", detail)


def _held(event: Event, record: Record, order_ms: int, at_us: int | None) -> Held:
    service, component = event.service(), event.text(COMPONENT)
    parts = f"{service}\x1f{component}\x1f{event.source}\x1f{event.id}\x1f{event.type}"
    identity = blake2b(parts.encode(), digest_size=_DIGEST).digest()
    return Held(event, record, order_ms, at_us, identity, (service, component, event.correlation()))


def _gap(held: Held, other: Held) -> int | None:
    """Give how far the response's start is from the request's time; None when the events do not tell."""
    request, response = (held, other) if held.event.type == REQUEST_TYPE else (other, held)
    latency = response.event.number(LATENCY_US)
    if latency is None or request.at_us is None or response.at_us is None:
        return None
    return abs(response.at_us - latency - request.at_us)


def _size(record: Record) -> int:
    size = _RECORD_COST + _HEADER_COST * len(record.headers) + len(record.key or b"") + len(record.value or b"")
    for name, value in record.headers:
        size += len(name) + len(value or b"")
    return size
