"""What came of a request → records: the answer for who asked, and request and answer as a logger's events. Pure.

An answer is a CloudEvent as a logger writes it, in the mode of the request, with the request's key and correlation id
and an id that follows from the request alone. Errors are answers, too: HTTP's status, and `{"error": …}`.
"""

from __future__ import annotations

from dataclasses import replace
from hashlib import blake2b
from typing import Final, TypeAlias

import orjson

from inference import arrow
from inference.kafka.envelopes import ECHOED, Envelope, Head
from inference.kafka.requests import Ask
from inference.kafka.settings import StreamSettings
from inference.kafka.sheets import Answered, Identity, Part
from inference.protocol import v1, v2
from inference.protocol.tensors import Tensor
from inference.protocol.v2 import InferResponse
from streams.bindings import to_kafka, to_kafka_structured
from streams.events import (
    COMPONENT,
    CONTENT_ENCODING,
    CORRELATION_ID,
    DATA_REF,
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
_ID_BYTES: Final = 16
_KEPT: Final = 100
"""Most forms of answers to one kind of request that are kept in mind."""
Alike: TypeAlias = tuple[blake2b, Headers, tuple[str, bytes] | None]
"""Of answers to one kind of request in one form: the beginning of their ids' digest, headers, and the last one."""


class Writer:
    """Writes the records of one stage. One thread uses it."""

    def __init__(self, settings: StreamSettings) -> None:
        self._settings = settings
        self._time = (0, b"")

    def answer(self, ask: Ask, part: Part) -> list[Output]:
        """Give the records for a request that the model answered.

        Raises:
            ProtocolError: the answer has no form in the request's protocol.
        """
        around, answered = ask.envelope, part.sheet.answered
        body, content_type, length = _body(ask, part)
        if not around.head.structured and not self._settings.payloads:
            return [self._quick(ask, answered, body, content_type, length)]
        told: dict[str, Value] = {} if ask.arrow else {PROTOCOL: ask.protocol}
        if answered.version:
            told[MODEL_VERSION] = answered.version
        if length is not None:
            told[INFERENCE_HEADER_LENGTH] = length
        event = self._event(around, OK, answered.at_us, body, content_type, told)
        return [_reply(around, event), *self._logged(ask, event, part)]

    def refusal(self, around: Envelope, status: int, detail: str, at_us: int, ask: Ask | None = None) -> list[Output]:
        """Give the records for a request that got no answer from a model; `ask` where it could be read."""
        body = orjson.dumps({"error": detail.encode("utf-8", "replace").decode()})
        told: dict[str, Value] = {} if ask is None or ask.arrow else {PROTOCOL: ask.protocol}
        event = self._event(around, status, at_us, body, JSON, told)
        return [_reply(around, event)] + ([] if ask is None else self._logged(ask, event, None))

    def _quick(self, ask: Ask, answered: Answered, body: bytes, content_type: str, length: int | None) -> Output:
        """Give what `_reply` gives for the event of a model's answer; what many answers have alike is written once."""
        around = ask.envelope
        head = around.head
        alike = content_type, length, answered.version, ask.protocol, ask.arrow
        known = head.kept.get(alike)
        if known is None:
            known = head.kept[alike] = self._alike(ask, answered, content_type, length)
        if len(head.kept) > _KEPT:
            head.kept.clear()
        digest, shared, last = known
        digest = digest.copy()
        digest.update(around.identity.encode())
        headers: list[tuple[str, bytes | None]] = [
            *shared,
            ("ce_id", digest.hexdigest().encode()),
            ("ce_time", self._written(answered.at_us)),
            ("ce_correlationid", around.correlation.encode()),
            ("ce_latencyus", b"%d" % max(0, answered.at_us - around.at_us)),
        ]
        if around.traceparent:
            headers.append(("ce_traceparent", around.traceparent.encode()))
        if head.echoes:
            headers += _echoes(around)
        if last is not None:
            headers.append(last)
        return Output(head.reply_topic, around.record.key, body, tuple(headers))

    def _alike(self, ask: Ask, answered: Answered, content_type: str, length: int | None) -> Alike:
        """Write what all answers with the same head, form and version have in common."""
        head = ask.envelope.head
        told: dict[str, Value] = self._shared(head) | {STATUS_CODE: OK}
        if not ask.arrow:
            told[PROTOCOL] = ask.protocol
        if answered.version:
            told[MODEL_VERSION] = answered.version
        if length is not None:
            told[INFERENCE_HEADER_LENGTH] = length
        event = Event(
            id="", source=self._settings.source, type=RESPONSE_TYPE, datacontenttype=content_type, extensions=told
        )
        shared = tuple(header for header in to_kafka(event)[0] if header[0] != "ce_id")
        digest = blake2b(f"answer\x1f{head.source}\x1f".encode(), digest_size=_ID_BYTES)
        last = (_LENGTH_HEADER, b"%d" % length) if head.bare and length else None
        return digest, shared, last

    def _written(self, at_us: int) -> bytes:
        """Give a time as text: all answers of one call have the same."""
        if self._time[0] != at_us:
            self._time = at_us, format_time(at_us).encode()
        return self._time[1]

    def _event(
        self, around: Envelope, status: int, at_us: int, body: bytes, content_type: str, told: dict[str, Value]
    ) -> Event:
        # As text: a request that has waited for an hour is beyond the 32 bits of CloudEvents' integers.
        own: dict[str, Value] = {
            CORRELATION_ID: around.correlation, STATUS_CODE: status, LATENCY_US: str(max(0, at_us - around.at_us)),
        }  # fmt: skip
        if around.traceparent:
            own[TRACEPARENT] = around.traceparent
        return Event(
            id=stable_id("answer", around.head.source, around.identity), source=self._settings.source,
            type=RESPONSE_TYPE, time=format_time(at_us), datacontenttype=content_type,
            extensions=self._shared(around.head) | own | told, data=body,
        )  # fmt: skip

    def _shared(self, head: Head) -> dict[str, Value]:
        """Give what request and answer have in common, and other requests of this head, too."""
        settings = self._settings
        shared: dict[str, Value] = {
            SERVICE: settings.service or head.service or head.model,
            NAMESPACE: head.namespace or settings.namespace,
            COMPONENT: settings.component,
        }
        if head.model:
            shared[MODEL_NAME] = head.model
        if head.version:
            shared[MODEL_VERSION] = head.version
        if head.path:
            shared[PATH] = head.path
        if head.synthetic:
            shared[SYNTHETIC] = True
        return shared

    def _logged(self, ask: Ask, response: Event, part: Part | None) -> list[Output]:
        """Give request and answer as the two events of one exchange, for the topic that the assembler reads."""
        if not self._settings.payloads:
            return []
        around, event = ask.envelope, ask.envelope.event
        extensions = self._shared(around.head) | {CORRELATION_ID: around.correlation, PROTOCOL: ask.protocol}
        if around.traceparent:
            extensions[TRACEPARENT] = around.traceparent
        if part is not None and part.sheet.answered.version:
            extensions[MODEL_VERSION] = part.sheet.answered.version
        body, content_type = event.data, event.datacontenttype or JSON
        for name in (CONTENT_ENCODING, INFERENCE_HEADER_LENGTH, DATA_REF):
            if event.text(name):
                extensions[name] = event.text(name)
        if ask.arrow:
            # A logger's events have no Arrow bodies; V2's binary tensors say the same.
            body, length = v2.encode_request(ask.said, binary=True)
            content_type = BINARY
            extensions = extensions | {INFERENCE_HEADER_LENGTH: length or len(body)}
            extensions.pop(CONTENT_ENCODING, None)
            extensions.pop(DATA_REF, None)
            response = _as_v2(ask, response, part)
        request = Event(
            id=stable_id("asked", event.source, event.id), source=self._settings.source, type=REQUEST_TYPE,
            time=format_time(around.at_us), datacontenttype=content_type, extensions=extensions, data=body,
        )  # fmt: skip
        key = around.correlation.encode("utf-8", "replace")
        return [self._payload(key, request), self._payload(key, response)]

    def _payload(self, key: bytes, event: Event) -> Output:
        headers, value = to_kafka(event)
        return Output(self._settings.payloads, key, value, headers)


def _body(ask: Ask, part: Part) -> tuple[bytes, str, int | None]:
    if ask.protocol == "v1":
        return v1.encode_response(part.predictions()), JSON, None
    if ask.arrow:
        return arrow.encode(_tensors(part)), arrow.STREAM, None
    said = ask.said
    chose = "binary_data_output" in said.parameters or any("binary_data" in one.parameters for one in said.outputs)
    if ask.binary and not chose:
        body, length = part.binary(_identity(ask, part))
    else:
        body, length = v2.encode_response(_response(ask, part), said.wants_binary)
    return body, JSON if length is None else BINARY, length


def _identity(ask: Ask, part: Part) -> Identity:
    return ask.envelope.head.model, part.sheet.answered.version or None, ask.said.id


def _response(ask: Ask, part: Part) -> InferResponse:
    model, version, identity = _identity(ask, part)
    return InferResponse(model_name=model, model_version=version, id=identity, outputs=_tensors(part))


def _tensors(part: Part) -> tuple[Tensor, ...]:
    outputs = part.outcome
    assert isinstance(outputs, tuple)  # noqa: S101 - V2 requests are answered with tensors
    return outputs


def _reply(around: Envelope, event: Event) -> Output:
    headers, value = to_kafka_structured(event) if around.head.structured else to_kafka(event)
    return Output(around.head.reply_topic, around.record.key, value, headers + _echoed(around, event))


def _echoed(around: Envelope, event: Event) -> Headers:
    """Give what a client without CloudEvents knows its answer by."""
    length = event.text(INFERENCE_HEADER_LENGTH)
    echoes = _echoes(around)
    return (*echoes, (_LENGTH_HEADER, length.encode())) if around.head.bare and length else echoes


def _echoes(around: Envelope) -> Headers:
    return tuple(header for header in around.record.headers if header[0].lower() in ECHOED)


def _as_v2(ask: Ask, response: Event, part: Part | None) -> Event:
    """Give the answer to an Arrow request in the form that a logger's events have."""
    if part is None:
        return response
    body, length = v2.encode_response(_response(ask, part), lambda _name: True)
    told: dict[str, Value] = {INFERENCE_HEADER_LENGTH: length or len(body), PROTOCOL: ask.protocol}
    return replace(response, data=body, datacontenttype=BINARY, extensions={**response.extensions, **told})
