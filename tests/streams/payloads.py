"""Payload records for tests: whole exchanges, halves, garbage and repetitions."""

from __future__ import annotations

from collections.abc import Mapping

from streams.bindings import to_kafka
from streams.events import NAMESPACE, REQUEST_TYPE, RESPONSE_TYPE, SERVICE, Event, Value, format_time
from streams.stage import Headers, Record

START_US = 1_760_000_000_000_000


def event(
    correlation: str, kind: str, at_ms: int = 0, body: bytes = b"", extensions: Mapping[str, Value] | None = None
) -> Event:
    """Make one of our logger's events."""
    own: dict[str, Value] = {NAMESPACE: "n", SERVICE: "s", "correlationid": correlation, "protocol": "v1"}
    if kind == "response":
        own["statuscode"] = 200
    return Event(
        id=f"{correlation}-{kind}", source="http://localhost:9081/", time=format_time(START_US + at_ms * 1000),
        type=REQUEST_TYPE if kind == "request" else RESPONSE_TYPE, datacontenttype="application/json",
        extensions=own | dict(extensions or {}), data=body or (REQUEST if kind == "request" else RESPONSE),
    )  # fmt: skip


REQUEST = b'{"instances":[[1.0,2.0],[3.0,4.0]]}'
RESPONSE = b'{"predictions":[0.1,0.9]}'


def record(message: Event | tuple[Headers, bytes | None], offset: int, partition: int = 0) -> Record:
    """Lay an event, or any headers and value, into a topic."""
    headers, value = to_kafka(message) if isinstance(message, Event) else message
    return Record("p", partition, offset, b"key", value, headers, START_US // 1000 + offset)
