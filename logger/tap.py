"""What the proxy saw of one exchange → payload events. Pure; runs in the shipper's process, never in the proxy's.

Next on the path: `logger/shipper.py` publishes them.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b
from typing import Final, NamedTuple

from logger.grpc import methods
from logger.heads import Fields
from logger.settings import TapSettings
from streams import events
from streams.events import (
    MODEL_VERSION_HEADER,
    NO_ROWS,
    REQUEST_TYPE,
    RESPONSE_TYPE,
    SYNTHETIC_HEADER,
    format_time,
    means_synthetic,
)

_INFERENCE: Final = re.compile(
    r"/v1/models/(?P<v1>[^/:]+):predict$"
    r"|/v2/models/(?P<v2>[^/]+)(?:/versions/(?P<version>[^/]+))?/infer$"
)
_OTHER: Final = re.compile(
    r"/v1/models/(?P<v1>[^/:]+):explain$"
    r"|/v2/models/(?P<v2>[^/]+)(?:/versions/(?P<version>[^/]+))?/(?:explain|generate|generate_stream)$"
    r"|/v1/(?:(?:chat/)?completions|embeddings|rerank|score|responses)$"
)
_MANAGEMENT: Final = re.compile(r"/v2/repository/|/metrics$|/health(?:z|/|$)")
SECRET: Final = frozenset({
    b"authorization", b"proxy-authorization", b"cookie", b"set-cookie", b"x-api-key", b"x-auth-token", b"x-csrf-token",
})  # fmt: skip
_SYNTHETIC: Final = SYNTHETIC_HEADER.encode()
_ANSWERED_BY: Final = MODEL_VERSION_HEADER.encode()
_CONTENT: Final = {
    b"content-type": "content-type",
    b"content-encoding": "ce_contentencoding",
    b"inference-header-content-length": "ce_inferenceheaderlength",
    b"grpc-status": "ce_grpcstatus",
}


Marks = tuple[tuple[str, bytes], ...]


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

    @property
    def marks(self) -> Marks:
        """Give further headers of its event; `logger/privacy` says what it did to a body."""
        return ()


class Letter(NamedTuple):
    """One event as a Kafka record."""

    key: bytes
    value: bytes
    headers: tuple[tuple[str, bytes], ...]


@dataclass(slots=True)
class Seen:
    """One exchange as the proxy saw it. Times are microseconds since the epoch; `*_us` latencies are from its start."""

    correlation: str
    method: str
    path: str
    request_fields: Fields
    started_us: int
    response_fields: Fields = field(default_factory=list)
    status: int = 0
    """0 when the model never answered."""
    first_byte_us: int = 0
    latency_us: int = 0
    aborted: bool = False
    request: Body = field(default_factory=Body)
    response: Body = field(default_factory=Body)
    attributes: Marks = ()
    """Further headers of both events, said by who reads the bodies; a record does not have them."""

    @property
    def size(self) -> int:
        """Bytes of content that it holds."""
        return self.request.kept + self.response.kept


def is_inference(method: bytes, path: str) -> bool:
    """Tell whether a call is one for predictions, which have rows."""
    return method == b"POST" and _INFERENCE.search(path) is not None


def is_logged(method: bytes, path: str, *, others: bool = False) -> bool:
    """Tell whether a call is for a model's answer: predictions, explanations, generated text.

    Probes, metrics, metadata and a repository's management never are.

    Args:
        method: of the request.
        path: of the request, without its query.
        others: log other POSTs as well, those of a custom model's own paths.
    """
    if method != b"POST":
        return False
    if _INFERENCE.search(path) or _OTHER.search(path):
        return True
    return others and _MANAGEMENT.search(path) is None


def sampled(correlation: bytes, one_of: int) -> bool:
    """Tell whether a call is among the one of so many that is logged; the same for every hop that knows its id."""
    return int.from_bytes(blake2b(correlation, digest_size=8).digest(), "big") % one_of == 0


class Tap:
    """Makes payload events of exchanges: Kafka headers by hand, for this is done for every request."""

    def __init__(self, settings: TapSettings) -> None:
        self._settings = settings
        shared = [
            (events.SERVICE, settings.service), (events.NAMESPACE, settings.namespace),
            (events.COMPONENT, settings.component), (events.ENDPOINT, settings.endpoint),
        ]  # fmt: skip
        if settings.annotations:
            shared.append((events.ANNOTATIONS, json.dumps(dict(settings.annotations), separators=(",", ":"))))
        common = [
            ("ce_specversion", b"1.0"), ("ce_source", settings.source.encode()),
            *((f"ce_{name}", value.encode()) for name, value in shared),
        ]  # fmt: skip
        if settings.sample > 1:
            common.append((f"ce_{events.SAMPLED_RATE}", b"%d" % settings.sample))
        self._request = (*common, ("ce_type", REQUEST_TYPE.encode()))
        self._response = (*common, ("ce_type", RESPONSE_TYPE.encode()))
        self.events_each = 2 if settings.mode == "all" else 1

    def letters(self, seen: Seen, recorded_us: int) -> list[Letter]:
        """Give the events of one exchange: the request's, the response's, or both, by mode."""
        mode, found = self._settings.mode, []
        key = seen.correlation.encode()
        shared = self._shared(seen, key, recorded_us)
        # The start keeps ids apart when a client uses one correlation id for several calls.
        start = b"%x" % seen.started_us
        if mode != "response":
            headers = [
                *self._request, *shared, ("ce_id", b"%b-q-%b" % (key, start)), ("ce_time", _time(seen.started_us)),
                *_content(seen.request, seen.request_fields),
            ]  # fmt: skip
            found.append(Letter(key, b"".join(seen.request.chunks), tuple(headers)))
        if mode != "request":
            headers = [
                *self._response, *shared, ("ce_id", b"%b-r-%b" % (key, start)),
                ("ce_time", _time(seen.started_us + seen.latency_us)), ("ce_statuscode", b"%d" % seen.status),
                ("ce_latencyus", b"%d" % seen.latency_us), *_content(seen.response, seen.response_fields),
            ]  # fmt: skip
            if seen.first_byte_us:
                headers.append(("ce_firstbyteus", b"%d" % seen.first_byte_us))
            found.append(Letter(key, b"".join(seen.response.chunks), tuple(headers)))
        return found

    def _shared(self, seen: Seen, key: bytes, recorded_us: int) -> list[tuple[str, bytes]]:
        headers = [
            ("ce_correlationid", key), ("ce_recordedtime", _time(recorded_us)), ("ce_method", seen.method.encode()),
            *_named(seen.path), *seen.attributes,
        ]  # fmt: skip
        answered_by = next((value for raw, value in seen.response_fields if raw == _ANSWERED_BY), None)
        if answered_by:
            # Which version answered counts, not which was asked for: a rollout chooses, and names may be aliases.
            headers = [header for header in headers if header[0] != "ce_modelversion"]
            headers.append(("ce_modelversion", _utf8(answered_by)))
        allowed = self._settings.metadata_headers
        metadata: dict[str, list[str]] = {}
        for raw, value in seen.request_fields:
            if raw == b"traceparent":
                headers.append(("ce_traceparent", _utf8(value)))
            elif raw == b"tracestate":
                headers.append(("ce_tracestate", _utf8(value)))
            elif raw == _SYNTHETIC and means_synthetic(value.decode("latin-1")):
                headers.append(("ce_synthetic", b"true"))
            if allowed and raw not in SECRET and (name := raw.decode("latin-1")) in allowed:
                metadata.setdefault(name, []).append(value.decode("latin-1"))
        headers.append(("ce_metadata", json.dumps(metadata, separators=(",", ":")).encode() if metadata else b"{}"))
        if seen.aborted:
            headers.append(("ce_aborted", b"true"))
        return headers


@lru_cache(maxsize=1024)
def _named(path: str) -> tuple[tuple[str, bytes], ...]:
    """Give the headers that follow from a path, which is the same again and again."""
    predicts = _INFERENCE.search(path)
    match = predicts or _OTHER.search(path)
    names = match.groupdict() if match else {}
    named = [("ce_path", path.encode())]
    if predicts:
        named.append(("ce_protocol", b"v1" if names["v1"] else b"v2"))
    elif path not in methods.INFERENCE:  # what those calls hold says who reads the messages
        named.append(("ce_protocol", NO_ROWS.encode()))
    if names.get("v1") or names.get("v2"):
        named.append(("ce_modelname", (names["v1"] or names["v2"]).encode()))
    if names.get("version"):
        named.append(("ce_modelversion", names["version"].encode()))
    return tuple(named)


@lru_cache(maxsize=64)
def _second(at: int) -> str:
    return format_time(at * 1_000_000)[:20]


def _time(micros: int) -> bytes:
    second, rest = divmod(micros, 1_000_000)
    return b"%b%06dZ" % (_second(second).encode(), rest)


def _content(body: Body, fields: Fields) -> list[tuple[str, bytes]]:
    # A field that comes twice counts once: an event's attribute has one value.
    found = {_CONTENT[name]: _utf8(value) for name, value in reversed(fields) if name in _CONTENT and value}
    if body.truncated:
        found["ce_truncated"] = b"true"
    return [*found.items(), *body.marks]


def _utf8(value: bytes) -> bytes:
    # Header fields are bytes of no stated encoding; Latin-1 loses none of them.
    return value if value.isascii() else value.decode("latin-1").encode()
