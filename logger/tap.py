"""What the proxy saw of one exchange → payload events. Pure; runs on the courier's thread, never on the event loop.

Next on the path: `logger/courier.py` publishes them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from logger.heads import Fields
from logger.settings import TapSettings
from streams import events
from streams.events import REQUEST_TYPE, RESPONSE_TYPE, Event, Value, format_time

_INFERENCE: Final = re.compile(
    r"/v1/models/(?P<v1>[^/:]+):predict$"
    r"|/v2/models/(?P<v2>[^/]+)(?:/versions/(?P<version>[^/]+))?/infer$"
)
_SECRET: Final = frozenset({
    "authorization", "proxy-authorization", "cookie", "set-cookie", "x-api-key", "x-auth-token", "x-csrf-token",
})  # fmt: skip


@dataclass(slots=True)
class Body:
    """A body on its way: references to its chunks up to the cap, and its whole size."""

    chunks: list[bytes] = field(default_factory=list)
    kept: int = 0
    size: int = 0

    def add(self, data: bytes, cap: int) -> None:
        """Note a chunk; beyond the cap it only counts."""
        self.size += len(data)
        room = cap - self.kept
        if room > 0:
            # The chunk itself, not a copy, unless it crosses the cap.
            part = data if len(data) <= room else data[:room]
            self.chunks.append(part)
            self.kept += len(part)

    def drop(self) -> None:
        """Let go of the content; the size stays."""
        self.chunks = []
        self.kept = 0

    @property
    def truncated(self) -> bool:
        """Tell whether content is missing."""
        return self.kept < self.size


@dataclass(slots=True)
class Seen:
    """One exchange as the proxy saw it. Times are microseconds since the epoch; `*_us` latencies are from its start."""

    correlation: str
    method: str
    path: str
    request_fields: Fields
    started_us: int
    request: Body = field(default_factory=Body)
    response: Body = field(default_factory=Body)
    response_fields: Fields = field(default_factory=list)
    status: int = 0
    """0 when the model never answered."""
    first_byte_us: int = 0
    latency_us: int = 0
    aborted: bool = False

    @property
    def size(self) -> int:
        """Bytes of content that it holds."""
        return self.request.kept + self.response.kept


def is_inference(method: bytes, path: str) -> bool:
    """Tell whether a call is one for predictions, which have rows; probes, metadata, explain and generate have none."""
    return method == b"POST" and _INFERENCE.search(path) is not None


def count(settings: TapSettings) -> int:
    """Give how many events an exchange leads to."""
    return 2 if settings.mode == "all" else 1


def events_for(seen: Seen, settings: TapSettings, recorded_us: int) -> list[Event]:
    """Give the events of one exchange: the request's, the response's, or both, by mode."""
    shared = _shared(seen, settings, recorded_us)
    found = []
    if settings.mode != "response":
        found.append(_request(seen, settings, shared))
    if settings.mode != "request":
        found.append(_response(seen, settings, shared))
    return found


def _shared(seen: Seen, settings: TapSettings, recorded_us: int) -> dict[str, Value]:
    match = _INFERENCE.search(seen.path)
    names = match.groupdict() if match else {}
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in seen.request_fields}
    shared: dict[str, Value] = {
        events.SERVICE: settings.service,
        events.NAMESPACE: settings.namespace,
        events.COMPONENT: settings.component,
        events.ENDPOINT: settings.endpoint,
        events.METADATA: json.dumps(_metadata(seen.request_fields, settings.metadata_headers), separators=(",", ":")),
        events.CORRELATION_ID: seen.correlation,
        events.METHOD: seen.method,
        events.PATH: seen.path,
        events.PROTOCOL: "v1" if names.get("v1") else "v2",
        events.MODEL_NAME: names.get("v1") or names.get("v2") or "",
        events.RECORDED_TIME: format_time(recorded_us),
    }
    if settings.annotations:
        shared[events.ANNOTATIONS] = json.dumps(dict(settings.annotations), separators=(",", ":"))
    optional = {
        events.MODEL_VERSION: names.get("version"),
        events.TRACEPARENT: headers.get("traceparent"),
        events.SYNTHETIC: "true" if headers.get(events.SYNTHETIC_HEADER) else None,
        events.ABORTED: "true" if seen.aborted else None,
    }
    return shared | {name: value for name, value in optional.items() if value}


def _request(seen: Seen, settings: TapSettings, shared: Mapping[str, Value]) -> Event:
    extensions = {**shared, **_content(seen.request, seen.request_fields)}
    return _event(f"{seen.correlation}-q", REQUEST_TYPE, seen.started_us, seen, settings, extensions)


def _response(seen: Seen, settings: TapSettings, shared: Mapping[str, Value]) -> Event:
    extensions = {
        **shared,
        **_content(seen.response, seen.response_fields),
        events.STATUS_CODE: seen.status,
        events.LATENCY_US: seen.latency_us,
    }
    if seen.first_byte_us:
        extensions[events.FIRST_BYTE_US] = seen.first_byte_us
    return _event(f"{seen.correlation}-r", RESPONSE_TYPE, seen.started_us + seen.latency_us, seen, settings, extensions)


def _event(
    identity: str, kind: str, at_us: int, seen: Seen, settings: TapSettings, extensions: Mapping[str, Value]
) -> Event:
    body, fields = (
        (seen.request, seen.request_fields) if kind == REQUEST_TYPE else (seen.response, seen.response_fields)
    )
    return Event(
        # The start keeps ids apart when a client uses one correlation id for several calls.
        id=f"{identity}-{seen.started_us:x}",
        source=settings.source,
        type=kind,
        time=format_time(at_us),
        datacontenttype=_field(fields, b"content-type") or None,
        extensions=MappingProxyType(dict(extensions)),
        data=b"".join(body.chunks),
    )


def _content(body: Body, fields: Fields) -> dict[str, Value]:
    found: dict[str, Value] = {}
    if body.truncated:
        found[events.TRUNCATED] = "true"
    encoding = _field(fields, b"content-encoding")
    if encoding:
        found[events.CONTENT_ENCODING] = encoding
    length = _field(fields, b"inference-header-content-length")
    if length:
        found[events.INFERENCE_HEADER_LENGTH] = length
    return found


def _metadata(fields: Fields, allowed: frozenset[str]) -> dict[str, list[str]]:
    kept: dict[str, list[str]] = {}
    for raw, value in fields:
        name = raw.decode("latin-1")
        if name in allowed and name not in _SECRET:
            kept.setdefault(name, []).append(value.decode("latin-1"))
    return kept


def _field(fields: Fields, name: bytes) -> str:
    return next((value.decode("latin-1") for key, value in fields if key == name), "")
