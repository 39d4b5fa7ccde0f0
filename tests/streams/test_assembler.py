"""The assembler: its law, its bounds, and that neither batches nor restarts change what it puts out."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.observations import ArrowCodec, decode_rows
from streams.assembler import Assembler
from streams.events import REQUEST_TYPE, Event
from streams.settings import AssemblerSettings, PairingSettings
from streams.stage import Batch, Output, Record
from tests.streams.payloads import REQUEST, RESPONSE, event, record

SETTINGS = AssemblerSettings(
    payloads="p", observations="o", deadletter="d", payload_partitions=2, observation_partitions=3,
    pairing=PairingSettings(expiry_ms=1_000, max_pending=6, completed_memory=50),
)  # fmt: skip


def assembler(**pairing: int) -> Assembler:
    """Build one for partition 0."""
    return Assembler(0, replace(SETTINGS, pairing=replace(SETTINGS.pairing, **pairing)), ArrowCodec())


def run(stage: Assembler, records: Sequence[Record], cuts: Sequence[int] = ()) -> list[Output]:
    """Feed records in batches cut at these places."""
    places = sorted({0, len(records), *cuts})
    batches = [records[a:b] for a, b in itertools.pairwise(places)]
    return [output for part in batches for output in stage.process(Batch(0, tuple(part))).outputs]


def reasons(outputs: Sequence[Output]) -> list[str]:
    """Give the reasons of the dead letters, in order."""
    return [str(dict(output.headers)["sl_reason"], "utf-8") for output in outputs if output.topic == "d"]  # type: ignore[arg-type]


def rows(outputs: Sequence[Output]) -> list[tuple[str, int, int]]:
    """Give (id, row, offset) of every observation row, in order."""
    tables = [decode_rows(output.value) for output in outputs if output.topic == "o" and output.value]
    return [item for t in tables for item in zip(*(t[n].to_pylist() for n in ("_id", "_row", "_offset")), strict=True)]


def accounted(stage: Assembler) -> bool:
    """Tell whether in = paired + expired + evicted + dead-lettered + duplicates + waiting."""
    count = stage.counters()
    return count["in"] == sum(
        count[name] for name in ("paired", "expired", "evicted", "deadlettered", "duplicates", "waiting")
    )


def test_a_pair_becomes_rows() -> None:
    """Request and response meet, whichever comes first; each instance is a row with the place that completed it."""
    stage = assembler()
    outputs = run(stage, [record(event("a", "response", 5), 0), record(event("a", "request", 1), 1)])

    (table,) = [decode_rows(output.value) for output in outputs if output.value]
    assert rows(outputs) == [("a", 0, 1), ("a", 1, 1)]
    assert table["in.instances"].to_pylist() == [[1.0, 2.0], [3.0, 4.0]]
    assert table["out.predictions"].to_pylist() == [0.1, 0.9]
    assert stage.counters()["paired"] == 2


def test_an_agents_pair_shares_its_id() -> None:
    """KServe's agent gives both events one id and says nothing of a correlation; they pair all the same."""
    kinds = ("request", "response")
    bare = [
        replace(event("x", kind), id="one", extensions={"namespace": "n", "inferenceservicename": "s"})
        for kind in kinds
    ]
    outputs = run(assembler(), [record(message, offset) for offset, message in enumerate(bare)])

    assert [identity for identity, _, _ in rows(outputs)] == ["one", "one"]


