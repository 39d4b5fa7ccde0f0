"""Records of the request topic → what their headers say: of which model, for whom, and where the answer goes. Pure.

A request is a CloudEvent, binary or structured, or a bare record whose headers say as much as HTTP's would.
`inference/kafka/heads.py` reads once what many records say alike. Next: `inference/kafka/requests.py` reads the body.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Final

from inference.kafka.settings import StreamSettings
from inference.observations import protocol_of
from streams.bindings import from_kafka
from streams.errors import InvalidEvent
from streams.events import (
    CONTENT_ENCODING,
    CORRELATION_ID,
    DATA_REF,
    ENCRYPTION,
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
    WITHHELD,
    Event,
    Value,
    means_synthetic,
    parse_time,
    stable_id,
)
from streams.stage import Record

REPLY_TOPIC: Final = "replytopic"
_PATH: Final = re.compile(
    r"/v1/models/(?P<v1>[^/:]+)(?::predict)?$"
    r"|/v2/models/(?P<v2>[^/]+)(?:/versions/(?P<version>[^/]+))?(?:/infer)?$"
)
_STRUCTURED: Final = b"application/cloudevents"
_SNIFF: Final = 1 << 16
_EVENT: Final = frozenset({"ce_specversion", "ce_id", "ce_source", "ce_type"})
# What a bare record says in headers, and the extension of an event that says the same. The last is Spring Kafka's.
PLAIN: Final = {
    "x-request-id": CORRELATION_ID, "correlationid": CORRELATION_ID, "correlation-id": CORRELATION_ID,
    "modelname": MODEL_NAME, "model-name": MODEL_NAME, "modelversion": MODEL_VERSION, "model-version": MODEL_VERSION,
    "path": PATH, "traceparent": TRACEPARENT, "content-encoding": CONTENT_ENCODING,
    "inference-header-content-length": INFERENCE_HEADER_LENGTH, SYNTHETIC_HEADER: SYNTHETIC,
    "inferenceservicename": SERVICE, "namespace": NAMESPACE, "dataref": DATA_REF,
    "reply-topic": REPLY_TOPIC, "replytopic": REPLY_TOPIC, "kafka_replytopic": REPLY_TOPIC,
}  # fmt: skip
_REPLY: Final = frozenset(name for name, means in PLAIN.items() if means == REPLY_TOPIC)
ECHOED: Final = frozenset({"kafka_correlationid"})
"""Headers that come back as they were: Spring Kafka's clients know their answers by them."""


class Unreadable(Exception):
    """A record that asks nothing that can be understood: `reason` is a short word, `detail` says what and where."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """What the headers of many records say alike."""

    structured: bool
    bare: bool
    source: str
    reply_topic: str
    model: str
    version: str | None
    content_type: str | None
    media: str
    """The content type without parameters, in lower case."""
    protocol: str
    """v1 or v2; empty where only the body tells."""
    length: int | None
    """Where V2's JSON ends and binary tensors begin."""
    plain: bool
    """Whether the body is the record's value, as far as it says: not compressed, encrypted, withheld or elsewhere."""
    synthetic: bool
    path: str
    service: str
    namespace: str
    echoes: bool
    """Whether some headers come back as they were."""
    kept: dict[Any, Any] = field(default_factory=dict, compare=False)
    """What the writer knows of answers to such requests."""


@dataclass(slots=True)
class Envelope:
    """What a record says around its body: enough to answer it, whatever the body turns out to be.

    Not frozen, as nothing is that every record needs one of: that takes three times as long.
    """

    record: Record
    head: Head
    identity: str
    """Of the request as an event; it follows from the record's place where the record is none."""
    correlation: str
    """What request and answer share."""
    at_us: int
    """When the request was made."""
    traceparent: str = ""
    problem: Unreadable | None = None
    """Why there is no use in reading on."""
    told: Event | None = None

    @property
    def event(self) -> Event:
        """Give the request as an event; made up from headers and place where the record is none."""
        if self.told is None:
            self.told = _plain(self.record) if self.head.bare else from_kafka(self.record.headers, self.record.value)
        return self.told


def envelope(record: Record, settings: StreamSettings) -> Envelope:
    """Read what a record says around its body, from nothing. Never fails: what is wrong is in `problem`."""
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
    head = Head(
        structured=structured, bare=bare, source=event.source, reply_topic=reply, model=model, version=version,
        content_type=event.datacontenttype, media=(event.datacontenttype or "").partition(";")[0].strip().lower(),
        protocol=_protocol(event), length=event.number(INFERENCE_HEADER_LENGTH), plain=_is_plain(event),
        synthetic=event.text(SYNTHETIC) == "true", path=event.text(PATH), service=event.text(SERVICE),
        namespace=event.text(NAMESPACE), echoes=bool(names & ECHOED),
    )  # fmt: skip
    # OpenTelemetry's instrumentation of Kafka's clients writes the header beside whatever the record holds.
    trace = event.text(TRACEPARENT) or _header(record, TRACEPARENT)
    return Envelope(record, head, event.id, event.correlation(), _time(event, record), trace, problem, event)


def _protocol(event: Event) -> str:
    """Tell the protocol where the body does not matter."""
    always = protocol_of(event, b"")
    return always if always == protocol_of(event, b'"inputs" "datatype"') else ""


def _is_plain(event: Event) -> bool:
    odd = (WITHHELD, ENCRYPTION, DATA_REF)
    return not any(map(event.text, odd)) and event.text(CONTENT_ENCODING).lower() in {"", "identity"}


def _is_structured(record: Record) -> bool:
    for name, value in record.headers:
        if name.lower() == "content-type":
            return (value or b"").lstrip()[: len(_STRUCTURED)].lower() == _STRUCTURED
    return sniffed(record)


def sniffed(record: Record) -> bool:
    """Tell whether a body without a content type is an event in structured mode."""
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
        elif text and (known := PLAIN.get(lower.removeprefix("ce_"))) is not None:
            extensions.setdefault(known, text)
    if SYNTHETIC in extensions:
        extensions[SYNTHETIC] = "true" if means_synthetic(str(extensions[SYNTHETIC])) else "false"
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


def _header(record: Record, wanted: str) -> str:
    texts = (value.decode("utf-8", "replace") for name, value in record.headers if value and name.lower() == wanted)
    return next(texts, "")


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
