"""Records of the request topic → what is asked, of which model, and where the answer goes. Pure.

A request is a CloudEvent, binary or structured, or a bare record whose headers say as much as HTTP's would. Its body is
V1 JSON, V2 JSON, V2 with binary tensors, or an Arrow IPC stream. Next: `inference/kafka/batches.py`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from inference import arrow, instances
from inference.kafka.settings import StreamSettings
from inference.observations import body_of, protocol_of
from inference.protocol import v1, v2
from inference.protocol.errors import MalformedBody
from inference.protocol.tensors import Tensor
from inference.protocol.v1 import V1Request
from inference.protocol.v2 import InferRequest
from inference.runtime import Arrays
from streams.bindings import from_kafka
from streams.errors import InvalidEvent
from streams.events import (
    CONTENT_ENCODING,
    CORRELATION_ID,
    INFERENCE_HEADER_LENGTH,
    MODEL_NAME,
    MODEL_VERSION,
    NAMESPACE,
    PATH,
    REQUEST_TYPE,
    SERVICE,
    SYNTHETIC,
    SYNTHETIC_HEADER,
    TRACEPARENT,
    Event,
    Value,
    parse_time,
    stable_id,
)
from streams.stage import Record

Body: TypeAlias = InferRequest | V1Request

REPLY_TOPIC: Final = "replytopic"
_PATH: Final = re.compile(
    r"/v1/models/(?P<v1>[^/:]+)(?::predict)?$"
    r"|/v2/models/(?P<v2>[^/]+)(?:/versions/(?P<version>[^/]+))?(?:/infer)?$"
)
_STRUCTURED: Final = b"application/cloudevents"
_SNIFF: Final = 1 << 16
_EVENT: Final = frozenset({"ce_specversion", "ce_id", "ce_source", "ce_type"})
# What a bare record says in headers, and the extension of an event that says the same. The last is Spring Kafka's.
_PLAIN: Final = {
    "x-request-id": CORRELATION_ID, "correlationid": CORRELATION_ID, "correlation-id": CORRELATION_ID,
    "modelname": MODEL_NAME, "model-name": MODEL_NAME, "modelversion": MODEL_VERSION, "model-version": MODEL_VERSION,
    "path": PATH, "traceparent": TRACEPARENT, "content-encoding": CONTENT_ENCODING,
    "inference-header-content-length": INFERENCE_HEADER_LENGTH, SYNTHETIC_HEADER: SYNTHETIC,
    "inferenceservicename": SERVICE, "namespace": NAMESPACE,
    "reply-topic": REPLY_TOPIC, "replytopic": REPLY_TOPIC, "kafka_replytopic": REPLY_TOPIC,
}  # fmt: skip
_REPLY: Final = frozenset(name for name, means in _PLAIN.items() if means == REPLY_TOPIC)
ECHOED: Final = frozenset({"kafka_correlationid"})
"""Headers that come back as they were: Spring Kafka's clients know their answers by them."""


class Unreadable(Exception):
    """A record that asks nothing that can be understood: `reason` is a short word, `detail` says what and where."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """What a record says around its body: enough to answer it, whatever the body turns out to be."""

    record: Record
    event: Event
    """The request as an event; made up from headers and place where the record is none."""
    structured: bool = False
    bare: bool = False
    reply_topic: str
    model: str
    version: str | None
    at_us: int
    """When the request was made."""
    problem: Unreadable | None = None
    """Why there is no use in reading on."""

    @property
    def correlation(self) -> str:
        """What request and answer share."""
        return self.event.correlation()


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """A request that has been read."""

    envelope: Envelope
    protocol: str
    """v1 or v2."""
    request: Body
    binary: bool = False
    """Whether tensors came as bytes; then the answer's do, unless it asks otherwise."""
    arrow: bool = False
    key: tuple[object, ...] = field(default=())
    """What has to be equal for two requests to be joined."""
    rows: int = 1


def envelope(record: Record, settings: StreamSettings) -> Envelope:
    """Read what a record says around its body. Never fails: what is wrong is in `problem`."""
    names = {name.lower() for name, _ in record.headers}
    structured, problem = _is_structured(record), None
    bare = not structured and not names & _EVENT
    try:
        event = _plain(record) if bare else from_kafka(record.headers, record.value)
    except InvalidEvent as exc:
        event, problem = _plain(record), Unreadable(exc.reason, exc.detail)
    reply = settings.responses
    wanted = event.text(REPLY_TOPIC) or _named_reply(record)
    if _allowed(wanted, settings):
        reply = wanted or reply
    elif problem is None:
        problem = Unreadable("reply-topic", f"topic {wanted!r} is not among those that requests may name")
    model, version = _model(event, settings)
    return Envelope(
        record=record, event=event, structured=structured, bare=bare, reply_topic=reply, model=model,
        version=version, at_us=_time(event, record), problem=problem,
    )  # fmt: skip


