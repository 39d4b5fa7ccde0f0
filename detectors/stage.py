"""The detectors' stage: observation rows in, alerts out. Hosts run it once per observations partition.

Records are read and checked (`intake.py`), rows merged into one order (`merge.py`), framed for the monitor
(`frames.py`), shown to each detector, and the findings go through the life cycle (`alerts.py`). Everything is part of
the state, so a restart neither forgets nor changes its mind.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa

from detectors.alerts import AlertBook, Origin
from detectors.base import Detector
from detectors.errors import InvalidRows
from detectors.frames import Framer, of_version
from detectors.intake import read
from detectors.merge import Merge, Watermarks
from detectors.settings import AlertSettings, MonitorSettings
from inference.protocol.errors import ProtocolError
from streams.bindings import to_kafka
from streams.deadletter import dead_letter
from streams.errors import InvalidEvent
from streams.events import Event, stable_id
from streams.stage import Batch, Effects, Output, Record

_STAGE: Final = "detectors"
_COUNTED: Final = (
    "records", "watermarks", "deadlettered", "rows", "released", "unmonitored", "unfit", "findings", "alarms",
    "opened", "updated", "resolved", "restarted",
)  # fmt: skip
_TOLD: Final = 64
"""Most complaints about columns that are told of one partition."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """A monitor with its detectors, ready to run. `build` gives fresh detectors for one partition."""

    monitor: MonitorSettings
    build: Callable[[], Mapping[str, Detector]]
    fingerprint: str
    """Digest of settings and reference: when it changes, state from before does not fit any more."""


class DetectorStage:
    """A `Stage` for one partition of the observations topic."""

    def __init__(self, watches: Sequence[Watch], alerts: Callable[[str], str], deadletter: str) -> None:
        """Take the monitors, the topic of each alert family, and the dead-letter topic."""
        self._alerts, self._deadletter = alerts, deadletter
        self._watches = watches
        self._watermarks = Watermarks()
        self._merges: dict[str, Merge] = {}
        self._benches: dict[str, list[_Bench]] = {}
        self._kept: dict[str, Any] = {}
        self._counts = dict.fromkeys(_COUNTED, 0)
        self._told: list[str] = []
        self._stale: list[dict[str, Any]] = []
        """Books of monitors that are no more, with what is needed to say so."""
        self._fitted: dict[str, pa.Schema] = {}

    def process(self, batch: Batch) -> Effects:
        """Merge, detect and keep the book; see `streams.stage.Stage`."""
        outputs = self._withdraw()
        outputs += [output for record in batch.records for output in self._take(record)]
        below = self._watermarks.least()
        for service, merge in self._merges.items():
            outputs += self._release(service, merge, below)
        return Effects(tuple(outputs))

    def snapshot(self) -> bytes:
        """Give the complete state."""
        benches = {bench.name: bench.state() for group in self._benches.values() for bench in group}
        state = {
            "version": 1,
            "counts": self._counts,
            "watermarks": self._watermarks.state(),
            "merges": {service: merge.state() for service, merge in self._merges.items()},
            "benches": self._kept | benches,
            "told": self._told,
            "stale": self._stale,
        }
        return json.dumps(state, separators=(",", ":")).encode()

    def restore(self, state: bytes) -> None:
        """Take what `snapshot` gave. A monitor whose settings or reference changed starts its windows anew.

        What was open of it, or of one that is not there any more, is resolved with the next batch.
        """
        fields = json.loads(state)
        self._counts = dict.fromkeys(_COUNTED, 0) | fields["counts"]
        self._watermarks.restore(fields["watermarks"])
        self._merges = {}
        for service, kept in fields["merges"].items():
            self._merges[service] = Merge()
            self._merges[service].restore(kept)
        self._kept, self._benches = fields["benches"], {}
        self._told, self._fitted = fields.get("told", []), {}
        self._stale = [*fields.get("stale", []), *self._left_behind()]
        # Now and not with the next rows: the counters say at once how many alerts are open.
        for watch in self._watches:
            if _name(watch) in self._kept:
                self._bench(watch.monitor.key)

    def counters(self) -> Mapping[str, int]:
        """Give the counters, and what waits or is open."""
        merges = self._merges.values()
        return {
            **self._counts,
            "waiting": sum(merge.waiting() for merge in merges),
            "duplicates": sum(merge.duplicates for merge in merges),
            "forced": sum(merge.forced for merge in merges),
            "open": sum(bench.book.open_alerts() for group in self._benches.values() for bench in group),
        }

    def _left_behind(self) -> list[dict[str, Any]]:
        """Take the books off monitors that were removed or changed; windows of one that comes back go on."""
        known, found = {_name(watch): watch.fingerprint for watch in self._watches}, []
        for name, kept in self._kept.items():
            if kept["book"] and known.get(name) != kept["fingerprint"]:
                reason = "monitor changed" if name in known else "monitor removed"
                found.append({"monitor": name, "reason": reason, "book": kept["book"], "kinds": kept.get("kinds", {})})
                kept["book"] = {}
        return found

    def _withdraw(self) -> list[Output]:
        """Resolve what was open of monitors that are no more."""
        stale, self._stale = self._stale, []
        outputs = []
        for item in stale:
            service, _, monitor = item["monitor"].rpartition("/")
            origins = {
                name: Origin(service=service, monitor=monitor, detector=name, type=kind, family=family)
                for name, (kind, family) in item["kinds"].items()
            }
            book = AlertBook(AlertSettings())
            book.restore(item["book"])
            for origin, event in book.withdraw(origins, item["reason"], self._watermarks.least() * 1_000):
                self._counts["resolved"] += 1
                outputs.append(self._output(service, origin.family, event))
        return outputs

    def _take(self, record: Record) -> list[Output]:
        self._counts["records"] += 1
        try:
            told = read(record)
        except (InvalidEvent, ProtocolError, InvalidRows) as exc:
            return [self._letter(record, "unreadable", str(exc))]
        self._watermarks.take(told.partition, told.partitions, told.watermark_ms)
        if told.table is None:
            self._counts["watermarks"] += 1
            return []
        merge = self._merges.setdefault(told.service, Merge())
        self._counts["rows"] += merge.offer(told.table)
        outputs = self._unfit(record, told.service, told.table)
        # At the record that brought too much, not at the end of a batch, which may be cut elsewhere next time.
        return outputs + self._release(told.service, merge, self._watermarks.least()) if merge.overfull() else outputs

    def _unfit(self, record: Record, service: str, table: pa.Table) -> list[Output]:
        """Send the first record that a monitor cannot read to the dead letters; the others like it are only counted."""
        fitted = self._fitted.get(service)
        if fitted is not None and table.schema.equals(fitted):
            return []
        self._fitted[service] = table.schema
        letters = []
        for watch in self._watches:
            problem = _problem(watch, table) if watch.monitor.key == service else ""
            mark = stable_id(_name(watch), watch.fingerprint, problem)
            if problem and mark not in self._told and len(self._told) < _TOLD:
                self._told.append(mark)
                letters.append(self._letter(record, "unfit", f"monitor {watch.monitor.name!r}: {problem}"))
        return letters

    def _letter(self, record: Record, reason: str, detail: str) -> Output:
        self._counts["deadlettered"] += 1
        return dead_letter(record, reason, detail, _STAGE, self._deadletter)

    def _release(self, service: str, merge: Merge, below_ms: int) -> list[Output]:
        return [output for table in merge.release(below_ms) for output in self._detect(service, table)]

    def _detect(self, service: str, table: pa.Table) -> list[Output]:
        self._counts["released"] += table.num_rows
        benches = self._bench(service)
        if not benches:
            self._counts["unmonitored"] += table.num_rows
        outputs: list[Output] = []
        for bench in benches:
            try:
                events = bench.run(table, self._counts)
            except InvalidRows:
                self._counts["unfit"] += table.num_rows
                continue
            outputs += [self._output(service, family, event) for family, event in events]
        return outputs

    def _bench(self, service: str) -> list[_Bench]:
        if service not in self._benches:
            self._benches[service] = [_Bench(watch) for watch in self._watches if watch.monitor.key == service]
            for bench in self._benches[service]:
                self._counts["restarted"] += not bench.restore(self._kept.pop(bench.name, None))
        return self._benches[service]

    def _output(self, service: str, family: str, event: Event) -> Output:
        headers, value = to_kafka(event)
        return Output(self._alerts(family), service.encode(), value, headers)


class _Bench:
    """One monitor at work: its framer, detectors and book."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self.name = _name(watch)
        self._frame = Framer(watch.monitor)
        self._detectors = watch.build()
        self.book = AlertBook(watch.monitor.alerts)

    def run(self, table: pa.Table, counts: dict[str, int]) -> list[tuple[str, Event]]:
        """Show rows to every detector; give the alert events with their families."""
        table = of_version(table, self._watch.monitor.version)
        if not table.num_rows:
            return []
        rows = self._frame(table)
        events = []
        kinds = {settings.name: settings.type for settings in self._watch.monitor.detectors}
        for name, detector in self._detectors.items():
            origin = Origin(
                service=self._watch.monitor.key, monitor=self._watch.monitor.name, detector=name, type=kinds[name],
                family=detector.family,
            )  # fmt: skip
            for finding in detector.observe(rows):
                counts["findings"] += 1
                counts["alarms"] += finding.alarm
                event = self.book.take(origin, finding)
                if event is not None:
                    counts[event.type.rpartition(".")[2]] += 1
                    events.append((detector.family, event))
        return events

    def state(self) -> dict[str, Any]:
        """Give everything as JSON-able values."""
        detectors = {name: base64.b64encode(item.snapshot()).decode() for name, item in self._detectors.items()}
        settings = {item.name: item.type for item in self._watch.monitor.detectors}
        kinds = {name: [settings[name], item.family] for name, item in self._detectors.items()}
        return {
            "fingerprint": self._watch.fingerprint, "detectors": detectors, "book": self.book.state(), "kinds": kinds,
        }  # fmt: skip

    def restore(self, state: Mapping[str, Any] | None) -> bool:
        """Take what `state` gave; False when it is of other settings, so that windows of two kinds never mix."""
        if state is None:
            return True
        if state["fingerprint"] != self._watch.fingerprint:
            return False
        for name, detector in self._detectors.items():
            detector.restore(base64.b64decode(state["detectors"][name]))
        self.book.restore(state["book"])
        return True


def _name(watch: Watch) -> str:
    return f"{watch.monitor.key}/{watch.monitor.name}"


def _problem(watch: Watch, table: pa.Table) -> str:
    """Say why a monitor cannot read a table; empty when it can."""
    if not of_version(table, watch.monitor.version).num_rows:
        return ""
    try:
        Framer(watch.monitor)(table.slice(0, 0))
    except InvalidRows as exc:
        return str(exc)
    return ""
