"""The logger's Prometheus page, read from shared memory when asked: nothing on the way of a request.

Names are KServe's own where KServe has one (kserve/kserve pull request 6190); they count events. What differs between
sinks carries the label `sink`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric, SummaryMetricFamily
from prometheus_client.registry import Collector

from logger import account
from logger.lane import Lane
from logger.way import Way

_FAILED = ("undelivered", "refused", "spool-lost")


class LoggerCollector(Collector):
    """Shows lanes and ways."""

    def __init__(self, lanes: Sequence[Lane], ways: Sequence[Way], events_each: int) -> None:
        self._lanes, self._ways, self._each = lanes, ways, events_each

    def collect(self) -> Iterable[Metric]:
        """Give the families."""
        accounts = account.read(self._lanes, len(self._ways), self._each)
        # Without a sink nothing is captured; the batcher's and the proxies' figures are there all the same.
        captured, in_flight = next(((way.captured, way.in_flight) for way in accounts.ways), (0, 0))
        yield CounterMetricFamily("sidelight_logger_captured", "Events captured.", value=captured)
        yield CounterMetricFamily("sidelight_logger_stripped", "Events kept without body.", value=accounts.stripped)
        yield GaugeMetricFamily("sidelight_logger_in_flight", "Events on their way.", value=in_flight)
        yield GaugeMetricFamily("kserve_logger_work_queue_depth", "Exchanges that wait.", value=accounts.waiting)
        yield CounterMetricFamily("sidelight_logger_held", "Answers held for audit.", value=accounts.held)
        yield CounterMetricFamily("sidelight_logger_held_late", "Of them: let go unsafe.", value=accounts.late)
        yield CounterMetricFamily("sidelight_logger_resent", "Calls sent to the model again.", value=accounts.retried)
        yield GaugeMetricFamily("sidelight_logger_connections", "Open clients.", value=accounts.connections)
        yield self._by_status("sidelight_logger_requests", "Inference calls by status.", _answers)
        yield self._by_status("sidelight_logger_refused", "Requests refused for their form.", _refusals)
        yield from self._accounts(accounts.ways)
        yield from self._gauges()

    def _accounts(self, accounts: Sequence[account.Account]) -> Iterator[Metric]:
        sent = CounterMetricFamily("kserve_logger_events_sent", "Events acknowledged.", labels=("sink",))
        failed = CounterMetricFamily("kserve_logger_events_failed", "Events that no sink will have.", labels=("sink",))
        dropped = CounterMetricFamily(
            "kserve_logger_events_dropped", "Events given up, by reason.", labels=("sink", "reason")
        )
        spooled = GaugeMetricFamily("sidelight_logger_spooled", "Events that wait on disk.", labels=("sink",))
        recovered = CounterMetricFamily(
            "sidelight_logger_recovered", "Events found on disk at the start.", labels=("sink",)
        )
        unwanted = CounterMetricFamily(
            "sidelight_logger_unwanted", "Events that KServe's agent would not send, either.", labels=("sink",)
        )
        for way, found in zip(self._ways, accounts, strict=True):
            sink = (way.name,)
            unwanted.add_metric(sink, found.unwanted)
            sent.add_metric(sink, found.delivered)
            failed.add_metric(sink, sum(found.dropped.get(reason, 0) for reason in _FAILED))
            spooled.add_metric(sink, found.spooled)
            recovered.add_metric(sink, found.recovered)
            for reason, count in found.dropped.items():
                dropped.add_metric((way.name, reason), count)
        return iter((sent, failed, dropped, spooled, recovered, unwanted))

    def _gauges(self) -> Iterator[Metric]:
        duration = SummaryMetricFamily(
            "kserve_logger_delivery_duration_seconds", "From first attempt to acknowledgement.", labels=("sink",)
        )
        for way in self._ways:
            gauges = dict(way.gauges())
            duration.add_metric((way.name,), int(gauges.pop("delivery_count")), gauges.pop("delivery_seconds"))
            for name, value in gauges.items():
                family = GaugeMetricFamily(f"sidelight_logger_{name}", "See docs/logger.md.", labels=("sink",))
                family.add_metric((way.name,), value)
                yield family
        yield duration

    def _by_status(self, name: str, text: str, read: Callable[[Lane], dict[int, int]]) -> Metric:
        family = CounterMetricFamily(name, text, labels=("status",))
        total: Counter[int] = Counter()
        for lane in self._lanes:
            total.update(read(lane))
        for status, count in sorted(total.items()):
            family.add_metric((str(status),), count)
        return family


def _refusals(lane: Lane) -> dict[int, int]:
    return lane.tally.refusals()


def _answers(lane: Lane) -> dict[int, int]:
    return lane.tally.answers()
