"""Reads from an HTTP request's head on which terms its call is to be done."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Final

from inference.batching.terms import Terms
from inference.protocol.errors import MalformedBody
from streams.events import SYNTHETIC_HEADER, means_synthetic

_SYNTHETIC: Final = SYNTHETIC_HEADER.encode()
"""Set by explainers and tests on calls that no user made; they yield to users' calls."""
TIMEOUTS: Final = (b"x-sidelight-timeout-ms", b"x-envoy-expected-rq-timeout-ms")
"""How long the caller waits. The second is set by Envoy, on which Istio and so KServe's usual set-up rest."""
_REQUEST_ID: Final = b"x-request-id"
_EVENT_ID: Final = b"ce-id"
_DIGITS: Final = 15
"""Of the longest time limit: as many more as a head can hold are no number that a clock knows."""


def terms_of(head: dict[bytes, bytes], headers: Mapping[str, str], protocol: str, size: int) -> Terms:
    """Give the terms of a request, whose head comes in two forms: one quick to look into, one for a rollout's header.

    Raises:
        MalformedBody: a time limit that is no number.
    """
    return Terms(
        deadline=_deadline(head),
        yielding=synthetic(head),
        key=head.get(_REQUEST_ID) or head.get(_EVENT_ID, b""),
        headers=headers,
        size=size,
        packed=b"content-encoding" in head,
        protocol=protocol,
        traceparent=head.get(b"traceparent", b"").decode("latin-1"),
    )


def synthetic(head: dict[bytes, bytes]) -> bool:
    """Say whether no user made the call."""
    given = head.get(_SYNTHETIC)
    return given is not None and means_synthetic(given.decode("latin-1"))


def _deadline(head: dict[bytes, bytes]) -> float | None:
    if TIMEOUTS[0] not in head and TIMEOUTS[1] not in head:
        return None
    limits = [head[name] for name in TIMEOUTS if name in head]
    for limit in limits:
        if not limit.isdigit() or len(limit) > _DIGITS:
            raise MalformedBody(TIMEOUTS[0].decode(), f"expected milliseconds, got {limit.decode('latin-1')!r}")
    return time.monotonic() + min(map(int, limits)) / 1_000
