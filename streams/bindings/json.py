"""The JSON event format (CloudEvents JSON event format 1.0.2), used by every structured and batch mode."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any, Final

import orjson

from streams.bindings.attributes import REQUIRED, SPECVERSION, build, is_json
from streams.errors import InvalidEvent
from streams.events import Event, Value

_INT32: Final = 1 << 31


def encode_event(event: Event) -> bytes:
    """Encode one event: JSON data is embedded, UTF-8 text is a string, anything else is base64.

    Raises:
        InvalidEvent: the content type says JSON but the data are none.
    """
    return orjson.dumps(members(event))


def decode_event(body: bytes) -> Event:
    """Decode one event.

    Raises:
        InvalidEvent: not JSON, not an object, or not a valid event.
    """
    return event_of(parse(body))


def parse(body: bytes) -> object:
    """Parse JSON text; NaN and Infinity are no JSON and are refused."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise InvalidEvent("malformed-json", f"structured event: {exc}") from exc


def members(event: Event) -> dict[str, Any]:
    """Give the members of the JSON object that stands for an event."""
    fields: dict[str, Any] = {"specversion": SPECVERSION} | {name: getattr(event, name) for name in REQUIRED}
    for name in ("time", "datacontenttype", "dataschema", "subject"):
        if getattr(event, name) is not None:
            fields[name] = getattr(event, name)
    fields |= event.extensions
    if event.data is not None:
        fields |= _data_members(event.datacontenttype, event.data)
    return fields


def event_of(fields: object) -> Event:
    """Make an event of a parsed JSON object; members that the specification does not name are extensions."""
    if not isinstance(fields, dict):
        raise InvalidEvent("not-an-object", f"structured event: expected a JSON object, got {type(fields).__name__}")
    data = _data(fields)
    attributes = {
        name: _value(name, value)
        for name, value in fields.items()
        if name not in {"data", "data_base64"} and value is not None
    }
    return build(attributes, data)


def _data_members(content_type: str | None, data: bytes) -> dict[str, Any]:
    # Section 3.1: without a content type, JSON is implied, so bytes that are none must travel as base64.
    if content_type is None or is_json(content_type):
        try:
            return {"data": orjson.Fragment(orjson.dumps(orjson.loads(data)))}
        except orjson.JSONDecodeError:
            return {"data_base64": base64.b64encode(data).decode()}
    if content_type.lower().startswith("text/"):
        try:
            return {"data": data.decode()}
        except UnicodeDecodeError:
            pass
    return {"data_base64": base64.b64encode(data).decode()}


def _data(fields: Mapping[str, Any]) -> bytes | None:
    if fields.get("data") is not None and fields.get("data_base64") is not None:
        raise InvalidEvent("two-data", "structured event: has both 'data' and 'data_base64'; expected one of them")
    if fields.get("data_base64") is not None:
        try:
            return base64.b64decode(fields["data_base64"], validate=True)
        except (binascii.Error, TypeError, ValueError) as exc:
            raise InvalidEvent("malformed-base64", f"member 'data_base64': {exc}") from exc
    if "data" not in fields:
        return None
    content_type = fields.get("datacontenttype")
    value = fields["data"]
    if isinstance(value, str) and isinstance(content_type, str) and not is_json(content_type):
        return value.encode()
    return orjson.dumps(value)


def _value(name: str, value: object) -> Value:
    # The type system of section 2.4 knows strings, booleans and 32-bit integers in JSON; nothing else.
    if isinstance(value, str | bool) or (isinstance(value, int) and -_INT32 <= value < _INT32):
        return value
    kind = type(value).__name__
    raise InvalidEvent("attribute-type", f"attribute {name!r}: expected text, boolean or 32-bit integer, got {kind}")
