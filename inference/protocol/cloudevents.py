"""CloudEvents that carry a prediction's request and answer, as KServe's model servers take and give them. Pure.

A V1 or V2 call whose body travels as a CloudEvent, in binary or structured mode, is answered by one in the same mode.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from streams.bindings.attributes import BATCH, STRUCTURED, media_type
from streams.bindings.http import HttpHeaders, from_http, to_http
from streams.bindings.json import encode_event, event_of, parse
from streams.errors import InvalidEvent
from streams.events import CORRELATION_ID, Event

Head = Iterable[tuple[bytes, bytes]]

_SPECVERSION: Final = b"ce-specversion"
_CONTENT_TYPE: Final = b"content-type"
_MARK: Final = STRUCTURED.encode()
_JSON_FORMAT: Final = "application/cloudevents+json"
_PREFIX: Final = "ce-"
_DATA: Final = ("data", "data_base64")
_NAME: Final = re.compile("[a-z0-9]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class EventSettings:
    """What answers say of themselves; KServe reads the same from CE_TYPE, CE_SOURCE and CE_MERGE."""

    type: str = "io.kserve.inference.response"
    source: str = ""
    """Empty: `io.kserve.inference.<model>`."""
    merge: bool = False
    """Keep the request's attributes but for id, time, type and source."""


def is_event(head: Head) -> bool:
    """Say whether a request is a CloudEvent. `ce-id` alone does not make it one: clients send it to correlate."""
    return any(
        name == _SPECVERSION or (name == _CONTENT_TYPE and value[: len(_MARK)].lower() == _MARK) for name, value in head
    )


def read(head: Head, body: bytes) -> tuple[Event, bool]:
    """Read the event of a request, and whether it came in structured mode.

    Attributes whose names CloudEvents forbids are left out: KServe's SDK lets clients send them (`custom-extension`),
    and no prediction should fail for them.

    Raises:
        InvalidEvent: no CloudEvent, or a batch of them.
    """
    headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in head]
    media = next((media_type(value) for name, value in headers if name == "content-type"), "")
    if media.startswith(BATCH):
        raise InvalidEvent("batch", "expected one event, got a batch")
    if media == _JSON_FORMAT:
        fields = parse(body)
        if isinstance(fields, dict):
            fields = {name: value for name, value in fields.items() if name in _DATA or _NAME.fullmatch(name)}
        return event_of(fields), True
    allowed = [each for each in headers if not each[0].startswith(_PREFIX) or _NAME.fullmatch(each[0][len(_PREFIX) :])]
    return from_http(allowed, body)[0], media.startswith(STRUCTURED)


def reply(
    asked: Event, model: str, data: bytes, datacontenttype: str, settings: EventSettings, identity: str, time: str
) -> Event:
    """Make the event of an answer; it names the request's event as `correlationid`."""
    kept = dict(asked.extensions) if settings.merge else {}
    return Event(
        id=identity,
        source=settings.source or f"io.kserve.inference.{model}",
        type=settings.type,
        time=time,
        datacontenttype=datacontenttype,
        dataschema=asked.dataschema if settings.merge else None,
        subject=asked.subject if settings.merge else None,
        extensions={CORRELATION_ID: asked.correlation()} | kept,
        data=data,
    )


def write(event: Event, *, structured: bool) -> tuple[HttpHeaders, bytes]:
    """Give headers and body."""
    # Without a charset, as KServe's: it is JSON, which has one, and clients compare the whole text.
    return ([("content-type", _JSON_FORMAT)], encode_event(event)) if structured else to_http(event)
