"""Messages in the content of calls, whatever its pieces."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.errors import BodyTooLarge
from inference.grpc.assembly import Assembly, prefixed
from inference.protocol.errors import MalformedBody
from tests.inference.traced import Traced


@given(
    messages=st.lists(st.tuples(st.booleans(), st.binary(max_size=300)), max_size=6),
    cuts=st.lists(st.integers(0, 2_000)),
)
def test_any_split_gives_the_same_messages(messages: list[tuple[bool, bytes]], cuts: list[int]) -> None:
    """Several messages in a piece, or a message in many: each comes once, in order, when its last byte is there."""
    content = b"".join(prefixed(message, packed=packed) + message for packed, message in messages)
    edges = [0, *sorted(min(cut, len(content)) for cut in cuts), len(content)]
    assembly = Assembly(-1)
    found: list[tuple[int, bytes]] = []
    for begin, end in pairwise(edges):
        found += assembly.add(content[begin:end])
        whole = sum(5 + len(message) for _, message in found)

        assert assembly.size == end - whole

    assert found == [(int(packed), message) for packed, message in messages]
    assert not assembly.size


def test_what_is_too_long_is_refused_by_its_length() -> None:
    """Nothing of a message that is too long is waited for."""
    assembly = Assembly(10)

    assert assembly.add(prefixed(b"", packed=False) + prefixed(b"x" * 10, packed=False)[:3]) == [(0, b"")]
    with pytest.raises(BodyTooLarge, match="at most 10 bytes, got 11"):
        Assembly(10).add(prefixed(b"x" * 11, packed=False))


def test_what_is_no_message() -> None:
    """A flag that does not exist is no message's."""
    with pytest.raises(MalformedBody, match="flag of 0 or 1"):
        Assembly(-1).add(b"\x02\x00\x00\x00\x00")


def test_small_pieces_take_little_more_than_their_bytes() -> None:
    """A message in pieces of two bytes is no list of as many objects: each would take twenty times its bytes."""
    assembly = Assembly(-1)
    with Traced(__file__) as memory:
        assembly.add(prefixed(bytes(200_000), packed=False))
        for number in range(50_000):
            assembly.add(number.to_bytes(2, "big"))
        held = memory.held()

    assert assembly.size == 100_005
    assert assembly.size < held < 3 * assembly.size
