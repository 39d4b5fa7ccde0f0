"""The attribute rules that every binding shares (CloudEvents 1.0.2, sections 2 and 3.1)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from streams.errors import InvalidEvent
from streams.events import Event, Value, parse_time

SPECVERSION: Final = "1.0"
REQUIRED: Final = ("id", "source", "type")
OPTIONAL: Final = ("time", "datacontenttype", "dataschema", "subject")
STRUCTURED: Final = "application/cloudevents"
BATCH: Final = "application/cloudevents-batch"

_NAME: Final = re.compile(r"[a-z0-9]+")


def is_json(content_type: str) -> bool:
    """Tell whether a media type is JSON (`application/json`, `text/json`, any `+json`); parameters do not matter."""
    subtype = media_type(content_type).partition("/")[2]
    return subtype == "json" or subtype.endswith("+json")


def media_type(content_type: str) -> str:
    """Give the media type alone, in lower case."""
    return content_type.partition(";")[0].strip().lower()


def build(attributes: Mapping[str, Value], data: bytes | None) -> Event:
    """Make an event of its attributes, `specversion` included; nothing that is missing is invented.

    Raises:
        InvalidEvent: a required attribute is missing or empty, a name or the time is malformed, the version not 1.0.
    """
    version = attributes.get("specversion")
    if version != SPECVERSION:
        raise InvalidEvent("specversion", f"attribute 'specversion': expected '1.0', got {version!r}")
    required = {name: _text(attributes, name) for name in REQUIRED}
    optional = {name: _optional(attributes, name) for name in OPTIONAL}
    _check_time(optional["time"])
    extensions = {
        name: value
        for name, value in attributes.items()
        if name not in required and name not in optional and name != "specversion"
    }
    for name in extensions:
        check_name(name)
    return Event(
        id=required["id"],
        source=required["source"],
        type=required["type"],
        time=optional["time"],
        datacontenttype=optional["datacontenttype"],
        dataschema=optional["dataschema"],
        subject=optional["subject"],
        extensions=MappingProxyType(extensions),
        data=data,
    )


def check_name(name: str) -> None:
    """Refuse an attribute name that is not lower-case letters and digits, or that would collide with the payload."""
    if not _NAME.fullmatch(name) or name == "data":
        raise InvalidEvent("attribute-name", f"attribute {name!r}: expected lower-case letters and digits, not 'data'")


def _text(attributes: Mapping[str, Value], name: str) -> str:
    value = attributes.get(name)
    if not isinstance(value, str) or not value:
        raise InvalidEvent("missing-attribute", f"attribute {name!r}: expected non-empty text, got {value!r}")
    return value


def _optional(attributes: Mapping[str, Value], name: str) -> str | None:
    value = attributes.get(name)
    if value is None or (isinstance(value, str) and value):
        return value
    if name == "subject" or value != "":
        raise InvalidEvent("attribute-type", f"attribute {name!r}: expected non-empty text, got {value!r}")
    # KServe agents send an empty content type when the request had none; absent is what that means.
    return None


def _check_time(text: str | None) -> None:
    if text is None:
        return
    try:
        parse_time(text)
    except (ValueError, OverflowError) as exc:
        raise InvalidEvent("time", f"attribute 'time': expected RFC 3339, got {text!r}") from exc
