"""What a request's head says about the terms of its call."""

from __future__ import annotations

from inference.rest.callers import terms_of


def test_compressed_bodies_are_told_apart() -> None:
    """How many bytes were sent says nothing about how long such a body is."""
    plain: dict[bytes, bytes] = {}
    packed = {b"content-encoding": b"gzip"}

    assert not terms_of(plain, {}, "v2", 100).packed
    assert terms_of(packed, {}, "v2", 100).packed
