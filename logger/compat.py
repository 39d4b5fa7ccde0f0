"""Payload events exactly as KServe's agent makes them, for consumers that know nothing else. Pure.

One id for both events (`Ce-Id`, or one made up), KServe's attributes and no others, the request's content type on the
response too, header names as Go spells them, and no response event unless the status was 200. What KServe would not
have sent is `NOTHING`: it takes the event's place in every count and goes nowhere. The one departure: a body that is
not whole, or was redacted, says so, for KServe's would have been whole.
"""

from __future__ import annotations

import json
from hashlib import blake2b
from typing import Final
from uuid import UUID

from logger.settings import TapSettings
from logger.tap import SECRET, Body, Letter, Seen, Tap
from streams import events
from streams.events import REQUEST_TYPE, RESPONSE_TYPE, format_time

NOTHING: Final = Letter(b"", b"", ())
"""An event that is not sent."""
_OK: Final = 200
# Go's encoder makes JSON safe for HTML.
_GO: Final = str.maketrans({
    "<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029",
})  # fmt: skip


class KServeTap(Tap):
    """Makes KServe's events of exchanges."""

    def __init__(self, settings: TapSettings) -> None:
        super().__init__(settings)
        self._chosen = settings
        named = [
            (events.SERVICE, settings.service), (events.NAMESPACE, settings.namespace),
            (events.COMPONENT, settings.component), (events.ENDPOINT, settings.endpoint),
        ]  # fmt: skip
        if settings.annotations:
            named.append((events.ANNOTATIONS, _json(dict(settings.annotations))))
        self._fixed = (
            ("ce_specversion", b"1.0"), ("ce_source", settings.source.encode()),
            *((f"ce_{name}", value.encode()) for name, value in named),
        )  # fmt: skip

    def letters(self, seen: Seen, recorded_us: int) -> list[Letter]:
        """Give the events of one exchange."""
        identity = _identity(seen)
        shared = [
            *self._fixed, ("ce_id", identity), ("ce_metadata", self._metadata(seen).encode()),
            ("ce_recordedtime", _time(recorded_us)), *_content_type(seen),
        ]  # fmt: skip
        found = []
        if self._chosen.mode != "response":
            head = (*shared, ("ce_type", REQUEST_TYPE.encode()), ("ce_time", _time(seen.started_us)))
            found.append(_letter(identity, seen.request, head))
        if self._chosen.mode != "request":
            ended = _time(seen.started_us + seen.latency_us)
            head = (*shared, ("ce_type", RESPONSE_TYPE.encode()), ("ce_time", ended))
            sent = seen.status == _OK and not seen.aborted
            found.append(_letter(identity, seen.response, head) if sent else NOTHING)
        return found

    def _metadata(self, seen: Seen) -> str:
        kept: dict[str, list[str]] = {}
        for name, value in seen.request_fields:
            if name not in SECRET and name.decode("latin-1") in self._chosen.metadata_headers:
                kept.setdefault(_canonical(name), []).append(value.decode("latin-1"))
        return _json(kept)


def _identity(seen: Seen) -> bytes:
    """Give `Ce-Id`, else a UUID that is the same however often the exchange is read again."""
    for name, value in seen.request_fields:
        if name == b"ce-id" and value:
            return value.decode("latin-1").encode()
    digest = blake2b(f"{seen.correlation}\x1f{seen.started_us}".encode(), digest_size=16).digest()
    return str(UUID(bytes=digest, version=4)).encode()


def _letter(key: bytes, body: Body, headers: tuple[tuple[str, bytes], ...]) -> Letter:
    marks = (*((("ce_truncated", b"true"),) if body.truncated else ()), *body.marks)
    return Letter(key, b"".join(body.chunks), (*headers, *marks))


def _content_type(seen: Seen) -> list[tuple[str, bytes]]:
    given = (value for name, value in seen.request_fields if name == b"content-type" and value)
    return [("content-type", value.decode("latin-1").encode()) for value in given][:1]


def _canonical(name: bytes) -> str:
    """Spell a header's name as Go does: x-request-id is X-Request-Id."""
    return "-".join(part.capitalize() for part in name.decode("latin-1").split("-"))


def _json(content: object) -> str:
    """Write JSON as Go does: keys in order, no spaces, no ASCII escapes but those for HTML."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False).translate(_GO)


def _time(micros: int) -> bytes:
    """Write a time as Go does: without the zeros at the end of its fraction."""
    return format_time(micros).removesuffix("Z").rstrip("0").removesuffix(".").encode() + b"Z"
