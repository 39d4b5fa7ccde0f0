"""The way from a transformer to its predictor: in the caller's name, within its time, repeated only where that is safe.

One for the process. Next: `inference/upstream/rest.py` or `grpc.py`.
"""

from __future__ import annotations

import asyncio
import logging
import random
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import Any, Final, TypeVar

from inference.batching.caller import caller
from inference.batching.terms import USUAL, Terms
from inference.errors import DeadlineExceeded, InferenceError
from inference.runtime import Answer, Arrays
from inference.upstream.rest import RestWire
from inference.upstream.settings import Protocol, UpstreamSettings
from inference.upstream.text import Text
from inference.upstream.wire import Passing, Wire
from streams.events import SYNTHETIC_HEADER, SYNTHETIC_PARAMETER

T = TypeVar("T")

log = logging.getLogger(__name__)

PASSED_ON: Final = (
    "authorization", "traceparent", "tracestate", "baggage", "b3", "x-b3-traceid", "x-b3-spanid", "x-b3-parentspanid",
    "x-b3-sampled", "x-b3-flags", SYNTHETIC_HEADER,
)  # fmt: skip
"""Headers of the caller that the predictor gets, too; besides the request id, and how much time is left."""
_REQUEST_ID: Final = "x-request-id"
_TIMEOUT: Final = "x-sidelight-timeout-ms"
_FIRST_PAUSE_S: Final = 0.05
_PROBE_S: Final = 5.0
_AWAITED: Final = 64


class Link:
    """Asks one predictor. Thread-safe."""

    def __init__(self, settings: UpstreamSettings, jitter: random.Random, output_name: str = "output-0") -> None:
        """Begin; connects with the first call.

        Args:
            settings: where and how.
            jitter: shortens pauses at random, so that several transformers do not come back at the same moment.
            output_name: what a V1 predictor's predictions are called, which have no name.
        """
        self.settings, self._jitter = settings, jitter
        self._wire = _wire(settings, output_name)
        self._threads = ThreadPoolExecutor(_AWAITED, "predictor")
        self._probed: dict[str, bool] = {}
        self._probing = threading.Lock()
        self._closed = threading.Event()

    def infer(self, model: str, inputs: Arrays, parameters: Mapping[str, Any]) -> Answer:
        """Have the predictor predict.

        Raises:
            PredictorRefused: it found something wrong with the call.
            PredictorUnavailable: it cannot be reached, or is not ready; its `retry_after_s` says when to come again.
            PredictorFailed: it failed, or what came back is no answer.
            DeadlineExceeded: no answer in time.
        """
        return self._asked(parameters, lambda head, left: self._wire.infer(model, inputs, parameters, head, left))

    def generate(self, model: str, prompt: str, parameters: Mapping[str, Any]) -> Text:
        """Have the predictor make a text; give it when its first piece has come. Raises what `infer` raises."""
        return self._asked(parameters, lambda head, left: self._wire.generate(model, prompt, parameters, head, left))

    def _asked(self, parameters: Mapping[str, Any], ask: Callable[[Mapping[str, str], float], T]) -> T:
        asking = caller()
        terms = USUAL if asking is None else asking.terms
        begun = time.monotonic()
        until = begun + self.settings.timeout_s
        until = until if terms.deadline is None else min(until, terms.deadline)
        for attempt in range(self.settings.retries + 1):
            left = until - time.monotonic()
            if left <= 0:
                break
            try:
                return ask(head_of(terms, parameters, left), left)
            except Passing as exc:
                pause = max(exc.after_s, _FIRST_PAUSE_S * 2**attempt * (0.5 + self._jitter.random() / 2))
                if attempt == self.settings.retries or pause >= until - time.monotonic():
                    raise exc.error from exc
                self._closed.wait(pause)
            except TimeoutError:
                break
        raise DeadlineExceeded(round(until - begun, 3))

    async def infer_async(self, model: str, inputs: Arrays, parameters: Mapping[str, Any]) -> Answer:
        """Do the same for a coroutine."""
        # A thread knows its caller by the context alone.
        asked = partial(copy_context().run, self.infer, model, inputs, parameters)
        return await asyncio.get_running_loop().run_in_executor(self._threads, asked)

    async def generates(self, model: str, terms: Terms) -> bool:
        """Say whether the predictor says of a model that it makes text; asked once a minute. What fails says no."""
        descriptions = self._wire.descriptions
        found = descriptions.known(model)
        if found is None:
            left = _PROBE_S if terms.deadline is None else min(_PROBE_S, terms.deadline - time.monotonic())
            asked = partial(descriptions.of, model, head_of(terms, {}, left), left)
            try:
                found = await asyncio.get_running_loop().run_in_executor(self._threads, asked)
            except (InferenceError, Passing, TimeoutError):
                return False
        return found.makes_text

    def ready(self, model: str) -> bool:
        """Say whether the predictor was ready a moment ago. Never waits; the first question begins the looks."""
        if not self.settings.check_health:
            return True
        with self._probing:
            if model not in self._probed:
                self._probed[model] = False
                threading.Thread(target=self._watch, args=(model,), name="watch the predictor", daemon=True).start()
            return self._probed[model]

    def close(self) -> None:
        """Let go of connections and threads."""
        self._closed.set()
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._wire.close()

    def _watch(self, model: str) -> None:
        while not self._closed.is_set():
            found = self._look(model)
            if found != self._probed[model]:
                log.info("the predictor behind %s is %s", model, "ready" if found else "not ready")
            self._probed[model] = found
            self._closed.wait(self.settings.check_every_s)

    def _look(self, model: str) -> bool:
        try:
            return self._wire.ready(model, _PROBE_S)
        except (InferenceError, Passing, TimeoutError):
            return False


def head_of(terms: Terms, parameters: Mapping[str, Any], left_s: float) -> dict[str, str]:
    """Give the headers of a call in its caller's name."""
    given = terms.headers
    head = {name: given[name] for name in PASSED_ON if name in given}
    identity = given.get(_REQUEST_ID) or given.get("ce-id")
    if identity:
        head[_REQUEST_ID] = identity
    if terms.traceparent:
        head["traceparent"] = terms.traceparent
    if parameters.get(SYNTHETIC_PARAMETER) is True:
        head.setdefault(SYNTHETIC_HEADER, "1")
    head[_TIMEOUT] = str(max(1, int(left_s * 1_000)))
    return head


def _wire(settings: UpstreamSettings, output_name: str) -> Wire:
    if settings.protocol is not Protocol.GRPC:
        return RestWire(settings, output_name)
    from inference.upstream.grpc import GrpcWire  # noqa: PLC0415 - whoever wants no gRPC needs none of it

    return GrpcWire(settings)
