"""Reads envelopes (`envelopes.py`) of records whose headers are mostly alike: what they share is read once. Pure.

Reading all of them anew would cost more than most of what else is done for a request. What is odd in a record, or comes
for the first time, goes the long way, so that this can only save time.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Final

from inference.kafka.envelopes import PLAIN, Envelope, Head, envelope, sniffed
from inference.kafka.settings import StreamSettings
from streams.events import CORRELATION_ID, parse_time
from streams.stage import Record

_CORRELATIONS: Final = frozenset(name for name, means in PLAIN.items() if means == CORRELATION_ID)
_OWN: Final = frozenset({"id", "time", "traceparent", *_CORRELATIONS})
"""What each record has a value of its own for, as a header or, behind `ce_`, as an attribute."""
_ID_BYTES: Final = 16
_KEPT: Final = 1_000
"""Most kinds of headers that are kept in mind; more come only from clients that put something unique into theirs."""
_LARGEST: Final = 4_096
"""Most bytes of headers that are kept in mind together."""
_LONGEST: Final = 256
"""Of a header's name that is kept in mind."""


@dataclass(frozen=True, slots=True)
class _Kind:
    """A head, and at which places of the headers the rest of what is needed stands; -1 is nowhere."""

    head: Head
    identity: int
    correlation: int
    time: int
    traceparent: int
    sniffs: bool
    """Whether the body may turn out to be an event in structured mode: no header says what it is."""


class Envelopes:
    """Reads envelopes. One thread uses it; what it keeps in mind changes nothing but the time that it takes."""

    def __init__(self, settings: StreamSettings) -> None:
        self._settings = settings
        self._kinds: dict[tuple[Any, ...], _Kind] = {}
        self._shared = _Shared()
        self._place = ("", -1)
        self._digest = blake2b(digest_size=_ID_BYTES)

    def read(self, record: Record) -> Envelope:
        """Read what a record says around its body. Never fails: what is wrong is in `problem`."""
        shared = self._shared
        alike = tuple([header if shared[header[0]] else header[0] for header in record.headers])
        kind = self._kinds.get(alike)
        if kind is None:
            around = envelope(record, self._settings)
            self._keep(alike, around)
            return around
        try:
            return self._quick(record, kind)
        except (ValueError, OverflowError):
            # What is odd in this record is for the long way.
            return envelope(record, self._settings)

    def _quick(self, record: Record, kind: _Kind) -> Envelope:
        headers = record.headers
        if kind.sniffs and sniffed(record):
            raise ValueError
        identity = self._identity(record) if kind.identity < 0 else _text(headers[kind.identity])
        at_us = record.timestamp_ms * 1000 if kind.time < 0 else parse_time(_text(headers[kind.time]))
        correlation = identity if kind.correlation < 0 else _text(headers[kind.correlation])
        traceparent = "" if kind.traceparent < 0 else _text(headers[kind.traceparent])
        return Envelope(record, kind.head, identity, correlation, at_us, traceparent)

    def _identity(self, record: Record) -> str:
        """Give what `stable_id` gives for the place of a record."""
        place = record.topic, record.partition
        if place != self._place:
            self._place = place
            self._digest = blake2b(f"{place[0]}\x1f{place[1]}\x1f".encode(), digest_size=_ID_BYTES)
        digest = self._digest.copy()
        digest.update(b"%d" % record.offset)
        return digest.hexdigest()

    def _keep(self, alike: tuple[Any, ...], around: Envelope) -> None:
        head, record = around.head, around.record
        own = [_own(name) for name, _ in record.headers]
        size = sum(len(name) + len(value or b"") for name, value in record.headers)
        if around.problem is not None or head.structured or size > _LARGEST:
            return
        if head.bare:
            correlation = next((at for at, name in enumerate(own) if name in _CORRELATIONS), -1)
            found = -1, correlation, -1, _at(own, "traceparent")
        else:
            own = [
                name if header[0][:3].lower() == "ce_" else "" for name, header in zip(own, record.headers, strict=True)
            ]
            if any(own.count(name) > 1 for name in _OWN):
                return
            beside = _at([name.lower() for name, _ in record.headers], "traceparent")
            trace = _at(own, "traceparent")
            found = _at(own, "id"), _at(own, CORRELATION_ID), _at(own, "time"), beside if trace < 0 else trace
        if len(self._kinds) >= _KEPT:
            self._kinds.clear()
        sniffs = not any(name.lower() == "content-type" for name, _ in record.headers)
        self._kinds[alike] = _Kind(head, *found, sniffs)


class _Shared(dict[str, bool]):
    """Whether the value of a header says the same of all records that have it alike."""

    def __missing__(self, name: str) -> bool:
        if len(self) >= _KEPT:
            self.clear()
        lower = name.lower()
        known = lower == "content-type" or lower.startswith("ce_") or lower in PLAIN
        shared = known and not _own(name)
        if len(name) <= _LONGEST:
            self[name] = shared
        return shared


def _own(name: str) -> str:
    """Give what a header is if each record has a value of its own for it; else nothing."""
    lower = name.lower()
    bare = lower.removeprefix("ce_")
    if bare not in _OWN or lower in {"id", "time"}:
        return ""
    return bare


def _at(names: list[str], wanted: str) -> int:
    return names.index(wanted) if wanted in names else -1


def _text(header: tuple[str, bytes | None]) -> str:
    if not header[1]:
        raise ValueError
    return header[1].decode()
