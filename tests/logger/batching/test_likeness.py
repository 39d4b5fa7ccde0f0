"""Which calls may be joined, by their heads."""

from __future__ import annotations

import pytest

from logger.batching.likeness import batchable


@pytest.mark.parametrize(
    ("method", "target", "first", "expected"),
    [
        (b"POST", b"/v1/models/m:predict", {b"content-length": b"10"}, True),
        (b"POST", b"/prefix/v2/models/m/versions/3/infer?a=b", {b"content-length": b"10"}, True),
        (b"POST", b"/v1/models/m:explain", {b"content-length": b"10"}, False),
        (b"POST", b"/v2/models/m/generate", {b"content-length": b"10"}, False),
        (b"GET", b"/v1/models/m:predict", {b"content-length": b"10"}, False),
        (b"POST", b"/v1/models/m:predict", {b"content-length": b"101"}, False),
        (b"POST", b"/v1/models/m:predict", {b"transfer-encoding": b"chunked"}, False),
        (b"POST", b"/v1/models/m:predict", {b"content-length": b"10", b"content-encoding": b"gzip"}, False),
    ],
)
def test_only_what_can_be_joined_takes_the_detour(
    method: bytes,
    target: bytes,
    first: dict[bytes, bytes],
    expected: bool,  # noqa: FBT001 - a table
) -> None:
    """Probes, metadata, explanations, streams, large and compressed bodies go straight to the model."""
    assert batchable(method, target, first, 100) is expected