@pytest.mark.parametrize(
    ("request_body", "response_body", "extensions"),
    [
        (b"{broken", RESPONSE, {}),
        (b'{"instances":[[1],[2,3]]}', RESPONSE, {}),
        (b'{"instances":[[1]]}', RESPONSE, {}),
        (b'{"instances":[]}', RESPONSE, {}),
        (b'{"inputs":[{"name":"a","shape":[1],"datatype":"FP99","data":[1]}]}', RESPONSE, {"protocol": "v2"}),
        (b'{"inputs":[{"name":"a","shape":[2,3],"datatype":"FP32","data":[1]}]}', RESPONSE, {"protocol": "v2"}),
        (
            b'{"inputs":[{"name":"a","shape":[2],"datatype":"FP32","parameters":{"binary_data_size":8}}]}abc',
            RESPONSE,
            {"protocol": "v2", "inferenceheaderlength": "91"},
        ),
        (b"\x1f\x8bnot gzip", RESPONSE, {}),
    ],
)
def test_what_cannot_be_decoded_is_kept(request_body: bytes, response_body: bytes, extensions: dict[str, str]) -> None:
    """Both events of an undecodable exchange go to the dead letters, byte for byte, with the reason."""
    stage = assembler()
    pair = [
        record(event("a", "request", 0, request_body, extensions), 0),
        record(event("a", "response", 1, response_body, extensions), 1),
    ]
    letters = [output for output in run(stage, pair) if output.topic == "d"]

    assert [letter.value for letter in letters] == [request_body, response_body]
    assert reasons(letters) == ["undecodable"] * 2
    assert accounted(stage)


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (((), b"plain text"), "not-a-cloudevent"),
        (((("ce_id", b"1"),), b""), "specversion"),
        (replace(event("a", "request"), type="other.type"), "unexpected-type"),
    ],
)
def test_what_is_no_payload_event_is_kept(message: Event, reason: str) -> None:
    """Foreign records on the topic are dead letters; the next pair goes through."""
    stage = assembler()
    pair = [record(event("b", "request"), 1), record(event("b", "response"), 2)]
    outputs = run(stage, [record(message, 0), *pair])

    assert reasons(outputs) == [reason]
    assert len(rows(outputs)) == 2
    assert accounted(stage)


@pytest.mark.parametrize(
    ("extensions", "counter"),
    [({"synthetic": "true"}, "synthetic"), ({"truncated": "true"}, "truncated"), ({"aborted": "true"}, "aborted"),
     ({"statuscode": "500"}, "failed")],
)  # fmt: skip
def test_what_detectors_must_not_see_is_counted(extensions: dict[str, str], counter: str) -> None:
    """Explainer callbacks, cut bodies, aborted calls and failures pair, and make no rows."""
    stage = assembler()
    outputs = run(
        stage, [record(event("a", kind, 0, b"", extensions), at) for at, kind in enumerate(("request", "response"))]
    )

    assert rows(outputs) == []
    assert stage.counters()[counter] == 1
    assert stage.counters()["paired"] == 2


def test_a_re_sent_event_is_a_duplicate() -> None:
    """An event that comes again, before or after its pair was complete, makes no second row and no dead letter."""
    stage = assembler()
    request, response = event("a", "request"), event("a", "response")
    outputs = run(
        stage, [record(message, at) for at, message in enumerate((request, request, response, response, request))]
    )

    assert len(rows(outputs)) == 2
    assert stage.counters()["duplicates"] == 3
    assert reasons(outputs) == []


def test_expiry_follows_event_time() -> None:
    """An event without partner is given up when later events are far enough ahead, or when the partition is silent."""
    stage = assembler()
    outputs = run(stage, [record(event("a", "request", 0), 0), record(event("b", "request", 2_000), 1)])

    assert reasons(outputs) == ["unpaired"]
    idle = stage.process(Batch(0, (), idle_ms=1_760_000_000_000 + 10_000)).outputs
    assert reasons(idle) == ["unpaired"]
    assert stage.counters()["expired"] == 2


def test_a_clock_that_runs_ahead_does_not_stop_the_watermark() -> None:
    """An event from the far future moves the watermark by an hour past the broker's time at most."""
    stage = assembler()
    run(stage, [record(event("a", "request", 10**12), 0)])
    outputs = run(stage, [record(event("b", "request"), 1), record(event("b", "response"), 2)])

    (table,) = [decode_rows(output.value) for output in outputs if output.value]
    assert max(table["_order"].to_pylist()) <= 1_760_000_000_000 + 3_600_002


def test_memory_is_bounded() -> None:
    """A flood of requests without responses evicts the oldest, by count and by bytes, and accounts for each."""
    for limits, most in (({"max_pending": 6}, 6), ({"max_pending": 1_000, "max_pending_bytes": 3_000}, 12)):
        stage = assembler(**limits)
        outputs = run(stage, [record(event(f"c{at}", "request"), at) for at in range(50)])

        assert 0 < stage.counters()["waiting"] <= most
        assert reasons(outputs) == ["evicted"] * (50 - stage.counters()["waiting"])
        assert accounted(stage)


