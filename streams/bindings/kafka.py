"""The Kafka protocol binding 1.0.2, binary and structured mode. The record's key is the caller's affair.

Built by hand because every payload passes here; tests prove it equal to the cloudevents SDK where that follows the
specification.
"""

from __future__ import annotations

from typing import Final

from streams.bindings.attributes import BATCH, REQUIRED, STRUCTURED, build, media_type
from streams.bindings.json import decode_event, encode_event
from streams.errors import InvalidEvent
from streams.events import Event, Value, canonical
from streams.stage import Headers

_PREFIX: Final = "ce_"
_CONTENT_TYPE: Final = "content-type"
_JSON_FORMAT: Final = "application/cloudevents+json"


def to_kafka(event: Event) -> tuple[Headers, bytes | None]:
    """Give headers and value in binary mode; no data is a null value, as section 3.2.2 wants."""
    headers: list[tuple[str, bytes | None]] = [
        ("ce_specversion", b"1.0"),
        ("ce_id", event.id.encode()),
        ("ce_source", event.source.encode()),
        ("ce_type", event.type.encode()),
    ]
    if event.time is not None:
        headers.append(("ce_time", event.time.encode()))
    if event.datacontenttype is not None:
        headers.append((_CONTENT_TYPE, event.datacontenttype.encode()))
    if event.dataschema is not None:
        headers.append(("ce_dataschema", event.dataschema.encode()))
    if event.subject is not None:
        headers.append(("ce_subject", event.subject.encode()))
    headers.extend((_PREFIX + name, canonical(value).encode()) for name, value in event.extensions.items())
    return tuple(headers), event.data


def to_kafka_structured(event: Event) -> tuple[Headers, bytes]:
    """Give headers and value in structured mode, JSON event format."""
    return ((_CONTENT_TYPE, b"application/cloudevents+json; charset=UTF-8"),), encode_event(event)


def from_kafka(headers: Headers, value: bytes | None) -> Event:
    """Read an event in either mode; the content type `application/cloudevents…` decides, whatever else there is.

    Raises:
        InvalidEvent: no CloudEvent, an unknown format, a batch (Kafka has none), or an invalid attribute.
    """
    content_type, attributes = _split(headers)
    media = media_type(content_type) if content_type is not None else ""
    if media.startswith(BATCH):
        raise InvalidEvent("batch", "Kafka defines no batch mode; send one record per event")
    if media.startswith(STRUCTURED):
        return _structured(media, value)
    if "specversion" in attributes or any(name in attributes for name in REQUIRED):
        if content_type is not None:
            attributes["datacontenttype"] = content_type
        return build(attributes, value)
    # Section 3.3.1: the content-type header is optional in structured mode.
    if content_type is None and value is not None and value.lstrip()[:1] == b"{":
        return decode_event(value)
    raise InvalidEvent("not-a-cloudevent", "no ce_ headers, and no content type application/cloudevents")


def _structured(media: str, value: bytes | None) -> Event:
    if media not in {_JSON_FORMAT, STRUCTURED}:
        raise InvalidEvent("unknown-format", f"content-type {media!r}: expected {_JSON_FORMAT}")
    if value is None:
        raise InvalidEvent("no-value", "structured mode: the record has no value")
    return decode_event(value)


def _split(headers: Headers) -> tuple[str | None, dict[str, Value]]:
    """Part the content type and the attributes from headers that are no business of ours."""
    content_type: str | None = None
    attributes: dict[str, Value] = {}
    for name, raw in headers:
        lower = name.lower()
        if raw is None or not (lower == _CONTENT_TYPE or lower.startswith(_PREFIX)):
            continue
        text = _utf8(name, raw)
        if lower == _CONTENT_TYPE:
            content_type = text if content_type is None else content_type
            continue
        attribute = lower[len(_PREFIX) :]
        if attribute in {"datacontenttype", "data"}:
            raise InvalidEvent("attribute-name", f"header {name!r}: this attribute never travels as a ce_ header")
        if attributes.setdefault(attribute, text) != text:
            raise InvalidEvent("duplicate-attribute", f"header {name!r} comes twice with different values")
    return content_type, attributes


def _utf8(name: str, raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as exc:
        raise InvalidEvent("encoding", f"header {name!r}: expected UTF-8: {exc}") from exc
