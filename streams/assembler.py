"""The assembler: payload events in, observation rows and dead letters out. A stage; hosts run it once per partition.

It pairs (`streams/pairing.py`) and hands exchanges to a codec, for it knows no tensors itself. Every event that comes
in is accounted for, always (`COUNTED`); where a log is cut into batches changes no row, dead letter or count.
What a logger sends one-sided (`--log-mode request`) has no partner and expires to the dead letters; synthetic exchanges
pair as others do and make no rows. Next on the path: the detectors' stage.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from itertools import islice
from types import MappingProxyType
from typing import Any, Final, Protocol

from streams.bindings import to_kafka
from streams.deadletter import dead_letter
from streams.errors import StreamError
from streams.events import (
    ABORTED,
    NO_ROWS,
    OBSERVATIONS_TYPE,
    PROTOCOL,
    SYNTHETIC,
    TRACEPARENT,
    TRACEPARENTS,
    TRUNCATED,
    Event,
    format_time,
    stable_id,
)
from streams.pairing import Exchange, Pairing, Rejected, Undecodable
from streams.settings import AssemblerSettings
from streams.stage import Batch, Effects, Output, Record
from streams.tracecontext import MOST_NAMED, recorded

ARROW: Final = "application/vnd.apache.arrow.stream"
_STAGE: Final = "assembler"
_NOTHING: Final[Mapping[str, str]] = MappingProxyType({})
COUNTED: Final = (
    "in", "paired", "expired", "evicted", "deadlettered", "duplicates",
    "exchanges", "observed", "failed", "synthetic", "truncated", "aborted", "rowless", "undecodable", "oversized",
    "rows",
)  # fmt: skip
"""The counters. Events: in = paired + expired + evicted + deadlettered + duplicates + waiting. Exchanges: exchanges =
observed + failed + synthetic + truncated + aborted + rowless + undecodable + oversized; the last two are `deadlettered`
as events, the others `paired`. `rows` belong to the observed ones."""
_MAGIC: Final = b"SLA1"
_HEAD: Final = struct.Struct("<4sI")
"""Magic, length of the JSON part; then the JSON part with counters, and the pairing's state."""
# How a rejection counts; every other reason is a dead letter of the event's own making.
_COUNTER: Final = {"unpaired": "expired", "evicted": "evicted"}


class Rows(Protocol):
    """What a codec makes of one exchange."""

    @property
    def rows(self) -> int:
        """Number of rows."""
        ...

    @property
    def nbytes(self) -> int:
        """About how many bytes they take in a record."""
        ...

    @property
    def schema(self) -> object:
        """What must be equal for two exchanges to share a record."""
        ...


class Codec(Protocol):
    """Decodes exchanges and writes their rows; `inference.observations.ArrowCodec` is the one in use."""

    def decode(self, exchange: Exchange) -> Any:  # noqa: ANN401 - the codec's own kind of rows, handed back to `encode`
        """Decode one exchange to `Rows`, or raise `streams.pairing.Undecodable` and nothing else."""
        ...

    def encode(self, decoded: Sequence[Any]) -> bytes:
        """Write rows of one schema."""
        ...


Decoded = dict[str, list[Any]]
"""What the codec made of a batch's exchanges, by service."""


