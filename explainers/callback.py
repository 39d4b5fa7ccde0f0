"""The callback client: how an explainer asks the predictor. Pooled, split, marked synthetic, bounded by a deadline.

It speaks V2 with binary tensors when the model's metadata offers one numeric input, else V1 JSON. It blocks, for
explainers run in threads; many threads share one pool.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final

import httpx
import numpy as np

from explainers.base import Array, OutOfTime
from explainers.errors import PredictorMisbehaved, PredictorRefused, PredictorUnavailable
from inference.protocol import v1, v2
from inference.protocol.datatypes import NUMPY
from inference.protocol.errors import ProtocolError
from inference.protocol.tensors import Tensor
from streams.events import SYNTHETIC_HEADER, SYNTHETIC_PARAMETER

_LENGTH: Final = "inference-header-content-length"
_RETRIED: Final = frozenset({429, 502, 503, 504})


@dataclass(frozen=True, slots=True, kw_only=True)
class CallbackSettings:
    """How to reach the predictor."""

    url: str
    model: str
    protocol: str = "auto"
    """`v1`, `v2`, or `auto`: V2 when the model's metadata shows one numeric input."""
    rows_per_call: int = 8_192
    """Rows of one call; more are split."""
    concurrency: int = 4
    """Calls of one client at the same time: explanations must leave room for real traffic."""
    timeout_s: float = 30.0
    """For one call; a request's own deadline may be shorter."""


@dataclass(slots=True)
class Calls:
    """What one explanation's callbacks cost."""

    deadline: float
    """On the monotonic clock."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Headers that every call carries: correlation, authorization, trace."""
    calls: int = 0
    rows: int = 0
    wait_s: float = 0.0
    cancelled: threading.Event = field(default_factory=threading.Event)

    def left_s(self) -> float:
        """Give the seconds until the deadline; none when cancelled."""
        return 0.0 if self.cancelled.is_set() else self.deadline - time.monotonic()


class CallbackClient:
    """Asks one model. Threads share it."""

    def __init__(self, settings: CallbackSettings, jitter: random.Random) -> None:
        self._settings, self._jitter = settings, jitter
        limits = httpx.Limits(
            max_connections=4 * settings.concurrency, max_keepalive_connections=4 * settings.concurrency
        )
        self._http = httpx.Client(base_url=settings.url, limits=limits, timeout=settings.timeout_s)
        self._pool = ThreadPoolExecutor(settings.concurrency, thread_name_prefix="callback")
        self._input: tuple[str, str] | None = None
        self._learned = settings.protocol == "v1"

    def predict(self, rows: Array, calls: Calls) -> Array:
        """Give scores (n, outputs) for rows (n, features); equal rows are asked once, large tables in pieces.

        Raises:
            OutOfTime: the deadline passed, or the request was cancelled.
            PredictorUnavailable, PredictorRefused, PredictorMisbehaved: see their docstrings.
        """
        self._learn(calls)
        unique, place = _distinct(rows)
        pieces = [
            unique[at : at + self._settings.rows_per_call] for at in range(0, len(unique), self._settings.rows_per_call)
        ]
        began = time.monotonic()
        answers = list(self._pool.map(lambda piece: self._ask(piece, calls), pieces))
        calls.wait_s += time.monotonic() - began
        calls.calls += len(pieces)
        calls.rows += len(unique)
        widths = {answer.shape[1] for answer in answers}
        if len(widths) != 1:
            raise PredictorMisbehaved(f"outputs differ in width between calls: {sorted(widths)}")
        scores: Array = np.concatenate(answers)[place]
        return scores

    def close(self) -> None:
        """Let go of connections and threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._http.close()

    def _learn(self, calls: Calls) -> None:
        """Ask the model's metadata once; the predictor need not be up before the first explanation."""
        if self._learned:
            return
        answer = self._send("GET", f"/v2/models/{self._settings.model}", None, {}, calls)
        self._input = _numeric_input(answer)
        if self._input is None and self._settings.protocol == "v2":
            raise PredictorMisbehaved(f"model {self._settings.model!r} does not offer one numeric V2 input")
        self._learned = True

    def _ask(self, rows: Array, calls: Calls) -> Array:
        if self._input is None or not _fits(rows, NUMPY[self._input[1]]):
            return self._ask_v1(rows, calls)
        return self._ask_v2(rows, self._input, calls)

    def _ask_v1(self, rows: Array, calls: Calls) -> Array:
        body = v1.encode_request(rows.tolist())
        headers = {"content-type": "application/json"}
        answer = self._send("POST", f"/v1/models/{self._settings.model}:predict", body, headers, calls)
        try:
            scores = np.array(v1.decode_response(_checked(answer)), dtype=np.float64)
        except (ProtocolError, ValueError, TypeError) as exc:
            raise PredictorMisbehaved(f"predictions are no table of numbers: {exc}") from exc
        return _scores(scores, len(rows))

    def _ask_v2(self, rows: Array, described: tuple[str, str], calls: Calls) -> Array:
        name, datatype = described
        data = np.ascontiguousarray(rows, NUMPY[datatype])
        tensor = Tensor(name=name, datatype=datatype, shape=data.shape, data=data)
        request = v2.InferRequest(inputs=(tensor,), parameters={"binary_data_output": True, SYNTHETIC_PARAMETER: True})
        body, length = v2.encode_request(request, binary=True)
        headers = {"content-type": "application/octet-stream", _LENGTH: str(length)}
        answer = self._send("POST", f"/v2/models/{self._settings.model}/infer", body, headers, calls)
        content = _checked(answer)
        try:
            text = answer.headers.get(_LENGTH)
            response = v2.decode_response(content, int(text) if text else None)
            scores = response.outputs[0].data.astype(np.float64)
        except (ProtocolError, ValueError, IndexError) as exc:
            raise PredictorMisbehaved(f"the V2 answer holds no numeric output: {exc}") from exc
        return _scores(scores, len(rows))

    def _send(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str], calls: Calls
    ) -> httpx.Response:
        """Send one call; what may pass is tried again, with growing pauses, inside the deadline."""
        sent = {**calls.headers, **headers, SYNTHETIC_HEADER: "1"}
        for pause in _pauses(self._jitter):
            left = calls.left_s()
            if left <= 0:
                raise OutOfTime
            try:
                answer = self._http.request(
                    method, path, content=body, headers=sent, timeout=min(left, self._settings.timeout_s)
                )
            except httpx.ConnectError as exc:
                problem = f"predictor at {self._settings.url} cannot be reached: {exc}"
            except httpx.TimeoutException as exc:
                if calls.left_s() <= 0:
                    raise OutOfTime from exc
                problem = f"predictor at {self._settings.url} did not answer in {self._settings.timeout_s:g} s"
            except httpx.TransportError as exc:
                problem = f"predictor at {self._settings.url}: {exc}"
            else:
                if answer.status_code not in _RETRIED:
                    return answer
                problem = f"predictor at {self._settings.url} answered {answer.status_code}: {answer.text[:200]}"
            if pause is None or pause >= calls.left_s():
                raise PredictorUnavailable(problem)
            calls.cancelled.wait(pause)
        raise AssertionError("the pauses end with None")  # pragma: no cover