def test_watermarks_reach_every_observations_partition() -> None:
    """Partitions without rows learn how far this one is, so that they need not wait for it."""
    outputs = run(assembler(), [record(event("a", "request", 600), 0)])
    told = [output for output in outputs if output.topic == "o" and output.value is None]

    assert sorted(output.partition or 0 for output in told) == [0, 1, 2]
    assert {dict(output.headers)["ce_watermark"] for output in told} == {b"1760000000600"}


@st.composite
def logs(draw: st.DrawFn) -> list[Record]:
    """Draw a partition's log: halves of exchanges in any order, repeated, late or missing, and garbage between."""
    names = st.sampled_from([f"c{number}" for number in range(12)])
    items = st.one_of(
        st.tuples(names, st.sampled_from(["request", "response"]), st.integers(0, 3_000)),
        st.sampled_from([b"garbage", b"{"]),
    )
    drawn = draw(st.lists(items, max_size=40))
    return [
        record(((), item) if isinstance(item, bytes) else event(item[0], item[1], item[2]), at)
        for at, item in enumerate(drawn)
    ]


@given(logs(), st.lists(st.integers(0, 40), max_size=6), st.lists(st.integers(0, 40), max_size=6))
def test_cuts_and_restarts_change_nothing(log: list[Record], some: list[int], others: list[int]) -> None:
    """Any cut into batches, and a restart between any two of them, gives the same rows, dead letters and counters."""
    whole, parts = assembler(), assembler()
    expected = run(whole, log, [cut for cut in some if cut < len(log)])
    found: list[Output] = []
    places = sorted({0, len(log), *(cut for cut in others if cut < len(log))})
    for start, end in itertools.pairwise(places):
        restarted = assembler()
        restarted.restore(parts.snapshot())
        parts = restarted
        found += parts.process(Batch(0, tuple(log[start:end]))).outputs

    assert rows(found) == rows(expected)
    assert [o for o in found if o.topic == "d"] == [o for o in expected if o.topic == "d"]
    assert parts.counters() == whole.counters()


@given(logs())
def test_every_event_is_accounted_for(log: list[Record]) -> None:
    """The conservation law holds after every single record, whatever comes."""
    stage = assembler()
    letters = 0
    for item in log:
        letters += len(reasons(stage.process(Batch(0, (item,))).outputs))

        assert accounted(stage)
    count = stage.counters()
    assert letters == count["expired"] + count["evicted"] + count["deadlettered"]


@given(logs())
def test_rows_come_in_their_partitions_order(log: list[Record]) -> None:
    """Order and offset never go back within a partition: what the merge downstream relies on."""
    tables = [decode_rows(output.value) for output in run(assembler(), log) if output.topic == "o" and output.value]
    places = [place for t in tables for place in zip(t["_order"].to_pylist(), t["_offset"].to_pylist(), strict=True)]

    assert places == sorted(places)


def test_bodies_in_the_tests_are_what_they_seem() -> None:
    """The shared bodies fit each other, or half of these tests would test nothing."""
    assert event("a", "request").type == REQUEST_TYPE
    assert REQUEST.count(b"[") == 3


def test_components_are_observed_apart() -> None:
    """One call that a transformer and the predictor log counts once under each: their rows never share a key."""

    def of(component: str, kind: str) -> Event:
        message = event("a", kind, 5)
        return replace(message, id=f"{component}-{kind}", extensions={**message.extensions, "component": component})

    kinds = [(component, kind) for kind in ("request", "response") for component in ("transformer", "predictor")]
    stage = assembler()
    outputs = run(stage, [record(of(*each), offset) for offset, each in enumerate(kinds)])
    keys = [output.key for output in outputs if output.value]
    service = event("a", "request").service()

    assert sorted(keys, key=str) == [service.encode(), f"{service}/transformer".encode()]
    assert stage.counters()["exchanges"] == 2
    assert of("", "request").observed_as() == service
