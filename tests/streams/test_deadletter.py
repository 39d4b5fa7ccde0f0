"""Dead letters: the original untouched, and the reason beside it."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from streams.deadletter import dead_letter
from streams.stage import Headers, Output, Record

MARKS = ("sl_id", "sl_reason", "sl_detail", "sl_stage", "sl_topic", "sl_partition", "sl_offset")
RECORD = Record("inference.payloads", 3, 42, b"key", b"\xff\x00", (("ce_id", b"1"), ("ce_id", None), ("", b"")), 7)

_BYTES = st.none() | st.binary(max_size=20)
_RECORDS = st.builds(
    Record,
    topic=st.sampled_from(["a", "b"]),
    partition=st.integers(0, 9),
    offset=st.integers(0, 2**63 - 1),
    key=_BYTES,
    value=_BYTES,
    headers=st.lists(st.tuples(st.text(max_size=8), _BYTES), max_size=4).map(tuple),
)


def letter(
    record: Record, reason: str = "encoding", detail: str = "what and where", stage: str = "assembler"
) -> Output:
    """Bury a record."""
    return dead_letter(record, reason, detail, stage, "inference.deadletter")


def original(found: Output) -> Headers:
    """Give the headers without ours."""
    return tuple((name, value) for name, value in found.headers if name not in MARKS)


def test_a_letter_says_what_where_and_why() -> None:
    """Everything that is needed to look the record up, and to send it again once its cause is mended."""
    found = letter(RECORD)

    assert found.topic == "inference.deadletter"
    assert found.partition is None
    assert dict(found.headers[3:]) == {
        "sl_id": dict(letter(RECORD).headers)["sl_id"], "sl_reason": b"encoding", "sl_detail": b"what and where",
        "sl_stage": b"assembler", "sl_topic": b"inference.payloads", "sl_partition": b"3", "sl_offset": b"42",
    }  # fmt: skip


@given(_RECORDS, st.text(st.characters(exclude_categories=[]), max_size=30))
def test_the_original_is_untouched(record: Record, detail: str) -> None:
    """Key, value and headers, repeated and empty and null ones too, whatever the reason quotes: no letter is lost."""
    found = letter(record, detail=detail)

    assert (found.key, found.value) == (record.key, record.value)
    assert original(found) == record.headers
    assert [name for name, _ in found.headers[len(record.headers) :]] == list(MARKS)
    assert all(value is not None and value.decode() for name, value in found.headers if name == "sl_id")


@given(_RECORDS, _RECORDS)
def test_a_letter_that_is_sent_twice_is_recognised(one: Record, other: Record) -> None:
    """Its id is of the record's place alone: the same after a crash, whatever is said the second time."""
    same_place = (one.topic, one.partition, one.offset) == (other.topic, other.partition, other.offset)
    again = letter(replace(one, key=b"x", value=b"y", headers=()), "other", "other", "other")

    assert dict(letter(one).headers)["sl_id"] == dict(again.headers)["sl_id"]
    assert (dict(letter(one).headers)["sl_id"] == dict(letter(other).headers)["sl_id"]) == same_place


def test_a_letter_of_a_letter_has_one_set_of_marks() -> None:
    """When letters are sent back and fail again, each mark is there once and says the newest; the original stays."""
    first = letter(RECORD)
    second = letter(Record("again", 0, 1, first.key, first.value, first.headers), "again")
    names = [name for name, _ in second.headers]

    assert [names.count(mark) for mark in MARKS] == [1] * len(MARKS)
    assert dict(second.headers)["sl_topic"] == b"again"
    assert original(second) == RECORD.headers


def test_a_long_detail_is_cut() -> None:
    """A reason is for a person; a record's headers have to stay small."""
    assert dict(letter(RECORD, detail="x" * 10_000).headers)["sl_detail"] == b"x" * 2_000
