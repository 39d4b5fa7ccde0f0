"""Pairs requests with responses inside one partition. Pure: decided record by record, by event time, within bounds.

A watermark follows the events' own time, so what expires, and when, is the same in every replay. Rows are ordered by
the watermark at which they completed, which never goes back. Next on the path: `streams/assembler.py`.
"""

from __future__ import annotations

import base64
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Final

from streams.bindings import from_kafka
from streams.errors import InvalidEvent
from streams.events import COMPONENT, REQUEST_TYPE, RESPONSE_TYPE, STATUS_CODE, Event, parse_time
from streams.settings import PairingSettings
from streams.stage import Record

_SKEW_MS: Final = 3_600_000
"""How far an event's clock may run ahead of the broker's: an event from the year 3000 must not stop the merge."""


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
        """HTTP status; a KServe agent logs only what was answered with 200, and says nothing."""
        text = self.response.event.text(STATUS_CODE)
        return int(text) if text.isdecimal() else 200


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
    """The pairing of one partition."""

    def __init__(self, settings: PairingSettings) -> None:
        self._settings = settings
        self._pending: OrderedDict[bytes, Held] = OrderedDict()
        self._pending_bytes = 0
        self._completed: OrderedDict[bytes, None] = OrderedDict()
        self.watermark_ms = 0

    def take(self, record: Record) -> Taken:
        """Take one record, in offset order."""
        try:
            event = from_kafka(record.headers, record.value)
            self._advance(event, record)
        except InvalidEvent as exc:
            return Taken(rejected=[*self._expired(), Rejected(record, exc.reason, exc.detail)])
        taken = Taken(rejected=list(self._expired()))
        if event.type not in {REQUEST_TYPE, RESPONSE_TYPE}:
            detail = f"type {event.type!r}: expected {REQUEST_TYPE} or {RESPONSE_TYPE}"
            taken.rejected.append(Rejected(record, "unexpected-type", detail))
            return taken
        self._match(event, record, taken)
        return taken

    def advance_to(self, idle_ms: int) -> list[Rejected]:
        """Move the watermark to a time at which nothing older is expected; give what expired by it."""
        self.watermark_ms = max(self.watermark_ms, idle_ms)
        return list(self._expired())

    def waiting(self) -> int:
        """Give how many events wait for their partner."""
        return len(self._pending)

    def state(self) -> dict[str, Any]:
        """Give everything as JSON-able values."""
        return {
            "watermark": self.watermark_ms,
            "pending": [_pack(held) for held in self._pending.values()],
            "completed": base64.b64encode(b"".join(self._completed)).decode(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take what `state` gave."""
        self.watermark_ms = state["watermark"]
        self._pending.clear()
        self._pending_bytes = 0
        for packed in state["pending"]:
            held = _unpack(packed)
            self._hold(_key(held.event, held.event.type), held)
        digests = base64.b64decode(state["completed"])
        self._completed = OrderedDict((digests[at : at + 8], None) for at in range(0, len(digests), 8))

    def _advance(self, event: Event, record: Record) -> None:
        if event.time is None:
            at_ms = record.timestamp_ms
        else:
            at_ms = parse_time(event.time) // 1000
            if record.timestamp_ms > 0:
                at_ms = min(at_ms, record.timestamp_ms + _SKEW_MS)
        self.watermark_ms = max(self.watermark_ms, at_ms)

    def _match(self, event: Event, record: Record, taken: Taken) -> None:
        own = _key(event, event.type)
        if own in self._pending or own in self._completed:
            taken.duplicate = True
            return
        held = Held(event, record, self.watermark_ms)
        other = self._release(_key(event, _partner(event.type)))
        if other is None:
            self._hold(own, held)
            taken.rejected += self._evicted()
            return
        self._remember(own)
        self._remember(_key(event, other.event.type))
        request, response = (held, other) if event.type == REQUEST_TYPE else (other, held)
        taken.exchange = Exchange(request, response, record, self.watermark_ms)

    def _hold(self, key: bytes, held: Held) -> None:
        self._pending[key] = held
        self._pending_bytes += _size(held.record)

    def _release(self, key: bytes) -> Held | None:
        held = self._pending.pop(key, None)
        if held is not None:
            self._pending_bytes -= _size(held.record)
        return held

    def _remember(self, key: bytes) -> None:
        self._completed[key] = None
        while len(self._completed) > self._settings.completed_memory:
            self._completed.popitem(last=False)

    def _expired(self) -> Iterator[Rejected]:
        # Pending events came in watermark order, so the oldest is always first.
        limit = self.watermark_ms - self._settings.expiry_ms
        while self._pending:
            key, held = next(iter(self._pending.items()))
            if held.order_ms >= limit:
                return
            self._release(key)
            missing = _partner(held.event.type).rpartition(".")[2]
            detail = f"no {missing} within {self._settings.expiry_ms} ms of event time"
            yield Rejected(held.record, "unpaired", detail)

    def _evicted(self) -> list[Rejected]:
        evicted = []
        while len(self._pending) > self._settings.max_pending or self._pending_bytes > self._settings.max_pending_bytes:
            key = next(iter(self._pending))
            held = self._release(key)
            if held is not None:
                bounds = self._settings
                detail = f"more than {bounds.max_pending} events or {bounds.max_pending_bytes} bytes waited"
                evicted.append(Rejected(held.record, "evicted", detail))
        return evicted


def _key(event: Event, kind: str) -> bytes:
    """Give what identifies an event among its service's: correlation and type, for KServe's pairs share their id."""
    parts = (event.service(), event.text(COMPONENT), event.correlation(), kind)
    return blake2b("\x1f".join(parts).encode(), digest_size=8).digest()


def _partner(kind: str) -> str:
    return RESPONSE_TYPE if kind == REQUEST_TYPE else REQUEST_TYPE


def _size(record: Record) -> int:
    return len(record.value or b"") + sum(len(name) + len(value or b"") for name, value in record.headers)


def _pack(held: Held) -> list[Any]:
    record = held.record
    return [
        record.topic, record.partition, record.offset, _text(record.key), _text(record.value), record.timestamp_ms,
        [[name, _text(value)] for name, value in record.headers], held.order_ms,
    ]  # fmt: skip


def _unpack(packed: Sequence[Any]) -> Held:
    topic, partition, offset, key, value, timestamp_ms, headers, order_ms = packed
    pairs = tuple((name, _bytes(text)) for name, text in headers)
    record = Record(topic, partition, offset, _bytes(key), _bytes(value), pairs, timestamp_ms)
    return Held(from_kafka(record.headers, record.value), record, order_ms)


def _text(value: bytes | None) -> str | None:
    return None if value is None else base64.b64encode(value).decode()


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else base64.b64decode(text)
