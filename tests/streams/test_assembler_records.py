"""What the assembler writes: record sizes, services apart, watermarks behind rows, and its state."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.observations import ArrowCodec, decode_rows
from streams.assembler import COUNTED, Assembler
from streams.bindings import from_kafka
from streams.errors import StreamError
from streams.events import OBSERVATIONS_TYPE
from streams.settings import AssemblerSettings
from streams.stage import Batch, Output, Record
from tests.streams.payloads import event, record

SETTINGS = AssemblerSettings(
    payloads="p", observations="o", deadletter="d", payload_partitions=4, observation_partitions=2
)


def assembler(**changed: int) -> Assembler:
    """Build one for partition 3."""
    return Assembler(3, replace(SETTINGS, **changed), ArrowCodec())  # type: ignore[arg-type] # all of them are numbers


def pairs(*calls: tuple[str, bytes, bytes], service: str = "s", first: int = 0) -> list[Record]:
    """Lay calls into partition 3."""
    events = [
        event(name, kind, 0, body, {"inferenceservicename": service})
        for name, request, response in calls
        for kind, body in (("request", request), ("response", response))
    ]
    return [record(message, first + at, 3) for at, message in enumerate(events)]


def table(rows: int, width: int = 1) -> tuple[bytes, bytes]:
    """Give request and response of so many rows."""
    return (
        json.dumps({"instances": [[0.5] * width] * rows}).encode(),
        json.dumps({"predictions": [1] * rows}).encode(),
    )


def observed(outputs: Sequence[Output]) -> list[Output]:
    """Give the records with rows."""
    return [output for output in outputs if output.topic == "o" and output.value is not None]


def take(stage: Assembler, records: Sequence[Record]) -> tuple[Output, ...]:
    """Feed records as one batch."""
    return stage.process(Batch(3, tuple(records))).outputs


def test_a_record_is_a_cloudevent_that_says_where_it_comes_from() -> None:
    """Type, content type, key, payload partition, number of partitions and watermark, as documented."""
    (output,) = observed(take(assembler(), pairs(("a", *table(2)))))
    found = from_kafka(output.headers, output.value)

    assert output.key == b"n/s"
    assert output.partition is None
    assert (found.type, found.datacontenttype) == (OBSERVATIONS_TYPE, "application/vnd.apache.arrow.stream")
    assert [found.text(name) for name in ("partition", "partitions", "watermark")] == ["3", "4", "0"]
    assert decode_rows(output.value or b"")["_partition"].to_pylist() == [3, 3]


def test_services_and_schemas_have_records_of_their_own() -> None:
    """Rows of one schema and one service share a record; offsets inside a service never go back."""
    narrow, wide = table(1, 1), table(1, 2)
    calls = [("a", *narrow), ("b", *narrow), ("c", *wide), ("d", *narrow)]
    outputs = observed(take(assembler(), pairs(*calls) + pairs(("e", *narrow), service="t", first=8)))
    offsets = {
        key: [decode_rows(output.value or b"")["_offset"].to_pylist() for output in outputs if output.key == key]
        for key in (b"n/s", b"n/t")
    }

    assert offsets == {b"n/s": [[1, 3], [5], [7]], b"n/t": [[9]]}


def test_watermarks_follow_the_rows_that_they_cover() -> None:
    """In every partition the rows come before the watermark; else a merge would go on without them."""
    outputs = take(assembler(), pairs(("a", *table(1))))
    places = [output.value is None for output in outputs if output.topic == "o"]

    assert places == [False, True, True]


def test_records_stay_below_the_limit() -> None:
    """Many calls in one batch are spread over records, and none is much larger than the limit."""
    calls = [(f"c{number}", *table(50, 20)) for number in range(40)]
    outputs = observed(take(assembler(max_record_bytes=100_000), pairs(*calls)))

    assert sum(decode_rows(output.value or b"").num_rows for output in outputs) == 2_000
    assert len(outputs) > 3
    assert max(len(output.value or b"") for output in outputs) < 110_000


def test_a_small_body_with_many_rows_is_still_too_large() -> None:
    """What counts is what the rows take in a record, ids of each row included, not the size of the bodies."""
    stage = assembler(max_record_bytes=100_000)
    bodies = table(2_000)
    assert sum(map(len, bodies)) < 25_000
    outputs = take(stage, pairs(("a", *bodies), ("b", *table(1))))
    letters = [output for output in outputs if output.topic == "d"]
    count = stage.counters()

    assert [dict(letter.headers)["sl_reason"] for letter in letters] == [b"too-large"] * 2
    assert [letter.value for letter in letters] == list(bodies)
    assert len(observed(outputs)) == 1
    assert (count["oversized"], count["deadlettered"], count["paired"]) == (1, 2, 2)


@given(
    st.lists(
        st.tuples(
            st.sampled_from([table(1), table(2), (b"{", b"{}"), table(60)]),
            st.sampled_from(
                [
                    {},
                    {"synthetic": "true"},
                    {"truncated": "true"},
                    {"aborted": "true"},
                    {"statuscode": 503},
                    {"protocol": "unknown"},
                ]
            ),
        ),
        max_size=8,
    )
)
def test_every_exchange_has_one_outcome(calls: list[tuple[tuple[bytes, bytes], dict[str, str | int]]]) -> None:
    """The outcomes of `COUNTED` add up to the exchanges, and no row is counted that is not written."""
    stage = assembler(max_record_bytes=6_000)
    events = [
        event(f"c{number}", kind, 0, bodies[kind == "response"], extensions)
        for number, (bodies, extensions) in enumerate(calls)
        for kind in ("request", "response")
    ]
    outputs = take(stage, [record(message, at, 3) for at, message in enumerate(events)])
    count = stage.counters()

    assert count["exchanges"] == len(calls)
    assert count["exchanges"] == sum(
        count[name]
        for name in ("observed", "failed", "synthetic", "truncated", "aborted", "rowless", "undecodable", "oversized")
    )
    assert count["rows"] == sum(decode_rows(output.value or b"").num_rows for output in observed(outputs))
    assert count["deadlettered"] == 2 * (count["undecodable"] + count["oversized"])


def test_silence_moves_the_watermark() -> None:
    """A partition without traffic tells the wall clock that it was given, to every observations partition, once."""
    stage = assembler()
    told = stage.process(Batch(3, (), idle_ms=5_000)).outputs
    again = stage.process(Batch(3, (), idle_ms=4_000)).outputs

    assert [(output.partition, output.key, output.value) for output in told] == [(0, None, None), (1, None, None)]
    assert {dict(output.headers)["ce_watermark"] for output in told} == {b"5000"}
    assert again == ()


def test_a_state_of_another_kind_is_refused() -> None:
    """An assembler does not go on from what it cannot read."""
    for state in (b"", b"{}", b"SLA9" + bytes(20)):
        with pytest.raises(StreamError, match="expected format SLA1"):
            assembler().restore(state)


def test_counters_are_complete_from_the_start() -> None:
    """Every counter is there before it counts, so that a dashboard shows zero instead of nothing."""
    assert set(assembler().counters()) == {*COUNTED, "waiting"}
    assert set(assembler().counters().values()) == {0}
