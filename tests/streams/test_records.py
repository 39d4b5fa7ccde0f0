"""Records in states: byte for byte what they were."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.errors import StreamError
from streams.records import pack, unpack
from streams.stage import Record

_BYTES = st.none() | st.binary(max_size=20)
_RECORDS = st.builds(
    Record,
    topic=st.text(max_size=8),
    partition=st.integers(0, 2**31 - 1),
    offset=st.integers(0, 2**63 - 1),
    key=_BYTES,
    value=_BYTES,
    headers=st.lists(st.tuples(st.text(max_size=8), _BYTES), max_size=4).map(tuple),
    timestamp_ms=st.integers(-1, 2**53),
)


@given(_RECORDS, st.binary(max_size=5))
def test_records_come_back(record: Record, before: bytes) -> None:
    """Null stays null and empty stays empty, in keys, values and headers, wherever the record begins."""
    packed = before + pack(record)

    assert unpack(packed, len(before)) == (record, len(packed))


@given(_RECORDS, st.data())
def test_a_cut_record_is_refused(record: Record, data: st.DataObject) -> None:
    """However it is cut off: our error, never half a record."""
    packed = pack(record)
    end = data.draw(st.integers(0, len(packed) - 1))

    with pytest.raises(StreamError, match="packed record"):
        unpack(packed[:end], 0)
