"""The stage that answers requests: a topic of them in, answers and dead letters out. Pure but for models and claims.

Records are read, what goes together is one call of the model, and the answers come out in the order of the requests.
While a call is computed the next requests are read and earlier answers are written. A model that is not ready holds its
partition back, so that nothing overtakes: the host tries again. Hosts run it once per partition.
"""

from __future__ import annotations

import contextlib
import json
from collections import deque
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from inference.errors import InferenceError
from inference.kafka.answers import Writer
from inference.kafka.batches import Group
from inference.kafka.calls import Call, Models, Pending, Side
from inference.kafka.envelopes import Envelope, Unreadable
from inference.kafka.heads import Envelopes
from inference.kafka.requests import Ask, Bodies
from inference.kafka.settings import StreamSettings
from inference.kafka.sheets import Part, Sheet
from inference.protocol.errors import ProtocolError
from inference.rest.answers import status_of
from streams.claims import ClaimStore
from streams.deadletter import dead_letter
from streams.errors import ClaimFailed, NotNow, StreamError
from streams.events import DATA_REF
from streams.stage import Batch, Effects, Output, Record

STAGE: Final = "stream"
COUNTED: Final = ("in", "answered", "refused", "failed", "unreadable", "rows", "calls")
"""The counters. Records: in = answered + refused + failed, by the status of the answer: 200, 4xx, 5xx. `unreadable` are
those of the refused that are dead letters, too. `calls` of models answered the `rows`."""
_SERVER: Final = 500
_MOST_FETCHED: Final = 64 << 20
"""Bytes of bodies that no record holds, above which requests no longer wait for others to be joined with."""


class InferenceStage:
    """A `Stage` for one partition of the request topic; `claims` is where bodies lie that no record holds."""

    def __init__(
        self, partition: int, settings: StreamSettings, models: Models, claims: ClaimStore | None = None
    ) -> None:
        self._partition, self._settings, self._models = partition, settings, models
        self._tools = _Tools(Envelopes(settings), Bodies(claims), Writer(settings))
        self._claims = claims is not None
        self._counts = dict.fromkeys(COUNTED, 0)

    def process(self, batch: Batch) -> Effects:
        """Answer requests; see `streams.stage.Stage`."""
        if not batch.records:
            return Effects()
        if lost := self._models.lost():
            # For the next process. What came before is answered: it may be what the device does not bear.
            raise NotNow(lost, "device")
        turn = _Turn(self._settings, self._models, self._tools, len(batch.records))
        try:
            if self._claims:
                turn.foresee(batch.records)
            for place, record in enumerate(batch.records):
                turn.take(place, record)
            outputs = turn.finish()
        except Exception:
            turn.abandon()
            raise
        # Only now: a model that is away must leave the state as it was.
        for name, count in turn.counts.items():
            self._counts[name] += count
        return Effects(outputs)

    def snapshot(self) -> bytes:
        """Give the counters: there is no other state."""
        return json.dumps(self._counts, separators=(",", ":")).encode()

    def restore(self, state: bytes) -> None:
        """Take what `snapshot` gave.

        Raises:
            StreamError: it is no state of this stage.
        """
        try:
            counts = json.loads(state)
            self._counts = {name: int(counts.get(name, 0)) for name in COUNTED}
        except (ValueError, AttributeError, TypeError) as exc:
            raise StreamError(f"state of the inference stage: expected counters, got {state[:40]!r}") from exc

    def counters(self) -> Mapping[str, int]:
        """Give the counters."""
        return dict(self._counts)


@dataclass(frozen=True, slots=True)
class _Tools:
    """What reads and writes, and keeps in mind what many records have alike."""

    envelopes: Envelopes
    bodies: Bodies
    writer: Writer


