"""One turn on a worker thread: reads the calls, predicts on those that go together, and gives each its own answer."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from inference.batching import joining
from inference.batching.call import Call, Urgency, expected
from inference.batching.caller import on_behalf_of
from inference.batching.joining import Arrays
from inference.batching.lane import Lane
from inference.errors import PredictionFailed
from inference.instances import row_count
from inference.repository import Lease
from inference.runtime import Answer, Asked

if TYPE_CHECKING:
    from inference.batching.turns import Observer

log = logging.getLogger(__name__)


class Prediction:
    """Predicts for one lane."""

    def __init__(self, lane: Lane, urgency: Urgency, observer: Observer) -> None:
        self._lane, self._urgency, self._observer = lane, urgency, observer

    def run(self, calls: Sequence[Call]) -> list[Call]:
        """Answer calls that were taken together; give those back that turned out not to go with the first."""
        read = [call for call in calls if self._read(call)]
        if not read:
            return []
        first, *others = read
        together, left = [first], []
        rows, most = first.rows, self._lane.most()
        for call in others:
            fits = rows + call.rows <= most and call.urgency is first.urgency
            if fits and call.goes_with(first, asks=self._lane.asks):
                together.append(call)
                rows += call.rows
            else:
                left.append(call)
        if first.urgency is not self._urgency:
            # Found out when it was read: it goes to the end of the others that yield.
            return read
        lease = first.lease
        assert lease is not None  # noqa: S101 - a call that runs holds its model
        if len(together) > 1:
            if self._joined(lease, together, rows):
                return left
            self._apart(lease, together)
        else:
            self._single(lease, first)
        return left

    def _apart(self, lease: Lease, calls: Sequence[Call]) -> None:
        for call in calls:
            self._single(lease, call)
        # Where one call fails by itself, too, it was that one's rows and not the joining.
        self._lane.joined(well=any(call.error is not None for call in calls))

    def _read(self, call: Call) -> bool:
        if call.alone is not None:
            return True
        try:
            call.read(as_bytes=self._lane.takes_bytes)
        except BaseException as exc:  # noqa: BLE001 - whatever happens, the thread must live on
            call.error = exc
            self._observer.unread(call)
            return False
        return True

    def _joined(self, lease: Lease, calls: Sequence[Call], rows: int) -> bool:
        """Predict for all of them at once; False when each must go by itself."""
        counts = [call.rows for call in calls]
        try:
            inputs = joining.join([call.inputs for call in calls if call.inputs is not None])
            with on_behalf_of(lease.loaded.runtime, calls):
                answer, compute_s = self._predict(lease, inputs, calls[0].asked, rows)
            computed = time.monotonic()
            parts = joining.split(answer.outputs, counts)
        except joining.NotByRows as exc:
            log.warning("model %s: calls are no longer joined: %s", calls[0].model, exc)
            self._lane.never_join()
            return False
        except BaseException:  # noqa: BLE001 - each call finds its own error
            return False
        self._lane.joined(well=True)
        for call, outputs in zip(calls, parts, strict=True):
            call.together = len(calls)
            call.complete(answer.of(outputs), lease.loaded, compute_s, computed)
        self._noted(calls, rows, compute_s)
        return True

    def _single(self, lease: Lease, call: Call) -> None:
        try:
            if call.alone is not None:
                with on_behalf_of(lease.loaded.runtime, [call]), lease.turn:
                    start = time.monotonic()
                    call.result = call.alone(lease.loaded)
                self._observer.served(call, time.monotonic() - start)
                return
            assert call.inputs is not None  # noqa: S101 - it was read
            with on_behalf_of(lease.loaded.runtime, [call]):
                answer, compute_s = self._predict(lease, call.inputs, call.asked, call.rows)
        except BaseException as exc:  # noqa: BLE001 - whatever a model does, the thread must live on
            call.error = self._translated(call, exc)
            self._observer.spoilt(call)
            return
        call.complete(answer, lease.loaded, compute_s, time.monotonic())
        self._noted([call], call.rows or row_count(answer.outputs), compute_s)

    def _predict(self, lease: Lease, inputs: Arrays, asked: Asked, rows: int) -> tuple[Answer, float]:
        size = joining.padded_size(rows, self._lane.pad_to) if rows and self._lane.pad_to else rows
        given = joining.pad(inputs, rows, size) if size > rows else inputs
        with lease.turn:
            cpu = time.thread_time() if self._lane.to_be_timed() else None
            start = time.monotonic()
            runtime = lease.loaded.runtime
            answer = runtime.answer(given, asked) if self._lane.asks else Answer(outputs=runtime.predict(given))
            compute_s = time.monotonic() - start
            if cpu is not None:
                self._lane.timed(time.thread_time() - cpu)
        if size > rows:
            try:
                joining.check_rows(answer.outputs, size)
            except joining.NotByRows as exc:
                log.warning("model %s: batches are no longer padded: %s", lease.loaded.runtime.platform, exc)
                self._lane.pad_to = ()
                return self._predict(lease, inputs, asked, rows)
            answer = answer.of(joining.cut(answer.outputs, rows))
        return answer, compute_s

    def _translated(self, call: Call, error: BaseException) -> BaseException:
        if expected(error):
            return error
        log.error("model %s failed to predict", call.model, exc_info=error)
        return PredictionFailed(f"{type(error).__name__} : {error}")

    def _noted(self, calls: Sequence[Call], rows: int, compute_s: float) -> None:
        if rows:
            self._lane.learn(rows, len(calls), compute_s)
        self._observer.predicted(calls, rows)
