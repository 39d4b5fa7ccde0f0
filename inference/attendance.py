"""Shows the clients' connections on `/metrics`: how many there are, were turned away, and were cut. By protocol."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


class Count(NamedTuple):
    """Those of a protocol."""

    present: int
    refused: int
    """Were one too many."""
    unread: int
    """Left their answers unread for too long."""


class Attendance(Collector):
    """Counts them."""

    def __init__(self) -> None:
        self._counts: dict[str, Callable[[], Count]] = {}

    def add(self, protocol: str, count: Callable[[], Count]) -> None:
        """Show those of a protocol, too."""
        self._counts[protocol] = count

    def collect(self) -> Iterator[Metric]:
        """Count. Called by the registry."""
        name, by = "sidelight_predictor_connections", ("protocol",)
        here = GaugeMetricFamily(name, "Clients' connections.", labels=by)
        away = CounterMetricFamily(f"{name}_refused", "Connections that were one too many.", labels=by)
        cut = CounterMetricFamily(f"{name}_unread", "Connections and calls cut for answers not read.", labels=by)
        for protocol, count in self._counts.items():
            found = count()
            here.add_metric((protocol,), found.present)
            away.add_metric((protocol,), found.refused)
            cut.add_metric((protocol,), found.unread)
        yield here
        yield away
        yield cut
