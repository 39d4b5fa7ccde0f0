"""Adds up what every process of a run counted, and checks the conservation laws: no event is lost without a number."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from deploy import scrape
from deploy.lag import end_offsets
from deploy.runfile import Run
from streams.topics import Topics


@dataclass(frozen=True, slots=True, kw_only=True)
class Law:
    """Two sums that have to be equal once nothing is on its way."""

    name: str
    left: int
    right: int

    @property
    def holds(self) -> bool:
        """Tell whether they are."""
        return self.left == self.right


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """The numbers of a run at one moment."""

    captured: int
    delivered: int
    in_flight: int
    dropped: Mapping[str, int]
    stripped: int = 0
    """Captured events that were kept without their body, for the logger's memory was nearly full."""
    recovered: int = 0
    """Events that lay on the loggers' disks at the start."""
    spooled: int = 0
    """Events that lie there now."""
    unwanted: int = 0
    """Captured events that KServe's agent would not send, with `--events kserve`."""
    payloads: int
    """Records on the payload topic."""
    payloads_before: int = 0
    """Those of them that were there when the run began."""
    deadletters: int
    assembler: Mapping[str, int]
    detectors: Mapping[str, int]

    def laws(self) -> tuple[Law, ...]:
        """Give the laws; a logger's own numbers begin anew when it restarts, the stages' do not."""
        count = self.assembler.get
        accounted = sum(
            count(name, 0) for name in ("paired", "expired", "evicted", "deadlettered", "duplicates", "waiting")
        )
        return (
            Law(
                name="logger: captured + recovered = delivered + in flight + spooled + unwanted + dropped",
                left=self.captured + self.recovered,
                right=self.delivered + self.in_flight + self.spooled + self.unwanted + sum(self.dropped.values()),
            ),
            Law(
                name="delivered = on the payload topic since the start",
                left=self.delivered,
                right=self.payloads - self.payloads_before,
            ),
            Law(name="on the payload topic = taken by the assembler", left=self.payloads, right=count("in", 0)),
            Law(
                name="assembler: in = paired + expired + evicted + dead-lettered + duplicates + waiting",
                left=count("in", 0),
                right=accounted,
            ),
            Law(
                name="rows written = rows taken by the detectors",
                left=count("rows", 0),
                right=self.detectors.get("rows", 0),
            ),
        )


def read(run: Run, extra: Mapping[str, str] = {}) -> Ledger:
    """Collect the numbers of a run from its processes and its broker; `extra` is how that is reached: TLS, SASL.

    Raises:
        UserError: the broker does not answer.
    """
    samples = scrape.read_all(process.metrics for process in run.processes if process.metrics)
    topics = Topics(run.prefix)
    return Ledger(
        captured=int(samples.total("sidelight_logger_captured_total")),
        delivered=int(samples.total("kserve_logger_events_sent_total")),
        in_flight=int(samples.total("sidelight_logger_in_flight")),
        dropped={
            reason: int(count) for reason, count in samples.by("kserve_logger_events_dropped_total", "reason").items()
        },
        stripped=int(samples.total("sidelight_logger_stripped_total")),
        recovered=int(samples.total("sidelight_logger_recovered_total")),
        spooled=int(samples.total("sidelight_logger_spooled")),
        unwanted=int(samples.total("sidelight_logger_unwanted_total")),
        payloads=end_offsets(run.kafka, topics.payloads, extra=extra),
        payloads_before=run.payloads_before,
        deadletters=end_offsets(run.kafka, topics.deadletter, extra=extra),
        assembler=_stage(samples, "assembler"),
        detectors=_stage(samples, "detectors"),
    )


def _stage(samples: scrape.Samples, stage: str) -> dict[str, int]:
    """Add a stage's counters up over its partitions and workers."""
    totals: dict[str, int] = {}
    for name, labels, value in samples.values:
        if name == "sidelight_stage_total" and labels["stage"] == stage:
            totals[labels["counter"]] = totals.get(labels["counter"], 0) + int(value)
    return totals
