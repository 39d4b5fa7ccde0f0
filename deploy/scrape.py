"""Reads Prometheus pages of our own processes: the numbers behind `sidelight status` and the demo."""

from __future__ import annotations

import http.client
import urllib.request
from collections.abc import Iterable
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

# Our own processes are on this machine: a proxy that the environment names could not reach them.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True, slots=True)
class Samples:
    """One page, or several pages added up."""

    values: tuple[tuple[str, dict[str, str], float], ...] = ()

    def total(self, name: str, **labels: str) -> float:
        """Add up every sample of this name whose labels include these."""
        return sum(
            value
            for sample, own, value in self.values
            if sample == name and all(own.get(key) == wanted for key, wanted in labels.items())
        )

    def by(self, name: str, label: str) -> dict[str, float]:
        """Add up the samples of a name by one label's values."""
        totals: dict[str, float] = {}
        for sample, own, value in self.values:
            if sample == name:
                totals[own.get(label, "")] = totals.get(own.get(label, ""), 0.0) + value
        return totals


def read(url: str, timeout_s: float = 2.0) -> Samples | None:
    """Fetch one page; None when nobody answers, or with something else."""
    try:
        with _OPENER.open(url, timeout=timeout_s) as answer:
            families = list(text_string_to_metric_families(answer.read().decode()))
    except (OSError, ValueError, http.client.HTTPException):
        return None
    return Samples(tuple((s.name, dict(s.labels), s.value) for family in families for s in family.samples))


def read_all(urls: Iterable[str]) -> Samples:
    """Fetch several pages and put their samples together; silent ones add nothing."""
    pages = [page for page in map(read, urls) if page is not None]
    return Samples(tuple(sample for page in pages for sample in page.values))
