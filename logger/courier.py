"""The one thread that takes exchanges out of the outbox, makes events of them and hands those to the publisher.

The model's answer never waits for it. It works in small slices, because while it runs the event loop does not.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import Final

from logger.outbox import Outbox
from logger.settings import OutboxSettings, TapSettings
from logger.tap import events_for
from streams.bindings import to_kafka
from streams.errors import Refused, Unavailable
from streams.stage import Output, Publisher

log = logging.getLogger(__name__)

_SLICE: Final = 16
_IDLE_S: Final = 0.005
_PAUSE_S: Final = 0.2


@dataclass(frozen=True, slots=True)
class _Letter:
    """One record on its way, with when it was first tried."""

    output: Output
    size: int
    since: float


class Courier:
    """Publishes what the outbox holds."""

    def __init__(
        self, outbox: Outbox, publisher: Publisher, tap: TapSettings, settings: OutboxSettings, topic: str
    ) -> None:
        self._outbox, self._publisher, self._tap, self._settings = outbox, publisher, tap, settings
        self._topic = topic
        self._again: deque[_Letter] = deque()
        self._unanswered = 0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, name="courier", daemon=True)
        self.delivery_seconds = 0.0
        """Time from the first attempt to the acknowledgement, added up over delivered events."""

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Deliver what is left within the deadline; what is not delivered by then is counted as dropped."""
        self._stopping.set()
        self._thread.join()

    def _work(self) -> None:
        while not self._stopping.is_set():
            if not self._turn():
                self._publisher.poll(_IDLE_S)
        deadline = time.monotonic() + self._settings.flush_s
        while (self._outbox.depth() or self._again or self._unanswered) and time.monotonic() < deadline:
            if not self._turn():
                self._publisher.poll(_IDLE_S)
        self._give_up()

    def _turn(self) -> bool:
        """Send one slice; say whether there was anything to send."""
        if self._again:
            self._retry()
            return False
        slice_ = self._outbox.take(_SLICE)
        for seen in slice_:
            size = seen.size
            for event in events_for(seen, self._tap, time.time_ns() // 1000):
                headers, value = to_kafka(event)
                self._send(
                    _Letter(Output(self._topic, seen.correlation.encode(), value, headers), size, time.monotonic())
                )
                size = 0
        self._publisher.poll(0)
        return bool(slice_)

    def _retry(self) -> None:
        """Try again what the broker did not take, at a gentle pace and within bounds."""
        self._publisher.poll(_PAUSE_S)
        for _ in range(len(self._again)):
            letter = self._again.popleft()
            if time.monotonic() - letter.since > self._settings.retry_s:
                self._lose("undelivered", letter)
            else:
                self._send(letter)

    def _send(self, letter: _Letter) -> None:
        def done(error: Exception | None) -> None:
            self._unanswered -= 1
            if error is None:
                self._outbox.deliver(1, letter.size)
                self.delivery_seconds += time.monotonic() - letter.since
            elif isinstance(error, Refused):
                log.error("the broker refuses payload events: %s", error)
                self._lose("refused", letter)
            else:
                self._again.append(letter)

        try:
            self._publisher.send(letter.output, done)
        except Unavailable:
            self._again.append(letter)
        except Refused as exc:
            log.error("the broker refuses payload events: %s", exc)  # noqa: TRY400 - the traceback would say no more
            self._lose("refused", letter)
        else:
            self._unanswered += 1

    def _lose(self, reason: str, letter: _Letter) -> None:
        self._outbox.lose(reason, 1, letter.size)

    def _give_up(self) -> None:
        left = self._outbox.in_flight()
        if left:
            self._outbox.lose("shutdown", left, 0)
            log.error("%d events were not delivered before the end", left)