class _Turn:
    """One batch of records."""

    def __init__(self, settings: StreamSettings, models: Models, tools: _Tools, records: int) -> None:
        self._settings, self._models = settings, models
        self._envelope, self._read, self._writer = tools.envelopes.read, tools.bodies.read, tools.writer
        self._sides: dict[tuple[str, str | None], Side] = {}
        self.counts = dict.fromkeys(COUNTED, 0)
        self._outputs: list[list[Output]] = [[] for _ in range(records)]
        self._open: dict[Hashable, Group] = {}
        self._flying: deque[tuple[Group, Pending]] = deque()
        self._fetched = 0
        self._ahead: deque[Envelope] = deque()
        """Of the next records, where they were read already."""
        self._foreseen: tuple[int, Ask] | None = None

    def foresee(self, records: Sequence[Record]) -> None:
        """Fetch the first body that no record holds: while its store is away, no call is to be computed in vain."""
        for place, record in enumerate(records):
            around = self._envelope(record)
            self._ahead.append(around)
            if around.problem is None and not around.head.plain and around.event.text(DATA_REF):
                # What is wrong with it is told in its turn.
                with contextlib.suppress(ProtocolError, ClaimFailed, InferenceError):
                    self._foreseen = place, self._read(around)
                return

    def take(self, place: int, record: Record) -> None:
        """Read a record and put it to those that it goes with."""
        self.counts["in"] += 1
        around = self._ahead.popleft() if self._ahead else self._envelope(record)
        if around.problem is not None:
            self._unreadable(place, around, around.problem)
            return
        ask = None
        try:
            ask = self._fetch(place) or self._read(around)
            side = self._side(ask)
        except ProtocolError as exc:
            self._unreadable(place, around, Unreadable("undecodable", str(exc)))
            return
        except ClaimFailed as exc:
            self._unreadable(place, around, Unreadable("claim", str(exc)))
            return
        except InferenceError as exc:
            self._refuse(place, around, exc, around.at_us, ask)
            return
        limit = min(side.limit, self._settings.max_rows) if ask.key else 1
        if limit <= 1:
            self._launch(_alone(ask, place))
            return
        key = around.head.model, around.head.version, side.which, ask.key
        group = self._open.get(key)
        if group is not None and not group.takes(ask):
            self._launch(group)
            group = None
        if group is None:
            group = self._open[key] = Group(limit)
        group.add(ask, place)
        self._fetched += ask.fetched
        if group.rows >= limit:
            self._launch(self._open.pop(key))
        elif self._fetched > _MOST_FETCHED:
            self._launch_all()

    def finish(self) -> tuple[Output, ...]:
        """Wait for everything; give the outputs in the order of the records."""
        self._launch_all()
        while self._flying:
            self._land()
        return tuple(output for outputs in self._outputs for output in outputs)

    def abandon(self) -> None:
        """Wait for the calls under way: a next try begins them anew, and would find more and more of them."""
        while self._flying:
            _, pending = self._flying.popleft()
            with contextlib.suppress(Exception):
                pending.result()

    def _fetch(self, place: int) -> Ask | None:
        """Give what was foreseen for a place, once."""
        if self._foreseen is None or self._foreseen[0] != place:
            return None
        ask, self._foreseen = self._foreseen[1], None
        return ask

    def _side(self, ask: Ask) -> Side:
        asked = ask.envelope.head.model, ask.envelope.head.version
        side = self._sides.get(asked)
        if side is None:
            side = self._models.side(ask)
            if side.steady:
                self._sides[asked] = side
        return side

    def _launch_all(self) -> None:
        groups, self._open, self._fetched = list(self._open.values()), {}, 0
        for group in groups:
            self._launch(group)

    def _launch(self, group: Group) -> None:
        while len(self._flying) >= self._settings.in_flight:
            self._land()
        self._flying.append((group, self._models.start(_call(group))))

    def _land(self) -> None:
        """Wait for the oldest call and write its answers."""
        group, pending = self._flying.popleft()
        self.counts["calls"] += 1
        try:
            parts = group.parts(pending.result())
        except (InferenceError, ProtocolError) as exc:
            if len(group.asks) == 1:
                self._refuse(group.places[0], group.asks[0].envelope, exc, 0, group.asks[0])
                return
            parts = None
        if parts is None:
            # Somebody's rows spoil it, or nobody knows whose outputs are whose: each by itself.
            self._one_by_one(group)
            return
        for ask, place, part in zip(group.asks, group.places, parts, strict=True):
            self._answer(place, ask, part)

    def _one_by_one(self, group: Group) -> None:
        for ask, place in zip(group.asks, group.places, strict=True):
            single = _alone(ask, place)
            self.counts["calls"] += 1
            try:
                answered = self._models.start(_call(single)).result()
            except (InferenceError, ProtocolError) as exc:
                self._refuse(place, ask.envelope, exc, 0, ask)
            else:
                self._answer(place, ask, Part(Sheet(answered)))

    def _answer(self, place: int, ask: Ask, part: Part) -> None:
        try:
            outputs = self._writer.answer(ask, part)
        except ProtocolError as exc:
            self._refuse(place, ask.envelope, exc, part.sheet.answered.at_us, ask)
            return
        self._outputs[place] = outputs
        self.counts["answered"] += 1
        self.counts["rows"] += ask.rows

    def _refuse(self, place: int, around: Envelope, problem: Exception, at_us: int, ask: Ask | None) -> None:
        status = status_of(problem) or _SERVER
        self.counts["failed" if status >= _SERVER else "refused"] += 1
        self._outputs[place] = self._writer.refusal(around, status, str(problem), at_us or around.at_us, ask)

    def _unreadable(self, place: int, around: Envelope, problem: Unreadable) -> None:
        """Answer, if anybody listens, and keep the record for whoever can tell what it was."""
        self.counts["refused"] += 1
        self.counts["unreadable"] += 1
        answer = self._writer.refusal(around, _UNREADABLE, str(problem), around.at_us)
        letter = dead_letter(around.record, problem.reason, problem.detail, STAGE, self._settings.deadletter)
        self._outputs[place] = [*answer, letter]


_UNREADABLE: Final = 400


def _alone(ask: Ask, place: int) -> Group:
    group = Group(1)
    group.add(ask, place)
    return group


def _call(group: Group) -> Call:
    around = group.asks[0].envelope
    size = sum(len(ask.envelope.record.value or b"") + ask.fetched for ask in group.asks)
    traces = tuple([ask.envelope.traceparent for ask in group.asks[1:] if ask.envelope.traceparent])
    return Call(around.head.model, around.head.version, group.request(), around, group.rows, size, traces)
