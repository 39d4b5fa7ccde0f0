"""Reads from a call's metadata and deadline on which terms it is to be done; `inference/rest/callers.py` for gRPC."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from inference.batching.terms import Terms
from inference.grpc.heads import REQUEST_ID
from inference.grpc.methods import Asked
from streams.events import SYNTHETIC_HEADER, means_synthetic

_CORRELATIONS: Final = (REQUEST_ID, "ce-id")
"""In the logger's order."""


def terms_of(asked: Asked, size: int) -> Terms:
    """Give the terms of a call."""
    head = asked.head
    return Terms(
        deadline=asked.deadline,
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
    return given is not None and means_synthetic(given)
