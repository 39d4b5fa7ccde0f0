"""One call on its way to a model: what is to be done on a worker thread, for whom, and what came of it.

Made by `inference/dataplane.py`; `inference/batching/batcher.py` carries it through its states.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable
from enum import IntEnum
from typing import Any, Final, TypeAlias

from inference import texts, timeouts
from inference.batching.joining import Arrays, rows_of, shape_of
from inference.batching.terms import USUAL, Terms
from inference.errors import DeadlineExceeded, InferenceError, PredictionFailed
from inference.protocol.errors import ProtocolError
from inference.protocol.tensors import Parameters
from inference.repository import Lease, Loaded
from inference.runtime import Answer, Asked
from streams.errors import InvalidEvent
from streams.events import SYNTHETIC_PARAMETER

Given: TypeAlias = tuple[Arrays, Asked]
"""A call's inputs, and what else it says."""

NOTHING_ASKED: Final = Asked()


class Urgency(IntEnum):
    """Which queue a call waits in."""

    USER = 0
    YIELDING = 1


class State(IntEnum):
    """Where a call is. Changed under the batcher's lock only."""

    WAITING = 0
    """For its model to be loaded, or for a thread."""
    RUNNING = 1
    OVER = 2


class Call:
    """A unit of work: decode, be predicted on together with others, finish. All three on a worker thread.

    With `alone`, none of that: `alone` has the loaded model for itself, as explanations and generated texts want.
    """

    __slots__ = (
        "alone", "answer", "arrived", "asked", "choose", "compute_s", "computed", "deadline", "decode", "decode_s",
        "error", "failed", "finish", "finish_s", "gate", "inputs", "lane", "lease", "loop", "model", "result", "rows",
        "shape", "size", "started", "state", "terms", "together", "urgency",
    )  # fmt: skip

    def __init__(
        self,
        model: str,
        decode: Callable[[], Given] | None = None,
        finish: Callable[[Answer, Loaded], Any] | None = None,
        *,
        alone: Callable[[Loaded], Any] | None = None,
        terms: Terms = USUAL,
        timeout_s: float = math.inf,
    ) -> None:
        self.model, self.decode, self.finish, self.alone, self.terms = model, decode, finish, alone, terms
        self.urgency = Urgency.YIELDING if terms.yielding else Urgency.USER
        self.size = terms.size
        self.arrived = time.monotonic()
        self.deadline = self.arrived + timeout_s
        if terms.deadline is not None and terms.deadline < self.deadline:
            self.deadline = terms.deadline
        self.state = State.WAITING
        self.lane: Any = None
        """The queue that it waits in, once its model is there."""
        self.lease: Lease | None = None
        self.choose: Callable[[], str | None] | None = None
        """Finds out which version answers, where the model's files are yet to be read for that."""
        self.loop: asyncio.AbstractEventLoop | None = None
        self.answer: asyncio.Future[Any] | None = None
        self.gate: threading.Lock | None = None
        """Held until the call is over, for a caller that waits on a thread."""
        self.failed: Callable[[BaseException], None] | None = None
        """Told of an error, for a call that nobody waits for. On a worker thread."""
        self.inputs: Arrays | None = None
        self.asked = NOTHING_ASKED
        self.rows = 0
        """Known once decoded; 0 for a call that cannot be joined."""
        self.shape: tuple[object, ...] | None = None
        """Calls of equal shape can be joined."""
        self.result: Any = None
        self.error: BaseException | None = None
        self.started = self.computed = self.decode_s = self.compute_s = self.finish_s = 0.0
        self.together = 1
        """How many calls its prediction was for."""

    def abandoned(self) -> bool:
        """Say whether nobody waits for the answer any more."""
        return self.answer is not None and self.answer.done()

    def read(self, *, as_bytes: bool = False) -> None:
        """Decode, once; with texts as the model takes them."""
        if self.inputs is not None or self.decode is None:
            return
        start = time.monotonic()
        try:
            inputs, self.asked = self.decode()
            self.inputs = texts.fitted(inputs, as_bytes=as_bytes)
        finally:
            self.decode_s = time.monotonic() - start
        # The body goes now, not when the answer does.
        self.decode = None
        if self.asked is not NOTHING_ASKED:
            self._heed(self.asked.parameters)
        self.rows = rows_of(self.inputs)

    def goes_with(self, other: Call, *, asks: bool) -> bool:
        """Say whether two calls that were read can be joined.

        Args:
            other: another call.
            asks: the runtime looks at what else the calls say, so that must be the same.
        """
        return bool(self.rows and other.rows) and self._shaped(asks=asks) == other._shaped(asks=asks)

    def _heed(self, parameters: Parameters) -> None:
        if parameters.get(SYNTHETIC_PARAMETER) is True:
            self.urgency = Urgency.YIELDING
        seconds = timeouts.asked(parameters)
        if seconds is not None:
            self.deadline = min(self.deadline, self.arrived + seconds)
            if self.deadline <= time.monotonic():
                raise DeadlineExceeded(seconds)

    def _shaped(self, *, asks: bool) -> tuple[object, ...]:
        if self.shape is None:
            shape = shape_of(self.inputs or {})
            self.shape = (*shape, self.asked) if asks else shape
        return self.shape

    def complete(self, answer: Answer, loaded: Loaded, compute_s: float, computed: float) -> None:
        """Encode the answer, which was ready at `computed`; what goes wrong is this call's own error."""
        assert self.finish is not None  # noqa: S101 - calls with `alone` do not come here
        self.compute_s, self.computed = compute_s, computed
        start = time.monotonic()
        try:
            self.result = self.finish(answer, loaded)
        except BaseException as exc:  # noqa: BLE001 - whatever happens, the thread must live on
            self.error = exc
        self.finish_s = time.monotonic() - start

    def settle(self) -> None:
        """Hand the outcome to a waiting event loop. On that loop's thread."""
        answer = self.answer
        if answer is None or answer.done():
            return
        if self.error is None:
            answer.set_result(self.result)
        else:
            answer.set_exception(presentable(self.error))


def presentable(error: BaseException) -> Exception:
    """Give an error that any caller can bear: SystemExit and its like would end an event loop."""
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    return PredictionFailed(f"{type(error).__name__} : {error}")


def expected(error: BaseException) -> bool:
    """Say whether an error is the domain's own, as opposed to whatever a model may raise."""
    return isinstance(error, (InferenceError, ProtocolError, InvalidEvent))
