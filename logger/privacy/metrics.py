"""What the privacy rules did, on the logger's Prometheus page."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from logger.privacy.cleaner import Cleaner
from logger.privacy.errors import REASONS


class PrivacyCollector(Collector):
    """Shows a cleaner's counts; they begin anew with its process, as Prometheus expects of counters."""

    def __init__(self, cleaner: Cleaner) -> None:
        self._cleaner = cleaner

    def collect(self) -> Iterable[Metric]:
        """Give the families."""
        counts = self._cleaner.counts
        withheld = CounterMetricFamily(
            "sidelight_logger_withheld", "Bodies replaced by length and digest.", labels=("reason",)
        )
        for reason in REASONS:
            withheld.add_metric((reason,), counts[reason])
        redacted = CounterMetricFamily("sidelight_logger_redacted", "Bodies that rules were applied to.")
        redacted.add_metric((), counts["redacted"])
        return (redacted, withheld)
