"""The event envelope, and the event types, extensions and ids that every part shares.

`data` is bytes plus a content type; nothing here looks inside. Event ↔ headers and bytes: `streams/bindings.py`.
Sources: CloudEvents 1.0.2 core specification; KServe's payload logger for the type and extension names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from types import MappingProxyType
from typing import Final

REQUEST_TYPE: Final = "org.kubeflow.serving.inference.request"
RESPONSE_TYPE: Final = "org.kubeflow.serving.inference.response"
OBSERVATIONS_TYPE: Final = "dev.sidelight.observations"
ALERT_OPENED_TYPE: Final = "dev.sidelight.alert.opened"
ALERT_UPDATED_TYPE: Final = "dev.sidelight.alert.updated"
ALERT_RESOLVED_TYPE: Final = "dev.sidelight.alert.resolved"

# Extensions of a payload event. The first row is KServe's own; the others are ours.
SERVICE: Final = "inferenceservicename"
NAMESPACE: Final = "namespace"
COMPONENT: Final = "component"
PREDICTOR: Final = "predictor"
"""The component whose rows are the service's own, and are looked at unless a monitor says otherwise."""
SHADOW: Final = "shadow"
"""The component of what shadow versions answered to copies of requests: rows of their own, that nobody else counts."""
ENDPOINT: Final = "endpoint"
ANNOTATIONS: Final = "annotations"
CORRELATION_ID: Final = "correlationid"
STATUS_CODE: Final = "statuscode"
METHOD: Final = "method"
PATH: Final = "path"
MODEL_NAME: Final = "modelname"
MODEL_VERSION: Final = "modelversion"
LATENCY_US: Final = "latencyus"
TRUNCATED: Final = "truncated"
ABORTED: Final = "aborted"
SAMPLED_RATE: Final = "sampledrate"
SYNTHETIC: Final = "synthetic"
TRACEPARENT: Final = "traceparent"
TRACEPARENTS: Final = "traceparents"
"""Of rows of several calls: those of their traces that are recorded, separated by spaces, the first of them."""
CONTENT_ENCODING: Final = "contentencoding"
INFERENCE_HEADER_LENGTH: Final = "inferenceheaderlength"
PROTOCOL: Final = "protocol"
NO_ROWS: Final = "unknown"
"""The protocol of calls that are no predictions, and have no rows: explanations, generated text, a model's own."""
REDACTED: Final = "redacted"
WITHHELD: Final = "withheld"
"""Why the logger gives length and digest of a body instead of the body."""
DATA_REF: Final = "dataref"
"""CloudEvents' own extension: where the data lie, when the event has none."""
ENCRYPTION: Final = "encryption"
ENCRYPTION_KEY: Final = "encryptionkeyid"
ENCRYPTED_TYPE: Final = "encryptedcontenttype"

MODEL_VERSION_HEADER: Final = "x-sidelight-model-version"
"""HTTP header, and gRPC metadata, of a predictor's answer: the version that made it, which a rollout chose."""

# HTTP header, and V2 request parameter, that mark an explainer's callback; its events come out `synthetic`.
SYNTHETIC_HEADER: Final = "x-sidelight-synthetic"
SYNTHETIC_PARAMETER: Final = "sidelight_synthetic"

Value = str | int | bool

_NO: Final = frozenset({"false", "0"})

_DIGITS: Final = 18
"""Digits of the longest number that every consumer's 64 bits hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One CloudEvent. Immutable; `time` stays the RFC 3339 text that came in, so no precision is lost on the way."""

    id: str
    source: str
    type: str
    time: str | None = None
    datacontenttype: str | None = None
    dataschema: str | None = None
    subject: str | None = None
    extensions: Mapping[str, Value] = field(default_factory=lambda: MappingProxyType({}))
    data: bytes | None = None

    def text(self, extension: str) -> str:
        """Give an extension as text, empty when absent; booleans and integers in CloudEvents' canonical spelling."""
        value = self.extensions.get(extension, "")
        return value if isinstance(value, str) else canonical(value)

    def number(self, extension: str) -> int | None:
        """Give an extension as a whole number from 0 up, below 10^18; None when it is absent or no such number."""
        text = self.text(extension)
        return int(text) if text.isascii() and text.isdigit() and len(text) <= _DIGITS else None

    def service(self) -> str:
        """Give the service's key, `namespace/name`."""
        return f"{self.text(NAMESPACE)}/{self.text(SERVICE)}"

    def observed_as(self) -> str:
        """Give the key of the rows made of it: the service's; with `/component` behind it for all but the predictor's.

        One call passes through a transformer and the predictor, and would count twice under one key.
        """
        component = self.text(COMPONENT)
        return self.service() if component in {"", PREDICTOR} else f"{self.service()}/{component}"

    def correlation(self) -> str:
        """Give what request and response share: our extension, or for a KServe agent's events the id itself."""
        return self.text(CORRELATION_ID) or self.id


def canonical(value: Value) -> str:
    """Spell an attribute value as CloudEvents 1.0.2 section 2.3 does (`true`, not `True`)."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def means_synthetic(value: str) -> bool:
    """Say what `SYNTHETIC_HEADER` means: whatever it holds marks a call, but for `false` and `0`."""
    return value.strip().lower() not in _NO


def stable_id(*parts: str | int) -> str:
    """Give the same 32 hex digits for the same parts, always: what makes a re-sent event recognisable."""
    # Lone surrogates, as in the names of odd files, must not cost an event.
    digest = blake2b("\x1f".join(str(part) for part in parts).encode(errors="surrogatepass"), digest_size=16)
    return digest.hexdigest()


_RFC_3339: Final = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(?:\.\d+)?(?:[Zz]|[+-]\d\d:\d\d)", re.ASCII)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def parse_time(text: str) -> int:
    """Give microseconds since the epoch of an RFC 3339 text.

    Raises:
        ValueError: not RFC 3339, or without a zone.
    """
    # Python reads all of ISO 8601, weeks and basic forms too, but not RFC 3339's small letters.
    if _RFC_3339.fullmatch(text) is None:
        raise ValueError(f"time {text!r} is not RFC 3339, or has no zone; expected one such as 2026-01-31T12:00:00Z")
    moment = datetime.fromisoformat(text.upper())
    return (moment - _EPOCH) // timedelta(microseconds=1)


def format_time(micros: int) -> str:
    """Give RFC 3339 text, in UTC and with six digits, of microseconds since the epoch."""
    return (_EPOCH + timedelta(microseconds=micros)).isoformat(timespec="microseconds").replace("+00:00", "Z")