def _pauses(jitter: random.Random) -> Iterator[float | None]:
    for base in (0.05, 0.2, 0.8):
        yield base * (0.5 + jitter.random())
    yield None


def _numeric_input(answer: httpx.Response) -> tuple[str, str] | None:
    """Give name and datatype of a model's only input, when its metadata say that it takes numbers."""
    if answer.status_code != httpx.codes.OK:
        return None
    try:
        (only,) = answer.json()["inputs"]
        name, datatype = str(only["name"]), only["datatype"]
        numeric = NUMPY[datatype].kind in "fiu"
    except (ValueError, TypeError, KeyError):
        return None  # whatever that is, it speaks no V2
    return (name, datatype) if numeric else None


def _fits(rows: Array, kind: np.dtype[Any]) -> bool:
    """Tell whether rows can go as one tensor; a fraction in a tensor of whole numbers would be cut off silently."""
    return rows.dtype != object and (kind.kind == "f" or bool((rows == np.trunc(rows)).all()))


def _checked(answer: httpx.Response) -> bytes:
    if answer.status_code == httpx.codes.OK:
        return answer.content
    problem = f"the predictor answered {answer.status_code}: {answer.text[:500]}"
    raise PredictorRefused(problem) if answer.is_client_error else PredictorMisbehaved(problem)


def _scores(scores: Array, rows: int) -> Array:
    if scores.ndim == 0 or len(scores) != rows:
        raise PredictorMisbehaved(f"expected {rows} predictions, got {scores.shape}")
    table = scores.reshape(rows, -1)
    if not np.isfinite(table).all():
        raise PredictorMisbehaved("predictions hold NaN or infinities")
    return table


def _distinct(rows: Array) -> tuple[Array, Any]:
    """Give the distinct rows, and for each row its place among them: sampled coalitions repeat rows often."""
    if rows.dtype == object:
        return rows, np.arange(len(rows))
    view = np.ascontiguousarray(rows).view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1]))).ravel()
    _, first, place = np.unique(view, return_index=True, return_inverse=True)
    return rows[first], place
