"""The logger's Prometheus page, read from shared memory when asked: nothing on the way of a request.

Names are KServe's own where KServe has one (kserve/kserve pull request 6190); they count events.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric, SummaryMetricFamily
from prometheus_client.registry import Collector

from logger.courier import Courier, Fate
from logger.lane import CAPTURED, CONNECTIONS, QUEUE_FULL, STRIPPED, Lane


class Totals:
    """The sums over all lanes, from one moment."""

    def __init__(self, lanes: Sequence[Lane]) -> None:
        settled = [lane.ring.settled() for lane in lanes]
        fates = [sum(found.counts[fate] for found in settled) for fate in Fate]
        self.waiting = sum(lane.ring.written() - found.records for lane, found in zip(lanes, settled, strict=True))
        self.captured, full, self.stripped, self.connections = (
            sum(lane.tally.get(what) for lane in lanes) for what in (CAPTURED, QUEUE_FULL, STRIPPED, CONNECTIONS)
        )
        self.delivered = fates[Fate.DELIVERED]
        dropped = {fate.name.lower(): fates[fate] for fate in Fate if fate is not Fate.DELIVERED} | {"queue-full": full}
        self.dropped = {reason: count for reason, count in dropped.items() if count}
        self.in_flight = self.captured - self.delivered - sum(self.dropped.values())


class LoggerCollector(Collector):
    """Shows lanes and courier."""

    def __init__(self, lanes: Sequence[Lane], courier: Courier) -> None:
        self._lanes, self._courier = lanes, courier

    def collect(self) -> Iterable[Metric]:
        """Give the families."""
        totals = Totals(self._lanes)
        dropped = CounterMetricFamily("kserve_logger_events_dropped", "Events given up, by reason.", labels=("reason",))
        for reason, count in totals.dropped.items():
            dropped.add_metric((reason,), count)
        failed = sum(totals.dropped.get(reason, 0) for reason in ("undelivered", "refused"))
        duration = SummaryMetricFamily(
            "kserve_logger_delivery_duration_seconds", "From first attempt to acknowledgement."
        )
        duration.add_metric((), count_value=totals.delivered, sum_value=self._courier.delivery_seconds)
        return (
            CounterMetricFamily("sidelight_logger_captured", "Events captured.", value=totals.captured),
            CounterMetricFamily("kserve_logger_events_sent", "Events acknowledged.", value=totals.delivered),
            CounterMetricFamily("kserve_logger_events_failed", "Events whose delivery failed for good.", value=failed),
            CounterMetricFamily("sidelight_logger_stripped", "Events kept without their body.", value=totals.stripped),
            GaugeMetricFamily("sidelight_logger_in_flight", "Events on their way.", value=totals.in_flight),
            GaugeMetricFamily("kserve_logger_work_queue_depth", "Exchanges that wait.", value=totals.waiting),
            GaugeMetricFamily("sidelight_logger_connections", "Open clients.", value=totals.connections),
            dropped,
            self._by_status("sidelight_logger_requests", "Inference calls by status.", _answers),
            self._by_status("sidelight_logger_refused", "Requests refused for their form.", _refusals),
            duration,
        )  # fmt: skip

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
