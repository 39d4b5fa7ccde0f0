"""Reads from a call's metadata and deadline on which terms it is to be done; `inference/rest/callers.py` for gRPC."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final

from inference.batching.terms import Terms
from streams.events import SYNTHETIC_HEADER

REQUEST_ID: Final = "x-request-id"
_CORRELATIONS: Final = (REQUEST_ID, "ce-id")
"""In the logger's order."""
_NO: Final = frozenset({"false", "0"})
_BINARY: Final = "-bin"


def head_of(context: Any) -> dict[str, str]:  # noqa: ANN401 - grpc has no types
    """Give a call's metadata, without what is binary; names are in lower case by gRPC's rules."""
    return {name: value for name, value in context.invocation_metadata() if not name.endswith(_BINARY)}


def terms_of(context: Any, head: dict[str, str], size: int) -> Terms:  # noqa: ANN401 - grpc has no types
    """Give the terms of a call."""
    left = context.time_remaining()
    return Terms(
        deadline=None if left is None else time.monotonic() + left,
        yielding=synthetic(head),
        key=next((head[name] for name in _CORRELATIONS if name in head), "").encode(),
        headers=head,
        size=size,
        protocol="grpc",
        traceparent=head.get("traceparent", ""),
    )


def synthetic(head: Mapping[str, str]) -> bool:
    """Say whether no user made the call."""
    given = head.get(SYNTHETIC_HEADER)
    return given is not None and given.lower() not in _NO