class Assembler:
    """A `Stage` for one partition of the payload topic."""

    def __init__(self, partition: int, settings: AssemblerSettings, codec: Codec) -> None:
        self._partition, self._settings, self._codec = partition, settings, codec
        self._pairing = Pairing(settings.pairing)
        self._counts = dict.fromkeys(COUNTED, 0)
        self._told_ms = 0

    def process(self, batch: Batch) -> Effects:
        """Pair, decode and write; see `streams.stage.Stage`."""
        outputs: list[Output] = []
        rows: Decoded = {}
        for record in batch.records:
            outputs += self._take(record, rows)
        if batch.idle_ms is not None:
            outputs += [self._rejected(item) for item in self._pairing.advance_to(batch.idle_ms)]
        for service, decoded in rows.items():
            outputs += self._observations(service, decoded)
        outputs += self._watermarks(idle=batch.idle_ms is not None)
        return Effects(tuple(outputs))

    def snapshot(self) -> bytes:
        """Give the complete state."""
        fields = json.dumps({"counts": self._counts, "told": self._told_ms}, separators=(",", ":")).encode()
        return _HEAD.pack(_MAGIC, len(fields)) + fields + self._pairing.snapshot()

    def restore(self, state: bytes) -> None:
        """Take what `snapshot` gave.

        Raises:
            StreamError: it is no state of an assembler, or of another version.
        """
        if len(state) < _HEAD.size or state[:4] != _MAGIC:
            raise StreamError(f"assembler state: expected format {_MAGIC.decode()}, got {state[:4]!r}")
        _, length = _HEAD.unpack_from(state)
        fields = json.loads(state[_HEAD.size : _HEAD.size + length])
        self._counts = dict.fromkeys(COUNTED, 0) | fields["counts"]
        self._told_ms = fields["told"]
        self._pairing.restore(state[_HEAD.size + length :])

    def counters(self) -> Mapping[str, int]:
        """Give the counters and how many events wait."""
        return {**self._counts, "waiting": self._pairing.waiting()}

    def _take(self, record: Record, rows: Decoded) -> list[Output]:
        self._counts["in"] += 1
        taken = self._pairing.take(record)
        letters = [self._rejected(item) for item in taken.rejected]
        self._counts["duplicates"] += taken.duplicate
        if taken.exchange is not None:
            letters += self._complete(taken.exchange, rows)
        return letters

    def _complete(self, exchange: Exchange, rows: Decoded) -> list[Output]:
        """Count a pair, and decode it when it is traffic that a detector may look at."""
        self._counts["exchanges"] += 1
        why_not = _unobserved(exchange)
        if why_not is not None:
            self._counts[why_not] += 1
            self._counts["paired"] += 2
            return []
        try:
            decoded = self._codec.decode(exchange)
        except Undecodable as exc:
            return self._refused(exchange, "undecodable", exc)
        limit = self._settings.max_record_bytes
        if decoded.nbytes > limit:
            detail = f"{decoded.rows} rows of about {decoded.nbytes} bytes: expected at most {limit} in one record"
            return self._refused(exchange, "oversized", Undecodable("too-large", detail))
        self._counts["observed"] += 1
        self._counts["rows"] += decoded.rows
        self._counts["paired"] += 2
        rows.setdefault(exchange.request.event.observed_as(), []).append(decoded)
        return []

    def _refused(self, exchange: Exchange, counter: str, problem: Undecodable) -> list[Output]:
        self._counts[counter] += 1
        both = (exchange.request.record, exchange.response.record)
        return [self._rejected(Rejected(record, problem.reason, problem.detail)) for record in both]

    def _rejected(self, item: Rejected) -> Output:
        self._counts[_COUNTER.get(item.reason, "deadlettered")] += 1
        return dead_letter(item.record, item.reason, item.detail, _STAGE, self._settings.deadletter)

    def _observations(self, service: str, decoded: Sequence[Any]) -> list[Output]:
        """Cut a service's rows into records: one schema each, and below the size limit; offsets never go back."""
        outputs: list[Output] = []
        run: list[Any] = []
        size = 0
        for item in decoded:
            if run and (item.schema != run[0].schema or size + item.nbytes > self._settings.max_record_bytes):
                outputs.append(self._record(service, run))
                run, size = [], 0
            run.append(item)
            size += item.nbytes
        outputs.append(self._record(service, run))
        return outputs

    def _record(self, service: str, run: Sequence[Any]) -> Output:
        first, last = run[0].exchange, run[-1].exchange
        # Rows say only the watermark that was told before: another service's rows of this batch may still follow.
        event = self._event(
            stable_id(service, self._partition, first.record.offset, last.record.offset),
            self._told_ms,
            self._codec.encode(run),
            _traces(run),
        )
        headers, value = to_kafka(event)
        return Output(self._settings.observations, service.encode(), value, headers)

    def _watermarks(self, *, idle: bool) -> list[Output]:
        """Tell every observations partition how far this payload partition is, so that nobody waits for it in vain."""
        watermark = self._pairing.watermark_ms
        if not (idle and watermark > self._told_ms) and watermark < self._told_ms + self._settings.watermark_every_ms:
            return []
        self._told_ms = watermark
        event = self._event(stable_id("watermark", self._partition, watermark), watermark, None)
        headers, _ = to_kafka(event)
        partitions = range(self._settings.observation_partitions)
        return [Output(self._settings.observations, None, None, headers, partition) for partition in partitions]

    def _event(self, identity: str, watermark_ms: int, data: bytes | None, more: Mapping[str, str] = _NOTHING) -> Event:
        return Event(
            id=identity,
            source="/sidelight/assembler",
            type=OBSERVATIONS_TYPE,
            time=format_time(watermark_ms * 1000),
            datacontenttype=None if data is None else ARROW,
            extensions={
                "partition": self._partition,
                "partitions": self._settings.payload_partitions,
                "watermark": str(watermark_ms),
                **more,
            },
            data=data,
        )


def _traces(run: Sequence[Any]) -> Mapping[str, str]:
    """Give the extension that names the recorded traces of these rows' calls, if there are any."""
    named = dict.fromkeys(item.exchange.request.event.text(TRACEPARENT) for item in run)
    # Spelt anew: what a client wrote behind the flags may be as long as a head, and have spaces.
    found = [str(place) for place in islice(filter(None, map(recorded, named)), MOST_NAMED)]
    if not found:
        return _NOTHING
    return {TRACEPARENT: found[0]} if len(found) == 1 else {TRACEPARENTS: " ".join(found)}


def _unobserved(exchange: Exchange) -> str | None:
    """Name the reason why detectors must not see an exchange; None when they may."""
    request, response = exchange.request.event, exchange.response.event
    for extension, counter in ((SYNTHETIC, "synthetic"), (TRUNCATED, "truncated"), (ABORTED, "aborted")):
        if "true" in {request.text(extension), response.text(extension)}:
            return counter
    if request.text(PROTOCOL) == NO_ROWS:
        return "rowless"
    return None if 200 <= exchange.status < 300 else "failed"  # noqa: PLR2004 - HTTP's class of successes
