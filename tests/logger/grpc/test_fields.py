"""The stateless HPACK writer against the `hpack` library's reader."""

from __future__ import annotations

from hpack import Decoder
from hpack.struct import NeverIndexedHeaderTuple
from hypothesis import given
from hypothesis import strategies as st

from logger.grpc.fields import StaticEncoder

NAMES = st.sampled_from([b":status", b":path", b"content-type", b"x-request-id", b"grpc-status", b"k-bin"])
VALUES = st.one_of(st.sampled_from([b"200", b"/", b"404", b""]), st.binary(max_size=700))


@given(st.lists(st.lists(st.tuples(NAMES, VALUES, st.booleans()), max_size=6), max_size=4))
def test_any_reader_finds_the_fields(blocks: list[list[tuple[bytes, bytes, bool]]]) -> None:
    """Block after block on one connection: each field, in order, and whether it may ever be indexed."""
    writer, reader = StaticEncoder(), Decoder()
    reader.max_header_list_size = 1 << 20
    for block in blocks:
        fields = [NeverIndexedHeaderTuple(name, value) if never else (name, value) for name, value, never in block]
        found = reader.decode(writer.encode(fields), raw=True)

        assert [(bytes(name), bytes(value)) for name, value in found] == [(name, value) for name, value, _ in block]
        assert [not item.indexable for item in found] == [never for _, _, never in block]


def test_a_reader_without_a_table_is_enough() -> None:
    """A peer that allows no dynamic table at all can read every block."""
    writer, reader = StaticEncoder(), Decoder()
    reader.max_allowed_table_size = 0
    for _ in range(2):
        assert [tuple(item) for item in reader.decode(writer.encode([(b"a", b"b")]), raw=True)] == [(b"a", b"b")]
