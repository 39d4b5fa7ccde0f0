"""The stage's way to the data plane: calls begin and are waited for later, so that reading and writing go on meanwhile.

What may pass (not loaded yet, overloaded, late) is `NotNow`, for as long as the operator's patience lasts.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final, TypeAlias

from inference import timeouts
from inference.batching.terms import Terms
from inference.dataplane import DataPlane
from inference.errors import (
    DeadlineExceeded,
    InferenceError,
    ModelNotFound,
    ModelNotReady,
    Overloaded,
    PredictionFailed,
)
from inference.kafka.calls import Call, Side
from inference.kafka.envelopes import Envelope
from inference.kafka.requests import Ask
from inference.kafka.sheets import Answered
from inference.protocol.errors import ProtocolError
from inference.protocol.v1 import V1Request
from inference.protocol.v2 import InferRequest
from inference.repository import Repository
from streams.errors import NotNow
from streams.events import SYNTHETIC_HEADER

_WAITED_S: Final = 0.001
"""Who has waited for so long for a model is faster than it, and has time to give way."""
_WAY_S: Final = 0.001
"""How long it does, with another call under way. That one is at its beginning, which is Python between many small steps
that give Python's lock up: whoever takes it there, to write a whole call's answers, keeps the model from computing. A
moment later the model computes without the lock, and the answers are written meanwhile."""
MAY_PASS: Final = (ModelNotReady, Overloaded, DeadlineExceeded)


class PlaneModels:
    """`Models` over one data plane, for all partitions.

    Args:
        plane: computes.
        repository: knows which version answers.
        patience_s: how long a model may be away.
        shadowed_apart: whether a request that shadow versions get, too, is joined with no other: what they answer is
            told of one call.
    """

    def __init__(
        self, plane: DataPlane, repository: Repository, *, patience_s: float = math.inf, shadowed_apart: bool = False
    ) -> None:
        self._plane, self._repository, self._patience_s = plane, repository, patience_s
        self._shadowed_apart = shadowed_apart
        self._lock = threading.Lock()
        self._away_since: dict[tuple[str, str | None], float] = {}
        self._taken_at: dict[_Place, float] = {}
        """When calls with a time limit of their own were first begun that are yet to be answered."""
        self._under_way = 0

    def side(self, ask: Ask) -> Side:
        """Say with which other requests one may be joined; see `inference.kafka.calls.Models`."""
        around = ask.envelope
        model, version = around.head.model, around.head.version
        choice = self._repository.choose(model, version, around.correlation.encode(), _headers(around))
        try:
            loaded = self._repository.loaded(model, choice.version)
        except ModelNotReady:
            # Loaded by the first call; until then nobody knows.
            return Side(choice, 1)
        if choice.shadows and self._shadowed_apart:
            return Side(choice, 1, choice.steady)
        return Side(choice, loaded.settings.max_batch or loaded.runtime.max_batch, choice.steady)

    def start(self, call: Call) -> _Answer:
        """Begin a call."""
        try:
            return _Answer(self, call, self._counted(self._begun(call)))
        except Exception as exc:  # noqa: BLE001 - told when the answer is waited for, as whatever comes later is
            problem = exc

        def fail() -> Answered:
            raise problem

        return _Answer(self, call, fail)

    def lost(self) -> str:
        """Say why no model can answer any more; see `inference.kafka.calls.Models`."""
        return self._plane.lost()

    def _counted(self, wait: Callable[[], Answered]) -> Callable[[], Answered]:
        """Count a call that has begun until it has ended; what waits for it gives way to those that have not."""
        with self._lock:
            self._under_way += 1

        def waited() -> Answered:
            began = time.monotonic()
            try:
                answered = wait()
            finally:
                with self._lock:
                    self._under_way -= 1
                    others = self._under_way
            if others and time.monotonic() - began > _WAITED_S:
                time.sleep(_WAY_S)
            return answered

        return waited

    def patient(self, call: Call, error: InferenceError) -> NotNow | None:
        """Say whether to try again; None when it has been away for too long."""
        with self._lock:
            since = self._away_since.setdefault((call.model, call.version), time.monotonic())
        return NotNow(str(error), "model") if time.monotonic() - since < self._patience_s else None

    def over(self, call: Call) -> None:
        """Note that a call will not be made again."""
        if self._taken_at:
            with self._lock:
                self._taken_at.pop(_place(call.around), None)

    def there(self, call: Call) -> None:
        """Note that a model has answered."""
        if self._away_since:
            with self._lock:
                self._away_since.pop((call.model, call.version), None)

    def _begun(self, call: Call) -> Callable[[], Answered]:
        around = call.around
        terms = Terms(
            key=around.correlation.encode(), headers=_headers(around), protocol="kafka", whole=True,
            size=_size(call), traceparent=around.traceparent, others=call.traces,
            yielding=around.head.synthetic,
        )  # fmt: skip
        if isinstance(call.request, V1Request):
            if call.version is not None:
                raise ModelNotFound(call.model, call.version)
            predictions = self._plane.predict_v1_later(call.model, call.request, terms)
            return lambda: Answered(predictions(), "", _now_us())
        terms = self._until(terms, around, call.request)
        response = self._plane.infer_later(call.model, call.request, call.version, terms)

        def wait() -> Answered:
            given = response()
            return Answered(given.outputs, given.model_version or "", _now_us())

        return wait

    def _until(self, terms: Terms, around: Envelope, request: InferRequest) -> Terms:
        """Heed the caller's own time limit.

        Raises:
            DeadlineExceeded: nobody waits any more.
        """
        seconds = timeouts.asked(request.parameters)
        if seconds is None:
            return terms
        left = seconds - self._waited_s(around)
        if left <= 0:
            raise DeadlineExceeded(seconds)
        return replace(terms, deadline=time.monotonic() + left)

    def _waited_s(self, around: Envelope) -> float:
        """Give how long a request has waited, by clocks of the operator's: a client's may be an hour off.

        By the broker's where the topic has that. Otherwise by ours, since we first took it up.
        """
        if around.record.appended:
            return max(0.0, time.time() - around.record.timestamp_ms / 1000)
        now = time.monotonic()
        with self._lock:
            taken_at = self._taken_at.setdefault(_place(around), now)
            if len(self._taken_at) > _MOST_TAKEN:
                # Of partitions that are somebody else's by now.
                del self._taken_at[next(iter(self._taken_at))]
        return now - taken_at


_Place: TypeAlias = tuple[str, int, int]
_MOST_TAKEN: Final = 4_096
"""More calls than all partitions of a process have under way."""


def _place(around: Envelope) -> _Place:
    record = around.record
    return record.topic, record.partition, record.offset


def _size(call: Call) -> int:
    """Give the bytes that a request holds: those of its body, or of the tensors that it has become."""
    tensors = call.request.inputs if isinstance(call.request, InferRequest) else ()
    return max(call.size, sum(tensor.data.nbytes for tensor in tensors))


def _now_us() -> int:
    return time.time_ns() // 1000


def _headers(around: Envelope) -> dict[str, str]:
    found = {name.lower(): (value or b"").decode("utf-8", "replace") for name, value in around.record.headers}
    if around.head.synthetic:
        # An event says so in an attribute, where nobody looks who knows HTTP's headers.
        found[SYNTHETIC_HEADER] = "true"
    return found


class _Answer:
    """A call under way."""

    def __init__(self, models: PlaneModels, call: Call, wait: Callable[[], Answered]) -> None:
        self._models, self._call, self._wait = models, call, wait

    def result(self) -> Answered:
        """Wait; see `inference.kafka.calls.Pending`."""
        try:
            answered = self._told()
        except NotNow:
            raise
        except BaseException:
            self._models.over(self._call)
            raise
        self._models.over(self._call)
        return answered

    def _told(self) -> Answered:
        try:
            answered = self._wait()
        except MAY_PASS as exc:
            if isinstance(exc, DeadlineExceeded) and self._limited():
                # The caller's own: another try would be too late, too.
                raise
            not_now = self._models.patient(self._call, exc)
            if not_now is None:
                raise
            raise not_now from exc
        except (InferenceError, ProtocolError):
            raise
        except Exception as exc:
            # Such as a repository that cannot read a folder: the request must not be taken for poison.
            raise PredictionFailed(f"{type(exc).__name__} : {exc}") from exc
        self._models.there(self._call)
        return answered

    def _limited(self) -> bool:
        """Say whether the caller has a time limit of its own."""
        request = self._call.request
        return isinstance(request, InferRequest) and timeouts.asked(request.parameters) is not None
