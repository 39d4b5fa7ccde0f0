"""The HTTP protocol binding 1.0.2: binary, structured and batch mode.

Header values are percent-encoded as section 3.1.3.2 says.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final
from urllib.parse import unquote_to_bytes

import orjson

from streams.bindings.attributes import BATCH, REQUIRED, STRUCTURED, build, media_type
from streams.bindings.json import decode_event, encode_event, event_of, members, parse
from streams.errors import InvalidEvent
from streams.events import Event, Value, canonical

HttpHeaders = list[tuple[str, str]]

_PREFIX: Final = "ce-"
_JSON_FORMAT: Final = "application/cloudevents+json"
_JSON_BATCH: Final = "application/cloudevents-batch+json"
# Space, double quote, percent and everything outside printable ASCII are encoded; nothing else is.
_ENCODED: Final = re.compile(r"[^\x21\x23\x24\x26-\x7e]")


def to_http(event: Event) -> tuple[HttpHeaders, bytes]:
    """Give headers and body in binary mode."""
    attributes: dict[str, Value] = {"specversion": "1.0"} | {name: getattr(event, name) for name in REQUIRED}
    for name in ("time", "dataschema", "subject"):
        if getattr(event, name) is not None:
            attributes[name] = getattr(event, name)
    attributes |= event.extensions
    headers = [(_PREFIX + name, _encode(canonical(value))) for name, value in attributes.items()]
    if event.datacontenttype is not None:
        headers.append(("content-type", event.datacontenttype))
    return headers, event.data or b""


def to_http_structured(event: Event) -> tuple[HttpHeaders, bytes]:
    """Give headers and body in structured mode, JSON event format."""
    return [("content-type", f"{_JSON_FORMAT}; charset=UTF-8")], encode_event(event)


def to_http_batch(events: Iterable[Event]) -> tuple[HttpHeaders, bytes]:
    """Give headers and body in batch mode, JSON batch format."""
    return [("content-type", f"{_JSON_BATCH}; charset=UTF-8")], orjson.dumps([members(event) for event in events])


def from_http(headers: Iterable[tuple[str, str]], body: bytes, *, max_events: int = 1_000) -> list[Event]:
    """Read what a request carries, in whichever mode; an empty batch gives an empty list.

    Raises:
        InvalidEvent: no CloudEvent, an unknown format (`unknown-format`), more than `max_events` (`too-many-events`),
            or an invalid event; in a batch the detail says which.
    """
    pairs = [(name.lower(), value) for name, value in headers]
    content_type = next((value for name, value in pairs if name == "content-type"), None)
    media = media_type(content_type) if content_type is not None else ""
    if media.startswith(BATCH):
        return _batch(media, body, max_events)
    if media.startswith(STRUCTURED):
        if media not in {_JSON_FORMAT, STRUCTURED}:
            raise InvalidEvent("unknown-format", f"content-type {media!r}: expected {_JSON_FORMAT}")
        return [decode_event(body)]
    return [_binary(pairs, content_type, body)]


def _batch(media: str, body: bytes, max_events: int) -> list[Event]:
    if media not in {_JSON_BATCH, BATCH}:
        raise InvalidEvent("unknown-format", f"content-type {media!r}: expected {_JSON_BATCH}")
    items = parse(body)
    if not isinstance(items, list):
        raise InvalidEvent("not-an-array", f"batch: expected a JSON array, got {type(items).__name__}")
    if len(items) > max_events:
        raise InvalidEvent("too-many-events", f"batch: expected at most {max_events} events, got {len(items)}")
    return [_item(index, item) for index, item in enumerate(items)]


def _item(index: int, item: object) -> Event:
    try:
        return event_of(item)
    except InvalidEvent as exc:
        raise InvalidEvent(exc.reason, f"batch item {index}: {exc.detail}") from exc


def _binary(pairs: Sequence[tuple[str, str]], content_type: str | None, body: bytes) -> Event:
    attributes: dict[str, Value] = {}
    for name, raw in pairs:
        if not name.startswith(_PREFIX):
            continue
        attribute, value = name[len(_PREFIX) :], _decode(name, raw)
        if attribute in {"datacontenttype", "data"}:
            raise InvalidEvent("attribute-name", f"header {name!r}: this attribute never travels as a ce- header")
        if attributes.setdefault(attribute, value) != value:
            raise InvalidEvent("duplicate-attribute", f"header {name!r} comes twice with different values")
    if not attributes:
        raise InvalidEvent("not-a-cloudevent", "no ce- headers, and no content type application/cloudevents")
    if content_type is not None:
        attributes["datacontenttype"] = content_type
    # HTTP cannot tell an empty body from none; an event without a content type has none.
    return build(attributes, body if body or content_type is not None else None)


def _encode(text: str) -> str:
    return _ENCODED.sub(lambda found: "".join(f"%{byte:02X}" for byte in found.group().encode()), text)


def _decode(name: str, raw: str) -> str:
    text = raw.strip()
    if len(text) > 1 and text[0] == text[-1] == '"':
        text = re.sub(r"\\(.)", r"\1", text[1:-1])
    try:
        return unquote_to_bytes(text).decode()
    except UnicodeDecodeError as exc:
        raise InvalidEvent("encoding", f"header {name!r}: expected percent-encoded UTF-8: {exc}") from exc
