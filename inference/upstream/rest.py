"""Asks a predictor over REST: V1, or V2 with binary tensors where the server says that it takes them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import quote

import numpy as np
import orjson

from inference import instances
from inference.errors import PredictionFailed, PredictorFailed, PredictorRefused, PredictorUnavailable
from inference.protocol import v1, v2
from inference.protocol.errors import ProtocolError
from inference.protocol.v1 import V1Request
from inference.runtime import Answer, Arrays
from inference.texts import decoded
from inference.upstream import events
from inference.upstream.binary import Binary
from inference.upstream.description import Description, Descriptions, described
from inference.upstream.http import Broken, Connections, HttpAnswer, HttpStream, NotReached
from inference.upstream.settings import Protocol, UpstreamSettings
from inference.upstream.text import Text
from inference.upstream.wire import Passing, answer_of, request_of
from streams.events import MODEL_VERSION_HEADER

_LENGTH: Final = "inference-header-content-length"
_JSON: Final = {"content-type": "application/json"}
_BUSY: Final = frozenset({HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE})
_TEXT: Final = 500
_MOST: Final = 64 * 1024
_SOON_S: Final = 1.0


class RestWire:
    """V1 or V2."""

    def __init__(self, settings: UpstreamSettings, output_name: str) -> None:
        self._settings, self._output_name = settings, output_name
        self._connections = Connections(settings)
        self._binary = Binary(lambda head, left_s: self._send("GET", "/v2", None, head, left_s))
        self.descriptions = Descriptions(self._describe)

    def infer(
        self, model: str, inputs: Arrays, parameters: Mapping[str, Any], head: Mapping[str, str], left_s: float
    ) -> Answer:
        """Send one call; see `Wire`."""
        if self._settings.protocol is Protocol.V1:
            return self._v1(model, inputs, head, left_s)
        return self._v2(model, inputs, parameters, head, left_s)

    def generate(
        self, model: str, prompt: str, parameters: Mapping[str, Any], head: Mapping[str, str], left_s: float
    ) -> Text:
        """Have a text made; see `Wire`."""
        path = f"/v2/models/{quote(model, safe='')}/generate_stream"
        try:
            body = orjson.dumps({"text_input": prompt, "parameters": dict(parameters)})
        except TypeError as exc:
            raise PredictionFailed(f"what is sent to the predictor has no JSON form: {exc}") from exc
        with self._translated():
            stream = self._connections.stream("POST", path, body, {**head, **_JSON}, left_s)
            if stream.status != HTTPStatus.OK:
                self._check(HttpAnswer(stream.status, stream.head, _beginning(stream)))
        said = events.said(stream.pieces, self._named(), left_s, self._settings.max_piece)
        return Text(said, stream.head.get(MODEL_VERSION_HEADER, ""))

    def ready(self, model: str, left_s: float) -> bool:
        """Ask whether the model is ready."""
        name = quote(model, safe="")
        path = f"/v1/models/{name}" if self._settings.protocol is Protocol.V1 else f"/v2/models/{name}/ready"
        answer = self._send("GET", path, None, {}, left_s)
        if answer.status != HTTPStatus.OK:
            return False
        try:
            told = orjson.loads(answer.body or b"{}")
        except orjson.JSONDecodeError:
            return False
        # KServe's V1 says "ready" in the body, and V2's standard says it by the status alone.
        return not isinstance(told, dict) or str(told.get("ready", True)).lower() == "true"

    def close(self) -> None:
        """Close the connections."""
        self._connections.close()

    def _v1(self, model: str, inputs: Arrays, head: Mapping[str, str], left_s: float) -> Answer:
        body = v1.encode_request(_rows(inputs))
        answer = self._checked("POST", f"/v1/models/{quote(model, safe='')}:predict", body, {**head, **_JSON}, left_s)
        try:
            predictions = v1.decode_response(answer.body)
            outputs = instances.arrays(V1Request(instances=predictions, key=self._output_name))
        except (ProtocolError, ValueError) as exc:
            raise self._failed(f"gave no V1 answer: {exc}") from exc
        return Answer(outputs=outputs, version=answer.head.get(MODEL_VERSION_HEADER, ""))

    def _v2(
        self, model: str, inputs: Arrays, parameters: Mapping[str, Any], head: Mapping[str, str], left_s: float
    ) -> Answer:
        until = time.monotonic() + left_s

        def asked(*, binary: bool) -> HttpAnswer:
            request = request_of(inputs, parameters, {"binary_data_output": True} if binary else {})
            body, length = v2.encode_request(request, binary=binary)
            kind = _JSON if length is None else {"content-type": "application/octet-stream", _LENGTH: str(length)}
            path = f"/v2/models/{quote(model, safe='')}/infer"
            return self._checked("POST", path, body, {**head, **kind}, until - time.monotonic())

        if not self._binary.taken(head, left_s):
            answer = asked(binary=False)
        else:
            try:
                answer = asked(binary=True)
                self._binary.worked()
            except PredictorRefused as exc:
                if not self._binary.doubtful(exc.status):
                    raise
                answer = asked(binary=False)
                self._binary.refused()
        return self._v2_answer(model, answer)

    def _v2_answer(self, model: str, answer: HttpAnswer) -> Answer:
        try:
            told = answer.head.get(_LENGTH)
            response = v2.decode_response(answer.body, int(told) if told is not None else None)
        except (ProtocolError, ValueError) as exc:
            raise self._failed(f"gave no V2 answer: {exc}") from exc
        described = {tensor.name: tensor.parameters for tensor in response.outputs}
        kept = {name: _own(given) for name, given in described.items() if _own(given)}
        version = response.model_version or answer.head.get(MODEL_VERSION_HEADER, "")
        return answer_of(model, response, _own(response.parameters), kept, version)

    def _describe(self, model: str, head: Mapping[str, str], left_s: float) -> Description:
        answer = self._checked("GET", f"/v2/models/{quote(model, safe='')}", None, head, left_s)
        try:
            told = orjson.loads(answer.body)
            return Description(described(told.get("inputs") or ()), described(told.get("outputs") or ()))
        except (AttributeError, KeyError, TypeError, ValueError) as exc:
            raise self._failed(f"gave no V2 metadata: {exc}") from exc

    def _checked(
        self, method: str, path: str, body: bytes | None, head: Mapping[str, str], left_s: float
    ) -> HttpAnswer:
        answer = self._send(method, path, body, head, left_s)
        self._check(answer)
        return answer

    def _check(self, answer: HttpAnswer) -> None:
        status = answer.status
        if status == HTTPStatus.OK:
            return
        text, after_s = _text(answer), _retry_after(answer)
        if status in _BUSY:
            busy = status == HTTPStatus.SERVICE_UNAVAILABLE
            problem = f"{self._named()} answered {status}: {text}"
            raise Passing(
                PredictorUnavailable(problem, after_s) if busy else PredictorRefused(status, text, after_s), after_s
            )
        if HTTPStatus.BAD_REQUEST <= status < HTTPStatus.INTERNAL_SERVER_ERROR:
            raise PredictorRefused(status, text)
        raise self._failed(f"answered {status}: {text}")

    def _send(self, method: str, path: str, body: bytes | None, head: Mapping[str, str], left_s: float) -> HttpAnswer:
        with self._translated():
            return self._connections.request(method, path, body, head, left_s)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except NotReached as exc:
            raise Passing(PredictorUnavailable(f"{self._named()} cannot be reached: {exc}", _SOON_S)) from exc
        except Broken as exc:
            raise self._failed(f"broke the connection off: {exc}") from exc

    def _failed(self, what: str) -> PredictorFailed:
        return PredictorFailed(f"{self._named()} {what}")

    def _named(self) -> str:
        return f"the predictor at {self._settings.address}"


def _beginning(stream: HttpStream) -> bytes:
    """Read as much of a refusal as anybody wants to."""
    found = b""
    for piece in stream.pieces:
        found += piece
        if len(found) >= _MOST:
            break
    stream.pieces.close()
    return found


def _rows(inputs: Arrays) -> list[Any]:
    if len(inputs) == 1:
        ((name, only),) = inputs.items()
        rows: list[Any] = _plain(only, f"input {name!r}")
        return rows
    columns = [_plain(array, f"input {name!r}") for name, array in inputs.items()]
    return [dict(zip(inputs, row, strict=True)) for row in zip(*columns, strict=True)]


def _plain(array: np.ndarray[Any, Any], where: str) -> Any:  # noqa: ANN401 - nested lists
    if array.dtype == object:
        array = decoded(array, where)
    return array.astype(np.float32).tolist() if array.dtype == np.float16 else array.tolist()


def _own(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what belongs to this way alone, and not to its next."""
    return {name: value for name, value in parameters.items() if not name.startswith("binary_data")}


def _text(answer: HttpAnswer) -> str:
    try:
        told = orjson.loads(answer.body)
    except orjson.JSONDecodeError:
        told = None
    if isinstance(told, dict) and isinstance(told.get("error"), str):
        error: str = told["error"]
        return error
    return answer.body[:_TEXT].decode("utf-8", "replace")


def _retry_after(answer: HttpAnswer) -> float:
    given = answer.head.get("retry-after", "")
    return float(given) if given.isdecimal() else 0.0
