"""What came of a request → records: the answer for who asked, and request and answer as a logger's events. Pure.

An answer is a CloudEvent as a logger writes it, in the mode of the request, with the request's key and correlation id
and an id that follows from the request alone. Errors are answers, too: HTTP's status, and `{"error": …}`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import numpy as np
import orjson

from inference import arrow, instances
from inference.kafka.batches import Answered
from inference.kafka.requests import ECHOED, Ask, Envelope
from inference.kafka.settings import StreamSettings
from inference.protocol import v1, v2
from inference.protocol.datatypes import BYTES
from inference.protocol.errors import BadTensor
from inference.protocol.tensors import Tensor
from inference.protocol.v2 import InferRequest, InferResponse
from streams.bindings import to_kafka, to_kafka_structured
from streams.events import (
    COMPONENT,
    CONTENT_ENCODING,
    CORRELATION_ID,
    INFERENCE_HEADER_LENGTH,
    LATENCY_US,
    MODEL_NAME,
    MODEL_VERSION,
    NAMESPACE,
    PATH,
    PROTOCOL,
    REQUEST_TYPE,
    RESPONSE_TYPE,
    SERVICE,
    STATUS_CODE,
    SYNTHETIC,
    TRACEPARENT,
    Event,
    Value,
    format_time,
    stable_id,
)
from streams.stage import Headers, Output

JSON: Final = "application/json"
BINARY: Final = "application/octet-stream"
_LENGTH_HEADER: Final = "inference-header-content-length"
OK: Final = 200


class Writer:
    """Writes the records of one stage."""

    def __init__(self, settings: StreamSettings) -> None:
        self._settings = settings

    def answer(self, ask: Ask, answered: Answered) -> list[Output]:
        """Give the records for a request that the model answered.

        Raises:
            ProtocolError: the answer has no form in the request's protocol.
        """
        body, content_type, length = _body(ask, answered)
        told: dict[str, Value] = {} if ask.arrow else {PROTOCOL: ask.protocol}
        if answered.version:
            told[MODEL_VERSION] = answered.version
        if length is not None:
            told[INFERENCE_HEADER_LENGTH] = length
        event = self._event(ask.envelope, OK, answered.at_us, body, content_type, told)
        return [_reply(ask.envelope, event), *self._logged(ask, event, answered)]

    def refusal(self, around: Envelope, status: int, detail: str, at_us: int, ask: Ask | None = None) -> list[Output]:
        """Give the records for a request that got no answer from a model; `ask` where it could be read."""
        body = orjson.dumps({"error": detail.encode("utf-8", "replace").decode()})
        told: dict[str, Value] = {} if ask is None or ask.arrow else {PROTOCOL: ask.protocol}
        event = self._event(around, status, at_us, body, JSON, told)
        return [_reply(around, event)] + ([] if ask is None else self._logged(ask, event, None))

    def _event(
        self, around: Envelope, status: int, at_us: int, body: bytes, content_type: str, told: dict[str, Value]
    ) -> Event:
        # As text: a request that has waited for an hour is beyond the 32 bits of CloudEvents' integers.
        timing: dict[str, Value] = {STATUS_CODE: status, LATENCY_US: str(max(0, at_us - around.at_us))}
        return Event(
            id=stable_id("answer", around.event.source, around.event.id), source=self._settings.source,
            type=RESPONSE_TYPE, time=format_time(at_us), datacontenttype=content_type,
            extensions=self._shared(around) | told | timing, data=body,
        )  # fmt: skip

    def _shared(self, around: Envelope) -> dict[str, Value]:
        """Give what request and answer have in common."""
        event, settings = around.event, self._settings
        shared: dict[str, Value] = {
            SERVICE: settings.service or event.text(SERVICE) or around.model,
            NAMESPACE: event.text(NAMESPACE) or settings.namespace,
            COMPONENT: settings.component,
            CORRELATION_ID: around.correlation,
        }
        if around.model:
            shared[MODEL_NAME] = around.model
        if around.version:
            shared[MODEL_VERSION] = around.version
        for name in (PATH, TRACEPARENT):
            if event.text(name):
                shared[name] = event.text(name)
        if event.text(SYNTHETIC) == "true":
            shared[SYNTHETIC] = True
        return shared

    def _logged(self, ask: Ask, response: Event, answered: Answered | None) -> list[Output]:
        """Give request and answer as the two events of one exchange, for the topic that the assembler reads."""
        if not self._settings.payloads:
            return []
        around, event = ask.envelope, ask.envelope.event
        extensions = self._shared(around) | {PROTOCOL: ask.protocol}
        if answered is not None and answered.version:
            extensions[MODEL_VERSION] = answered.version
        body, content_type = event.data, event.datacontenttype or JSON
        for name in (CONTENT_ENCODING, INFERENCE_HEADER_LENGTH):
            if event.text(name):
                extensions[name] = event.text(name)
        if ask.arrow:
            # A logger's events have no Arrow bodies; V2's binary tensors say the same.
            body, length = v2.encode_request(_request(ask), binary=True)
            content_type = BINARY
            extensions = extensions | {INFERENCE_HEADER_LENGTH: length or len(body)}
            extensions.pop(CONTENT_ENCODING, None)
            response = _as_v2(ask, response, answered)
        request = Event(
            id=stable_id("asked", event.source, event.id), source=self._settings.source, type=REQUEST_TYPE,
            time=format_time(around.at_us), datacontenttype=content_type, extensions=extensions, data=body,
        )  # fmt: skip
        key = around.correlation.encode("utf-8", "replace")
        return [self._payload(key, request), self._payload(key, response)]

    def _payload(self, key: bytes, event: Event) -> Output:
        headers, value = to_kafka(event)
        return Output(self._settings.payloads, key, value, headers)


def _body(ask: Ask, answered: Answered) -> tuple[bytes, str, int | None]:
    if ask.protocol == "v1":
        return v1.encode_response(_predictions(answered)), JSON, None
    response = _response(ask, answered)
    if ask.arrow:
        return arrow.encode(response.outputs), arrow.STREAM, None
    request = _request(ask)
    chose = "binary_data_output" in request.parameters or any(
        "binary_data" in one.parameters for one in request.outputs
    )
    all_binary = ask.binary and not chose
    body, length = v2.encode_response(response, lambda name: all_binary or request.wants_binary(name))
    return body, JSON if length is None else BINARY, length


def _response(ask: Ask, answered: Answered) -> InferResponse:
    outputs = answered.outcome
    assert isinstance(outputs, tuple)  # noqa: S101 - V2 requests are answered with tensors
    return InferResponse(
        model_name=ask.envelope.model, model_version=answered.version or None, id=_request(ask).id, outputs=outputs
    )


def _request(ask: Ask) -> InferRequest:
    assert isinstance(ask.request, InferRequest)  # noqa: S101 - only V1 has the other kind
    return ask.request


def _predictions(answered: Answered) -> list[Any]:
    if isinstance(answered.outcome, list):
        return answered.outcome
    return instances.predictions({tensor.name: _texts(tensor) for tensor in answered.outcome})


def _texts(tensor: Tensor) -> Any:  # noqa: ANN401 - an array
    if tensor.datatype != BYTES:
        return tensor.data
    texts = np.empty(tensor.data.size, object)
    try:
        texts[:] = [item.decode() for item in tensor.data.flat]
    except UnicodeDecodeError as exc:
        raise BadTensor(f"output {tensor.name!r}", "BYTES that are no UTF-8 have no JSON form") from exc
    return texts.reshape(tensor.shape)


def _reply(around: Envelope, event: Event) -> Output:
    headers, value = to_kafka_structured(event) if around.structured else to_kafka(event)
    return Output(around.reply_topic, around.record.key, value, headers + _echoed(around, event))


def _echoed(around: Envelope, event: Event) -> Headers:
    """Give what a client without CloudEvents knows its answer by."""
    echoed = tuple(header for header in around.record.headers if header[0].lower() in ECHOED)
    length = event.text(INFERENCE_HEADER_LENGTH)
    return (*echoed, (_LENGTH_HEADER, length.encode())) if around.bare and length else echoed


def _as_v2(ask: Ask, response: Event, answered: Answered | None) -> Event:
    """Give the answer to an Arrow request in the form that a logger's events have."""
    if answered is None:
        return response
    body, length = v2.encode_response(_response(ask, answered), lambda _name: True)
    told: dict[str, Value] = {INFERENCE_HEADER_LENGTH: length or len(body), PROTOCOL: ask.protocol}
    return replace(response, data=body, datacontenttype=BINARY, extensions={**response.extensions, **told})
