"""Copies of requests for shadow versions: sent after users' calls, answered for nobody but whoever keeps the answers.

What a copy led to is written as bodies of the protocol that its request came by, so that its rows have the columns of
the caller's own. Used by `inference/dataplane.py`; `logger/shadows.py` makes events of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, Protocol, TypeAlias

from inference.batching.batcher import Batcher
from inference.batching.call import Call, Given
from inference.batching.terms import Terms
from inference.metrics import PredictorMetrics
from inference.protocol import v1, v2
from inference.protocol.v1 import V1Request
from inference.protocol.v2 import InferRequest, InferResponse
from inference.repository import Loaded
from inference.runtime import Answer
from inference.work import V1Work, V2Work
from streams.events import SYNTHETIC_HEADER, SYNTHETIC_PARAMETER, means_synthetic

_TOPIC: Final = "kafka"


@dataclass(frozen=True, slots=True)
class Written:
    """A body, and the length of its JSON where tensors follow it."""

    content: bytes
    header_length: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Shadowed:
    """A copy of a request and the answer of the shadow version. Times are microseconds, since the epoch for a start."""

    model: str
    version: str
    protocol: str
    """v1 or v2."""
    correlation: str
    """Of the caller's request; empty where that had none."""
    traceparent: str
    synthetic: bool
    """Whether no user made the request."""
    started_us: int
    latency_us: int
    request: Written
    response: Written


@dataclass(frozen=True, slots=True, kw_only=True)
class Unanswered:
    """A copy that the shadow version has no answer to.

    Its request is written when `asked` is called, by whoever has time for that: a copy that was refused because too
    much waits must not cost its caller the writing.
    """

    model: str
    version: str
    """As the rollout names it."""
    correlation: str
    traceparent: str
    synthetic: bool
    started_us: int
    latency_us: int
    error: BaseException
    asked: Callable[[], tuple[str, Written, bool]]
    """See `Copy`. Any thread may call it."""
    size: int
    """Of the caller's request, about."""


Witness: TypeAlias = Callable[[Shadowed | Unanswered], None]
"""Told what became of each copy. On a thread that predicts, or the caller's: must not wait."""


class Copy(Protocol):
    """One request, to be read and answered once more."""

    def given(self) -> Given:
        """Read it."""

    def asked(self) -> tuple[str, Written, bool]:
        """Give the protocol, the request as a body, and whether it says that it is synthetic. Reads it anew.

        Raises:
            ProtocolError, InvalidInput: it cannot be read.
        """

    def told(self, answer: Answer, loaded: Loaded) -> tuple[str, Written, Written, bool]:
        """Give the protocol, the request and the response as bodies, and whether the request says it is synthetic."""


class V1Copy:
    """A V1 request."""

    def __init__(self, decode: Callable[[], V1Request]) -> None:
        self._decode = decode
        self._work = V1Work(self._read, lambda predictions, _version: v1.encode_response(predictions))

    def given(self) -> Given:
        """See `Copy`."""
        return self._work.given()

    def asked(self) -> tuple[str, Written, bool]:
        """See `Copy`."""
        return "v1", _rows(self._decode()), False

    def told(self, answer: Answer, loaded: Loaded) -> tuple[str, Written, Written, bool]:
        """See `Copy`."""
        response = self._work.finish(answer, loaded)
        return "v1", _rows(self._request), Written(response), False

    def _read(self) -> V1Request:
        self._request = self._decode()
        return self._request


class V2Copy:
    """A V2 request, over REST or gRPC."""

    def __init__(self, model: str, decode: Callable[[], InferRequest]) -> None:
        self._decode = decode
        self._work = V2Work(model, decode, _bodies)

    def given(self) -> Given:
        """See `Copy`."""
        return self._work.given()

    def asked(self) -> tuple[str, Written, bool]:
        """See `Copy`."""
        request = self._decode()
        return "v2", _tensors(request), _says_synthetic(request)

    def told(self, answer: Answer, loaded: Loaded) -> tuple[str, Written, Written, bool]:
        """See `Copy`."""
        told: tuple[str, Written, Written, bool] = self._work.finish(answer, loaded)
        return told


class Shadows:
    """Sends the copies. Whatever becomes of them, the caller's own answer does not suffer."""

    def __init__(self, batcher: Batcher, metrics: PredictorMetrics, timeout_s: float) -> None:
        self._batcher, self._metrics, self._timeout_s = batcher, metrics, timeout_s
        self.witness: Witness | None = None
        """Who is told of the answers, if anyone."""

    def send(self, model: str, versions: Iterable[str], terms: Terms, copy: Callable[[], Copy]) -> None:
        """Have versions answer a copy each. Never raises, never waits."""
        for version in versions:
            self._send(model, version, terms, copy())

    def _send(self, model: str, version: str, terms: Terms, copy: Copy) -> None:
        started = time.time_ns() // 1_000
        call = Call(
            model, copy.given, partial(self._answered, model, terms, copy, started),
            terms=replace(terms, yielding=True, protocol="shadow"), timeout_s=self._timeout_s,
        )  # fmt: skip
        call.failed = partial(self._failed, model, version, terms, copy, started)
        try:
            self._batcher.start(call, version)
        except Exception as exc:  # noqa: BLE001 - whatever it is, the caller's own answer must not suffer
            self._failed(model, version, terms, copy, started, exc)

    def _answered(self, model: str, terms: Terms, copy: Copy, started: int, answer: Answer, loaded: Loaded) -> None:
        if self.witness is None:
            return
        latency = time.time_ns() // 1_000 - started
        protocol, request, response, synthetic = copy.told(answer, loaded)
        synthetic = synthetic or _is_synthetic(terms)
        self.witness(
            Shadowed(
                model=model, version=loaded.version, protocol=protocol, correlation=_correlation(terms),
                traceparent=terms.traceparent, synthetic=synthetic,
                started_us=started, latency_us=latency, request=request, response=response,
            )
        )  # fmt: skip

    def _failed(self, model: str, version: str, terms: Terms, copy: Copy, started: int, error: BaseException) -> None:
        self._metrics.shadow_failed(model, version, type(error).__name__)
        if self.witness is None:
            return
        latency = time.time_ns() // 1_000 - started
        self.witness(
            Unanswered(
                model=model, version=version, correlation=_correlation(terms), traceparent=terms.traceparent,
                synthetic=_is_synthetic(terms), started_us=started, latency_us=latency, error=error,
                asked=copy.asked, size=terms.size,
            )
        )  # fmt: skip


def _correlation(terms: Terms) -> str:
    """Give the correlation id as the events of the caller's own call have it: a logger keeps a header as it came."""
    return terms.key.decode("utf-8" if terms.protocol == _TOPIC else "latin-1")


def _is_synthetic(terms: Terms) -> bool:
    return means_synthetic(terms.headers.get(SYNTHETIC_HEADER, "false"))


def _says_synthetic(request: InferRequest) -> bool:
    said: Any = request.parameters.get(SYNTHETIC_PARAMETER)
    return said is True


def _rows(request: V1Request) -> Written:
    # As it came: the columns are named by the key.
    return Written(v1.encode_object({request.key: request.instances, **request.extra}))


def _tensors(request: InferRequest) -> Written:
    # Raw tensors: every datatype has that form, no value changes, and it is the quickest to write.
    return Written(*v2.encode_request(request, binary=True))


def _bodies(response: InferResponse, request: InferRequest) -> tuple[str, Written, Written, bool]:
    answer = Written(*v2.encode_response(response, lambda _name: True))
    return "v2", _tensors(request), answer, _says_synthetic(request)
