"""What shadow versions answered, as payload events: they are no exchange that a proxy could see.

A predictor's threads offer; one thread of this makes events of it, under the rules of the tap it is given, and sends
them. A prediction never waits for it: beyond the bounds what is offered is dropped, and counted. At any time

    offered = sent + waiting + Σ dropped{reason}

The component of these events is `shadow`, so that their rows are apart from those of what users were answered.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote
from uuid import uuid4

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from inference.errors import InvalidInput
from inference.protocol.errors import ProtocolError
from inference.rest.answers import status_of
from inference.shadows import Shadowed, Unanswered, Written
from logger.heads import Fields
from logger.tap import Body, Seen, Tap
from logger.way import Fate, Origin, Way
from streams.events import MODEL_VERSION_HEADER, SYNTHETIC_HEADER

log = logging.getLogger(__name__)

_OK: Final = 200
_FAILED: Final = 500
_ORIGIN: Final = Origin(0, 0, 0)
_POLL_S: Final = 0.05
_LOOK_S: Final = 1.0
QUEUE_FULL: Final = "queue-full"
NO_SINK: Final = "no-sink"
REASONS: Final = (
    QUEUE_FULL,
    NO_SINK,
    *(fate.name.lower().replace("_", "-") for fate in Fate if fate is not Fate.DELIVERED),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowSettings:
    """What may wait here, besides what the way out holds."""

    exchanges: int = 2_000
    """More are dropped: a prediction must not wait for the record of another that nobody asked for."""
    max_bytes: int = 16 << 20
    """Of their bodies, likewise."""
    flush_s: float = 5.0
    """How long a stop waits for the sink."""


class ShadowLog(Collector):
    """A predictor's witness of shadows; see `inference/shadows.py`. Any thread may offer.

    Args:
        tap: makes the events.
        build: makes the way out, when the first copy was answered: a predictor without shadows needs no sink.
        capture: bytes kept of a body.
        more: shown on the page beside what is counted here: what the tap's rules did.
        named: gives the tap for a model's events, where services are named after their models.
    """

    def __init__(
        self, tap: Tap, build: Callable[[], Way], capture: int, settings: ShadowSettings | None = None,
        more: Sequence[Collector] = (), named: Callable[[str], Tap] | None = None,
    ) -> None:  # fmt: skip
        self._named = named or (lambda _model: tap)
        self._tap, self._build, self._capture, self._more = tap, build, capture, more
        self._settings = settings or ShadowSettings()
        self._changed = threading.Condition()
        self._queue: deque[Shadowed | Unanswered] = deque()
        self._bytes = 0
        self._thread: threading.Thread | None = None
        self._closing_by: float | None = None
        self._last_us = 0
        self._offered = self._sent = 0
        self._dropped: Counter[str] = Counter()

    def offer(self, shadowed: Shadowed | Unanswered) -> None:
        """Take one, or drop and count it. Never waits for the sink."""
        size = _size(shadowed)
        with self._changed:
            self._offered += self._tap.events_each
            full = len(self._queue) >= self._settings.exchanges or self._bytes + size > self._settings.max_bytes
            if full or self._closing_by is not None:
                self._dropped[QUEUE_FULL if full else "shutdown"] += self._tap.events_each
                return
            self._queue.append(shadowed)
            self._bytes += size
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="shadow events", daemon=True)
                self._thread.start()
            self._changed.notify()

    def close(self) -> None:
        """Send what waits, for a while; what is left then is dropped and counted."""
        with self._changed:
            self._closing_by = time.monotonic() + self._settings.flush_s
            self._changed.notify()
            thread = self._thread
        if thread is not None:
            thread.join()
            log.info("shadow events: %d offered, %d sent, dropped %s", self._offered, self._sent, dict(self._dropped))

    def collect(self) -> Iterator[Metric]:
        """Give the metrics. Called by the registry."""
        with self._changed:
            offered, sent, dropped = self._offered, self._sent, dict(self._dropped)
        yield CounterMetricFamily("sidelight_shadow_events_offered", "Events of copies.", offered)
        yield CounterMetricFamily("sidelight_shadow_events_sent", "Of them: acknowledged by the sink.", sent)
        lost = CounterMetricFamily("sidelight_shadow_events_dropped", "Of them: given up.", labels=("reason",))
        for reason in REASONS:
            lost.add_metric((reason,), dropped.get(reason, 0))
        yield lost
        waiting = offered - sent - sum(dropped.values())
        yield GaugeMetricFamily("sidelight_shadow_events_waiting", "Of them: neither yet.", waiting)
        for collector in self._more:
            yield from collector.collect()

    def _run(self) -> None:
        try:
            way = self._build()
        except Exception:
            log.exception("shadow events have no way out: all are dropped")
            self._drop_all()
            return
        while True:
            with self._changed:
                if not self._queue and way.resting():
                    if self._closing_by is not None:
                        break
                    self._changed.wait(_LOOK_S)
                ended = self._closing_by is not None and time.monotonic() > self._closing_by
            if ended:
                break
            while way.room() and (taken := self._take()) is not None:
                self._post(way, taken)
            way.work(_POLL_S if self._queue or not way.resting() else 0.0)
        way.close()
        with self._changed:
            self._dropped["shutdown"] += len(self._queue) * self._tap.events_each
            self._queue.clear()

    def _post(self, way: Way, shadowed: Shadowed | Unanswered) -> None:
        try:
            letters = self._named(shadowed.model).letters(self._seen(shadowed), time.time_ns() // 1_000)
        except Exception as exc:  # noqa: BLE001 - one answer's events must not cost those of all others
            # No traceback: an error's text may quote a body.
            log.error("the events of a shadow's answer cannot be made: %s", type(exc).__name__)  # noqa: TRY400
            for _ in range(self._tap.events_each):
                self._settle(Fate.UNREADABLE)
            return
        way.take(_ORIGIN, letters, self._settle)

    def _settle(self, fate: Fate) -> None:
        with self._changed:
            if fate is Fate.DELIVERED:
                self._sent += 1
            else:
                self._dropped[fate.name.lower().replace("_", "-")] += 1

    def _take(self) -> Shadowed | Unanswered | None:
        with self._changed:
            if not self._queue:
                return None
            taken = self._queue.popleft()
            self._bytes -= _size(taken)
            return taken

    def _drop_all(self) -> None:
        with self._changed:
            while True:
                self._dropped[NO_SINK] += len(self._queue) * self._tap.events_each
                self._queue.clear()
                self._bytes = 0
                if self._closing_by is not None:
                    return
                self._changed.wait()

    def _seen(self, told: Shadowed | Unanswered) -> Seen:
        shadowed, status = _refusal(told) if isinstance(told, Unanswered) else (told, _OK)
        # Two shadows of one request share its correlation id, and the time of their start tells them apart.
        self._last_us = started = max(self._last_us + 1, shadowed.started_us)
        name = quote(shadowed.model, safe="")
        path = f"/v1/models/{name}:predict" if shadowed.protocol == "v1" else f"/v2/models/{name}/infer"
        asked = _content(shadowed.request)
        if shadowed.traceparent:
            asked.append((b"traceparent", shadowed.traceparent.encode()))
        if shadowed.synthetic:
            asked.append((SYNTHETIC_HEADER.encode(), b"true"))
        seen = Seen(
            correlation=shadowed.correlation or str(uuid4()), method="POST", path=path,
            request_fields=asked, started_us=started, status=status, latency_us=shadowed.latency_us,
            response_fields=[
                *_content(shadowed.response), (MODEL_VERSION_HEADER.encode(), shadowed.version.encode())
            ],
        )  # fmt: skip
        seen.request, seen.response = self._body(shadowed.request), self._body(shadowed.response)
        return seen

    def _body(self, written: Written) -> Body:
        body = Body()
        body.add(written.content, self._capture)
        return body


def _content(written: Written) -> Fields:
    if written.header_length is None:
        return [(b"content-type", b"application/json")]
    return [
        (b"content-type", b"application/octet-stream"),
        (b"inference-header-content-length", b"%d" % written.header_length),
    ]


def _refusal(told: Unanswered) -> tuple[Shadowed, int]:
    """Give the exchange as a caller of the shadow would have seen it, and its status."""
    try:
        protocol, request, synthetic = told.asked()
    except (ProtocolError, InvalidInput):
        # It was no request: whoever sent it has heard so.
        protocol, request, synthetic = "v2", Written(b""), False
    error = told.error
    status = (status_of(error) if isinstance(error, Exception) else None) or _FAILED
    said = json.dumps({"error": str(error)}).encode()
    shadowed = Shadowed(
        model=told.model, version=told.version, protocol=protocol, correlation=told.correlation,
        traceparent=told.traceparent, synthetic=told.synthetic or synthetic, started_us=told.started_us,
        latency_us=told.latency_us, request=request, response=Written(said),
    )  # fmt: skip
    return shadowed, status


def _size(shadowed: Shadowed | Unanswered) -> int:
    if isinstance(shadowed, Unanswered):
        return shadowed.size
    return len(shadowed.request.content) + len(shadowed.response.content)