def read(around: Envelope) -> Ask:
    """Read the body.

    Raises:
        ProtocolError: it does not follow its protocol.
        InvalidInput: V1 instances that make no table.
    """
    event = around.event
    body = body_of(event)
    media = (event.datacontenttype or "").partition(";")[0].strip().lower()
    if media == arrow.STREAM:
        return _v2(around, InferRequest(inputs=arrow.decode(body)), binary=True, arrow_body=True)
    if protocol_of(event, body) == "v2":
        length = event.number(INFERENCE_HEADER_LENGTH)
        if length is None and media == "application/octet-stream":
            raise MalformedBody("Inference-Header-Content-Length", f"expected with {media}, got no such header")
        request = v2.decode_request(body, length)
        return _v2(around, request, binary=length is not None and _all_raw(request.inputs))
    return _v1(around, v1.decode_request(body))


def _v2(around: Envelope, request: InferRequest, *, binary: bool, arrow_body: bool = False) -> Ask:
    key, rows = _likeness(request)
    return Ask(envelope=around, protocol="v2", request=request, binary=binary, arrow=arrow_body, key=key, rows=rows)


def _v1(around: Envelope, request: V1Request) -> Ask:
    arrays = instances.arrays(request)
    tensors = None if request.extra else _tensors(arrays)
    if tensors is not None:
        whole = InferRequest(inputs=tensors)
        key, rows = _likeness(whole)
        return Ask(envelope=around, protocol="v1", request=whole, key=key, rows=rows)
    kinds = tuple((name, array.dtype.kind, array.shape[1:]) for name, array in arrays.items())
    key = () if request.extra else ("v1", request.key, kinds)
    rows = instances.row_count(arrays)
    return Ask(envelope=around, protocol="v1", request=request, key=key, rows=max(rows, 1))


def _likeness(request: InferRequest) -> tuple[tuple[object, ...], int]:
    """Give what has to be equal for requests to be joined, () when they cannot be; and the number of rows."""
    lengths = {tensor.shape[0] if tensor.shape else 0 for tensor in request.inputs}
    rows = lengths.pop() if len(lengths) == 1 else 0
    # What a call says beside its tensors may change what the model does with them, so such a call stays alone.
    said = bool(request.parameters.keys() - {"binary_data_output"})
    said |= any(tensor.parameters.keys() - {"binary_data_size"} for tensor in request.inputs)
    said |= any(output.parameters.keys() - {"binary_data"} for output in request.outputs)
    if said or not rows:
        return (), max(rows, 1)
    shapes = tuple((tensor.name, tensor.datatype, tensor.shape[1:]) for tensor in request.inputs)
    return ("v2", shapes, tuple(output.name for output in request.outputs)), rows


def _tensors(arrays: Arrays) -> tuple[Tensor, ...] | None:
    """Give V1's arrays as tensors; None when numbers stand beside text, which no tensor holds."""
    for array in arrays.values():
        if array.dtype == object and not all(isinstance(item, str) for item in array.flat):
            return None
    return tuple(Tensor.of(name, array) for name, array in arrays.items())


def _all_raw(tensors: tuple[Tensor, ...]) -> bool:
    return all("binary_data_size" in tensor.parameters for tensor in tensors)


def _is_structured(record: Record) -> bool:
    for name, value in record.headers:
        if name.lower() == "content-type":
            return (value or b"").lstrip()[: len(_STRUCTURED)].lower() == _STRUCTURED
    # The header is optional; what a body without one begins with decides, as for every consumer of ours.
    head = (record.value or b"")[:_SNIFF]
    return head.lstrip()[:1] == b"{" and b'"specversion"' in head


def _plain(record: Record) -> Event:
    """Make an event of a record that is none, or no valid one: what its headers say, and an id from its place."""
    extensions: dict[str, Value] = {}
    content_type: str | None = None
    for name, raw in record.headers:
        lower = name.lower()
        text = (raw or b"").decode("utf-8", "replace")
        if lower == "content-type":
            content_type = content_type or text or None
        elif text and (known := _PLAIN.get(lower.removeprefix("ce_"))) is not None:
            extensions.setdefault(known, text)
    if SYNTHETIC in extensions:
        extensions[SYNTHETIC] = "false" if extensions[SYNTHETIC] in {"false", "0"} else "true"
    identity = stable_id(record.topic, record.partition, record.offset)
    return Event(
        id=identity, source=f"/{record.topic}", type=REQUEST_TYPE, datacontenttype=content_type, extensions=extensions,
        data=record.value,
    )  # fmt: skip


def _named_reply(record: Record) -> str:
    """Give the topic that a header names which is no attribute of an event."""
    for name, value in record.headers:
        if value and name.lower() in _REPLY:
            return value.decode("utf-8", "replace")
    return ""


def _allowed(topic: str, settings: StreamSettings) -> bool:
    if not topic or topic == settings.responses:
        return True
    return any(topic.startswith(one[:-1]) if one.endswith("*") else topic == one for one in settings.reply_topics)


def _model(event: Event, settings: StreamSettings) -> tuple[str, str | None]:
    """Find the model: named, else in the path, else in a subject that is a path, else the default one."""
    version = event.text(MODEL_VERSION) or None
    if event.text(MODEL_NAME):
        return event.text(MODEL_NAME), version
    for path in (event.text(PATH), event.subject or ""):
        found = _PATH.search(path)
        if found is not None:
            return found["v1"] or found["v2"], version or found["version"]
    return settings.model, version


def _time(event: Event, record: Record) -> int:
    return record.timestamp_ms * 1000 if event.time is None else parse_time(event.time)
