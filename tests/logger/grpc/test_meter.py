"""Counting messages in pieces of content."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logger.grpc.meter import Meter


def framed(*messages: bytes) -> bytes:
    """Frame messages as gRPC does."""
    return b"".join(b"\x00" + len(message).to_bytes(4, "big") + message for message in messages)


@given(st.lists(st.binary(max_size=30), max_size=6), st.lists(st.integers(0, 200), max_size=8))
def test_messages_end_where_they_end(messages: list[bytes], cuts: list[int]) -> None:
    """However content is cut: it is within a message exactly when it does not end where a message does."""
    data = framed(*messages)
    ends, at = {0}, 0
    for message in messages:
        at += 5 + len(message)
        ends.add(at)
    places = sorted({min(cut, len(data)) for cut in cuts} | {len(data)})
    meter, last = Meter(30), 0
    for place in places:
        long = meter.add(data[last:place])
        last = place

        assert long == 0
        assert meter.received == place
        assert meter.within == (place not in ends)


@pytest.mark.parametrize("size", [1, 2, 4, 5, 6, 100])
def test_a_long_message_is_known_by_its_prefix(size: int) -> None:
    """Its announced length is told when the last byte of it has come, before any of the message."""
    data = framed(b"ok", b"x" * 11)
    meter = Meter(10)
    found = [(at, long) for at in range(0, len(data), size) if (long := meter.add(data[at : at + size]))]

    assert found[0][1] == 11
    assert found[0][0] <= 7 + 4 < found[0][0] + size


def test_no_limit_is_none() -> None:
    """0 lets the longest message pass that can be announced."""
    meter = Meter(0)

    assert meter.add(b"\x00\xff\xff\xff\xff") == 0
    assert meter.within
