"""The logger's Prometheus page, read from its counters when asked: nothing on the way of a request.

Names are KServe's own where KServe has one (kserve/kserve pull request 6190); they count events.
"""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric, SummaryMetricFamily
from prometheus_client.registry import Collector

from logger.courier import Courier
from logger.outbox import Outbox
from logger.proxy import Proxy


class LoggerCollector(Collector):
    """Shows proxy, outbox and courier."""

    def __init__(self, proxy: Proxy, outbox: Outbox, courier: Courier) -> None:
        self._proxy, self._outbox, self._courier = proxy, outbox, courier

    def collect(self) -> Iterable[Metric]:
        """Give the families."""
        outbox = self._outbox
        dropped = CounterMetricFamily("kserve_logger_events_dropped", "Events given up, by reason.", labels=("reason",))
        for reason, count in outbox.dropped().items():
            dropped.add_metric((reason,), count)
        failed = sum(outbox.dropped().get(reason, 0) for reason in ("undelivered", "refused"))
        requests = CounterMetricFamily("sidelight_logger_requests", "Inference calls by status.", labels=("status",))
        for status, count in list(self._proxy.answers.items()):
            requests.add_metric((str(status),), count)
        refused = CounterMetricFamily(
            "sidelight_logger_refused", "Requests refused for their form.", labels=("status",)
        )
        for status, count in list(self._proxy.refusals.items()):
            refused.add_metric((str(status),), count)
        duration = SummaryMetricFamily(
            "kserve_logger_delivery_duration_seconds", "From first attempt to acknowledgement."
        )
        duration.add_metric((), count_value=outbox.delivered, sum_value=self._courier.delivery_seconds)
        return (
            CounterMetricFamily("sidelight_logger_captured", "Events captured.", value=outbox.captured),
            CounterMetricFamily("kserve_logger_events_sent", "Events acknowledged.", value=outbox.delivered),
            CounterMetricFamily("kserve_logger_events_failed", "Events whose delivery failed for good.", value=failed),
            CounterMetricFamily("sidelight_logger_stripped", "Events kept without their body.", value=outbox.stripped),
            GaugeMetricFamily("sidelight_logger_in_flight", "Events on their way.", value=outbox.in_flight()),
            GaugeMetricFamily("kserve_logger_work_queue_depth", "Exchanges that wait.", value=outbox.depth()),
            GaugeMetricFamily("sidelight_logger_connections", "Open clients.", value=len(self._proxy.connections)),
            dropped, requests, refused, duration,
        )  # fmt: skip
