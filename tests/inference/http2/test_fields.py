"""Blocks of fields: ours against the `hpack` library's, and our judgement of heads against that of `h2`."""

from __future__ import annotations

import pytest
from h2.exceptions import ProtocolError
from h2.utilities import HeaderValidationFlags, validate_headers
from hpack import Decoder, Encoder
from hpack.exceptions import HPACKError
from hpack.struct import HeaderTuple, NeverIndexedHeaderTuple
from hypothesis import given
from hypothesis import strategies as st

from inference.http2.fields import ANSWER, REQUEST, TRAILERS, Head, Reader, StaticEncoder, misplaced

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


SOUND = st.sampled_from([b"", b"1", b"a b", b"x" * 300, b"\xff\xfe"])
ODD = st.sampled_from([b"", b" ", b"a ", b"\ta", b"a\0", b"a\nb", b"a\r", b"a\x1fb", b"\xff"]) | st.binary(max_size=6)


@given(
    st.lists(
        st.tuples(st.lists(st.tuples(NAMES, SOUND, st.booleans()), max_size=6), st.none() | st.integers(0, 4_096)),
        max_size=5,
    )
)
def test_any_writers_fields_are_found(blocks: list[tuple[list[tuple[bytes, bytes, bool]], int | None]]) -> None:
    """With a table that grows, is used and changes its size; and it is known when it has changed."""
    writer, reader, library = Encoder(), Reader(), Decoder()
    for fields, size in blocks:
        if size is not None:
            writer.header_table_size = size
        block = writer.encode([NeverIndexedHeaderTuple(n, v) if never else HeaderTuple(n, v) for n, v, never in fields])
        before, table = reader.changes, list(reader.header_table.dynamic_entries)
        found, expected = reader.decode(block), list(library.decode(block, raw=True))

        assert [tuple(item) for item in found] == [(name, value) for name, value, _ in fields]
        assert [item.indexable for item in found] == [item.indexable for item in expected]
        assert reader.changes > before or list(reader.header_table.dynamic_entries) == table


@given(st.lists(st.binary(max_size=20), max_size=3))
def test_what_is_no_block_is_refused_as_by_the_library(blocks: list[bytes]) -> None:
    """Any bytes: the same fields, or refused by both; we refuse more, what no field may have, and never otherwise."""
    ours, library = Reader(), Decoder()
    for block in blocks:
        try:
            expected = library.decode(block, raw=True)
        except HPACKError:
            expected = None
        try:
            found = ours.decode(block)
        except HPACKError:
            return

        assert expected is not None
        assert [tuple(item) for item in found] == [(bytes(name), bytes(value)) for name, value in expected]


def test_an_endless_number_is_refused() -> None:
    """A number may be written in as many bytes as one likes; reading them all would take for ever."""
    with pytest.raises(HPACKError, match="too long"):
        Reader().decode(b"\xff" + b"\xff" * 10_000 + b"\0")


@given(
    st.sampled_from([REQUEST, ANSWER, TRAILERS]),
    st.lists(
        st.tuples(
            st.sampled_from(
                [
                    b":method",
                    b":scheme",
                    b":path",
                    b":authority",
                    b":status",
                    b":protocol",
                    b":own",
                    b"host",
                    b"te",
                    b"a",
                    b"connection",
                    b"keep-alive",
                    b"A",
                    b"a:b",
                    b"a b",
                    b":",
                    b"\xff",
                ]
            ),
            st.sampled_from([b"POST", b"CONNECT", b"trailers", b"Trailers", b"h", b"/", b"200", b""]) | ODD,
        ),
        max_size=7,
    ),
    st.booleans(),
)
def test_heads_are_judged_as_the_library_judges_them(
    kind: int, fields: list[tuple[bytes, bytes]], whole: bool  # noqa: FBT001 - hypothesis passes it
) -> None:  # fmt: skip
    """Whatever fields a head has: sound by both, or by neither."""
    if whole:
        own = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"h")]
        fields = [*({REQUEST: own, ANSWER: [(b":status", b"200")], TRAILERS: []}[kind]), *fields]
    flags = HeaderValidationFlags(
        is_client=kind == ANSWER, is_trailer=kind == TRAILERS, is_response_header=kind == ANSWER, is_push_promise=False
    )
    try:
        list(validate_headers([HeaderTuple(*item) for item in fields], flags))
        expected = True
    except ProtocolError:
        expected = False
    try:
        head = Head(Reader().decode(StaticEncoder().encode(fields)))
        found = not misplaced(head.fields, head.found, kind)
    except HPACKError:
        found = False

    assert found == expected
