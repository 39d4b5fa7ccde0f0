"""A tap that puts large bodies into a store and leaves the claim check in the event. It stands before all others.

A body that the store does not take is cut to what a record holds and marked, and counted: the event is never lost.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from typing import Final

from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from logger.tap import Letter, Seen, Tap
from streams.claims import ClaimStore
from streams.errors import ClaimFailed, ClaimsAway

log = logging.getLogger(__name__)

_SAY_EVERY_S: Final = 10.0


class ClaimTap(Tap):
    """Has another tap make the events.

    Args:
        inner: makes the events; a sealed body goes to the store sealed.
        store: where large bodies go. The shipper waits for it, and shared memory holds what comes meanwhile.
        above: bytes above which a body is large.
        service: the first part of an object's name.
    """

    def __init__(self, inner: Tap, store: ClaimStore, above: int, service: str) -> None:
        self._inner, self._store, self._above, self._service = inner, store, above, service
        self.events_each = inner.events_each
        self.stored = self.failed = 0
        self._said = -_SAY_EVERY_S

    def letters(self, seen: Seen, recorded_us: int) -> list[Letter]:
        """Give the events of one exchange; see `Tap.letters`."""
        letters = self._inner.letters(seen, recorded_us)
        if all(len(letter.value) <= self._above for letter in letters):
            return letters
        day = time.strftime("%Y-%m-%d", time.gmtime(seen.started_us / 1e6))
        return [self._checked(letter, day) if len(letter.value) > self._above else letter for letter in letters]

    def _checked(self, letter: Letter, day: str) -> Letter:
        identity = next(value for name, value in letter.headers if name == "ce_id").decode()
        try:
            url = self._store.put(f"{self._service}/{day}/{identity}", letter.value)
        except (ClaimFailed, ClaimsAway) as exc:
            self.failed += 1
            if time.monotonic() - self._said > _SAY_EVERY_S:
                self._said = time.monotonic()
                log.error("a large body is cut, for the store does not take it: %s", exc)  # noqa: TRY400 - not ours
            headers = tuple(pair for pair in letter.headers if pair[0] != "ce_truncated")
            return Letter(letter.key, letter.value[: self._above], (*headers, ("ce_truncated", b"true")))
        self.stored += 1
        return Letter(letter.key, b"", (*letter.headers, ("ce_dataref", url.encode())))


class ClaimCollector(Collector):
    """Shows what became of large bodies; the counts begin anew with their process, as counters may in Prometheus."""

    def __init__(self, tap: ClaimTap) -> None:
        self._tap = tap

    def collect(self) -> Iterable[Metric]:
        """Give the families."""
        yield CounterMetricFamily(
            "sidelight_logger_claims_stored", "Bodies put into the store.", value=self._tap.stored
        )
        yield CounterMetricFamily(
            "sidelight_logger_claims_failed", "Bodies cut because the store did not take them.", value=self._tap.failed
        )
