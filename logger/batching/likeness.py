"""Which calls may be joined, and with which, as far as their heads say. Pure."""

from __future__ import annotations

import re
from typing import Final

from logger.batching.parts import Codec
from logger.batching.v1 import V1
from logger.batching.v2 import V2
from logger.heads import Fields

_V1: Final = re.compile(rb"/v1/models/[^/:]+:predict$")
_V2: Final = re.compile(rb"/v2/models/[^/]+(?:/versions/[^/]+)?/infer$")
_CODECS: Final[tuple[tuple[re.Pattern[bytes], Codec], ...]] = ((_V1, V1()), (_V2, V2()))
# What tells who asks and over which way, and changes no answer. Everything else has to be equal for calls to be joined.
_PERSONAL: Final = re.compile(
    rb"x-request-id|traceparent|tracestate|baggage|b3|x-b3-.*|x-cloud-trace-context|user-agent|via|forwarded"
    rb"|x-forwarded-.*|x-real-ip|x-envoy-.*|ce-id|ce-time|date|accept-encoding|inference-header-content-length"
)


def batchable(method: bytes, target: bytes, first: dict[bytes, bytes], most: int) -> bool:
    """Tell from a request's head whether it may be joined with others; called by the proxy."""
    length = first.get(b"content-length", b"")
    if method != b"POST" or not length.isdigit() or int(length[:12]) > most or b"content-encoding" in first:
        return False
    return codec_of(target) is not None


def codec_of(target: bytes) -> Codec | None:
    """Give what joins and splits the bodies of calls to a target; None: they cannot be joined."""
    path = target.partition(b"?")[0]
    for pattern, codec in _CODECS:
        if pattern.search(path):
            return codec
    return None


def shared(fields: Fields) -> Fields:
    """Give the fields that are equal in all calls of a batch."""
    return [item for item in fields if not _PERSONAL.fullmatch(item[0])]
