"""The logger in its calls' traces: a span for each call that is logged, between its caller's and the model's.

The proxy forwards the `traceparent` of that span and knows no more of it; the shipper, which sees the call when it is
over, names the same span again and records it, and the events go on below it. Only traces that come are continued, and
only those that somebody records.
"""

from __future__ import annotations

from typing import Final

from logger.heads import Fields
from logger.tap import Letter, Seen, Tap
from streams.events import TRACEPARENT
from streams.tracecontext import Place, below, recorded
from streams.traces import Traces

_FIELD: Final = TRACEPARENT.encode()
_HEADER: Final = f"ce_{TRACEPARENT}"
_BROKEN: Final = 500


def span_of(seen: Seen) -> tuple[Place, Place] | None:
    """Give a call's span and the one above it; None where it has no trace, or nobody records that."""
    given = next((value for name, value in seen.request_fields if name == _FIELD), None)
    parent = recorded(given.decode("latin-1")) if given else None
    # The start tells calls apart that a client makes under one id and one span.
    return None if parent is None else (below(parent, seen.correlation, seen.started_us), parent)


def carried(fields: Fields, seen: Seen) -> Fields:
    """Give the fields that the model gets: those that came, but below the logger's span."""
    found = span_of(seen)
    if found is None:
        return fields
    own = (_FIELD, str(found[0]).encode())
    # The others as they are: gRPC's fields may be marked as secrets.
    return [own if item[0] == _FIELD else item for item in fields]


class TracedTap(Tap):
    """Records the span of each exchange, and has another tap make the events, which name that span. Stands first."""

    def __init__(self, inner: Tap, traces: Traces) -> None:
        self._inner, self._traces = inner, traces
        self.events_each = inner.events_each

    def letters(self, seen: Seen, recorded_us: int) -> list[Letter]:
        """Give the events of one exchange; see `Tap.letters`."""
        letters = self._inner.letters(seen, recorded_us)
        found = span_of(seen)
        if found is None:
            return letters
        own, parent = found
        self._traces.record(
            f"{seen.method} {seen.path}", "SERVER", own, parent, seen.started_us, seen.started_us + seen.latency_us,
            {
                "http.request.method": seen.method, "url.path": seen.path, "http.response.status_code": seen.status,
                "sidelight.correlation": seen.correlation,
            },
            _problem(seen),
        )  # fmt: skip
        named = str(own).encode()
        return [
            letter._replace(
                headers=tuple((name, named if name == _HEADER else value) for name, value in letter.headers)
            )
            for letter in letters
        ]


def _problem(seen: Seen) -> str:
    if seen.aborted:
        return "aborted"
    return "" if 0 < seen.status < _BROKEN else f"status {seen.status}"
