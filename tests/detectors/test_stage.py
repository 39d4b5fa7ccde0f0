"""The detectors' stage over what the assembler writes: the same alerts however the log is cut, crashed or sent."""

from __future__ import annotations

import functools
import itertools
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.registry import build
from detectors.settings import MonitorSettings, monitor_from_mapping
from detectors.stage import DetectorStage, Watch
from inference.observations import ArrowCodec, decode_rows
from streams.assembler import Assembler
from streams.settings import AssemblerSettings
from streams.stage import Batch, Headers, Output, Record
from tests.detectors.made import stream
from tests.streams.payloads import event, record

CALLS, ROWS, WINDOW = 84, 10, 60
QUIET = slice(28, 56)
"""Calls before and after these are as the reference; these are not."""
Lane = list[Output]


def monitor(**changed: Any) -> MonitorSettings:  # noqa: ANN401 - parts of a document
    """Give a monitor with every kind of detector over service n/s."""
    spec = {
        "inferenceService": "s", "reference": {"path": "r.parquet"},
        "features": [{"name": "x"}, {"name": "c", "type": "categorical"}],
        "outputs": [{"name": "score", "source": "predictions"}],
        "budget": {"falseAlarms": 1, "per": "10000 observations"},
        "alerts": {"resolveAfter": 2},
        "detectors": [
            {"type": "ks", "params": {"window": WINDOW}}, {"type": "chi-square", "params": {"window": WINDOW}},
            {"type": "mahalanobis", "params": {"window": WINDOW, "quantile": 0.99}},
            {"type": "prediction-drift", "params": {"window": WINDOW}},
            {"type": "statistical-parity", "params": {
                "attribute": "c", "privileged": ["a"], "favourable": {"output": "score", "atLeast": 0.5},
                "window": WINDOW, "least": 5,
            }},
        ],
    }  # fmt: skip
    document = {
        "apiVersion": "sidelight.dev/v1alpha1", "kind": "InferenceMonitor",
        "metadata": {"name": changed.pop("name", "m"), "namespace": "n"}, "spec": spec | changed,
    }  # fmt: skip
    return monitor_from_mapping(document, Path("/"))


def values(generator: np.random.Generator, count: int, *, odd: bool = False) -> dict[str, np.ndarray[Any, Any]]:
    """Draw a table; odd ones are shifted, mostly of the other group, and that group is scored lower."""
    group = np.where(generator.random(count) < (0.2 if odd else 0.5), "a", "b")
    score = generator.random(count) * (np.where(group == "b", 0.3, 1.0) if odd else 1.0)
    return {"x": generator.normal(3.0 if odd else 0.0, 1.0, count), "c": group, "score": score}


def watch(settings_: MonitorSettings, fingerprint: str = "1") -> Watch:
    """Give a monitor ready to run."""
    reference = values(np.random.default_rng(1), 600)
    return Watch(monitor=settings_, build=lambda: build(settings_, reference), fingerprint=fingerprint)


def stage(*watches: Watch) -> DetectorStage:
    """Give a fresh stage."""
    return DetectorStage(watches or (watch(monitor()),), lambda family: f"alerts.{family}", "d")


def call(number: int, *, odd: bool = False, count: int = ROWS) -> tuple[bytes, bytes]:
    """Give request and response of one call, rows as lists of mixed kinds."""
    drawn = values(np.random.default_rng(number + 100), count, odd=odd)
    instances = [[x, c] for x, c in zip(drawn["x"].tolist(), drawn["c"].tolist(), strict=True)]
    return orjson.dumps({"instances": instances}), orjson.dumps({"predictions": drawn["score"].tolist()})


def assembled(
    calls: Sequence[tuple[int, bytes, bytes, dict[str, Any]]], partition: int = 0, partitions: int = 1
) -> Lane:
    """Give what the assembler of a payload partition writes for calls (number, request, response, extensions)."""
    layout = AssemblerSettings(
        payloads="p", observations="o", deadletter="d", payload_partitions=partitions, observation_partitions=1,
        watermark_every_ms=250, max_record_bytes=64 << 20,
    )  # fmt: skip
    assembler = Assembler(partition, layout, ArrowCodec())
    outputs: Lane = []
    for at, (number, request, response, extensions) in enumerate(calls):
        pair = [
            record(event(f"call-{number}", kind, number * 100, body, extensions), 2 * at + index, partition)
            for index, (kind, body) in enumerate((("request", request), ("response", response)))
        ]
        outputs += assembler.process(Batch(partition, tuple(pair))).outputs
    outputs += assembler.process(Batch(partition, (), idle_ms=2_000_000_000_000)).outputs
    return [output for output in outputs if output.topic == "o"]


@functools.cache
def lanes() -> tuple[Lane, ...]:
    """Give what the assemblers of three payload partitions write about the calls."""
    found = []
    for partition in range(3):
        numbers = [number for number in range(CALLS) if number * number % 3 == partition or number % 5 == partition + 2]
        odd = range(QUIET.start, QUIET.stop)
        found.append(assembled([(n, *call(n, odd=n in odd), {}) for n in numbers], partition, 3))
    return tuple(found)


def laid(outputs: Sequence[Output]) -> list[Record]:
    """Lay outputs into one partition of the observations topic."""
    return [
        Record("o", 0, offset, output.key, output.value, output.headers, 0) for offset, output in enumerate(outputs)
    ]


def taken(under: DetectorStage, outputs: Sequence[Output]) -> list[Output]:
    """Show a stage a log as one batch; give what it puts out."""
    return list(under.process(Batch(0, tuple(laid(outputs)))).outputs)


def by_subject(outputs: Sequence[Output]) -> dict[str, list[tuple[str, bytes | None, Headers]]]:
    """Give each alert's events in the order of their first sending; a repetition must not differ."""
    found: dict[str, dict[bytes, tuple[str, bytes | None, Headers]]] = {}
    for output in outputs:
        headers = dict(output.headers)
        events = found.setdefault((headers["ce_subject"] or b"").decode(), {})
        content = (output.topic, output.value, output.headers)
        assert events.setdefault(headers["ce_id"] or b"", content) == content
    return {subject: list(events.values()) for subject, events in found.items()}


@functools.cache
def expected() -> tuple[dict[str, list[tuple[str, bytes | None, Headers]]], dict[str, int]]:
    """Give the alerts and counters of the whole log in one batch, one partition after the other."""
    under = stage()
    outputs = taken(under, [output for lane in lanes() for output in lane])
    return by_subject(outputs), dict(under.counters())


def test_every_kind_of_alert_opens_and_resolves() -> None:
    """The log that the properties below are about has alerts of every detector, with all three states."""
    alerts, counters = expected()
    bodies = [orjson.loads(value or b"") for events in alerts.values() for _, value, _ in events]

    assert {body["detector"]["name"] for body in bodies} == {
        "ks", "chi-square", "mahalanobis", "prediction-drift", "statistical-parity",
    }  # fmt: skip
    assert {topic for events in alerts.values() for topic, _, _ in events} == {
        "alerts.drift", "alerts.outlier", "alerts.bias",
    }  # fmt: skip
    assert Counter(body["state"] for body in bodies) == {
        name: counters[name] for name in ("opened", "updated", "resolved")
    }
    assert min(counters[name] for name in ("opened", "updated", "resolved")) > 0
    assert (counters["open"], counters["waiting"], counters["deadlettered"], counters["unfit"]) == (0, 0, 0, 0)
    assert counters["rows"] == counters["released"] > CALLS * ROWS


def test_the_sides_of_a_rollout_are_told_apart() -> None:
    """A monitor of one version sees that version's rows only, as if the others' did not exist."""
    odd = range(QUIET.start, QUIET.stop)
    sides = [
        (
            number,
            *call(number, odd=number in odd and number % 2 == 0),
            {"modelversion": "2" if number % 2 == 0 else "1"},
        )
        for number in range(CALLS)
    ]
    log = assembled(sides)
    alone = assembled([side for side in sides if side[3]["modelversion"] == "2"])
    canary, stable = (watch(monitor(name=name, modelVersion=version)) for name, version in (("c", "2"), ("s", "1")))
    both, second = stage(canary, stable), stage(canary)
    mixed, single = (
        [orjson.loads(output.value or b"") for output in taken(*each)] for each in ((both, log), (second, alone))
    )

    assert {body["monitor"] for body in mixed if body["detector"]["name"] == "ks"} == {"c"}
    assert [_told(body) for body in mixed if body["monitor"] == "c"] == [_told(body) for body in single]
    assert single
    assert both.counters()["unfit"] == both.counters()["deadlettered"] == 0


def _told(body: dict[str, Any]) -> tuple[str, str, int]:
    return body["detector"]["name"], body["state"], body["sequence"]


def test_a_version_of_other_columns_is_no_fault_of_the_monitor() -> None:
    """A canary with other inputs is not a monitor's concern that watches the stable version; without one it is."""
    other = (1, b'{"instances":[[1.0,2.0,3.0]]}', b'{"predictions":[0.5]}', {"modelversion": "2"})
    log = assembled([(0, *call(0), {"modelversion": "1"}), other])
    of_one, of_all = stage(watch(monitor(modelVersion="1"))), stage()
    taken(of_one, log)
    taken(of_all, log)

    assert (of_one.counters()["deadlettered"], of_one.counters()["unfit"]) == (0, 0)
    assert (of_all.counters()["deadlettered"], of_all.counters()["unfit"]) == (1, 1)


@st.composite
def logs(draw: st.DrawFn) -> list[Output]:
    """Draw a log: the partitions take turns anyhow, each in its order, and some of each is sent twice."""
    sent = []
    for lane in lanes():
        end = draw(st.integers(0, len(lane)))
        start = draw(st.integers(0, end))
        sent.append(lane[:end] + lane[start:end] + lane[end:])
    turns = [number for number, lane in enumerate(sent) for _ in lane]
    places = [iter(lane) for lane in sent]
    return [next(places[number]) for number in draw(st.permutations(turns))]


@given(
    log=logs(),
    plan=st.lists(st.tuples(st.integers(1, 40), st.sampled_from(["go on", "save", "move", "crash"])), max_size=40),
)
@settings(max_examples=40)
def test_no_batching_crash_or_interleaving_changes_an_alert(log: list[Output], plan: list[tuple[int, str]]) -> None:
    """Same ids, same contents, each alert's events in the same order; the counters, too, but for what came twice."""
    alerts, counters = expected()
    records, under = laid(log), stage()
    saved, at = (0, under.snapshot()), 0
    outputs: list[Output] = []
    for size, fate in itertools.chain(plan, itertools.repeat((len(log), "go on"))):
        if at >= len(records):
            break
        outputs += under.process(Batch(0, tuple(records[at : at + size]))).outputs
        at += size
        if fate in {"save", "move"}:
            saved = (at, under.snapshot())
        if fate in {"move", "crash"}:
            under = stage()
            under.restore(saved[1])
            at = saved[0]
    found = dict(under.counters())
    twice = ("records", "watermarks", "duplicates")

    assert by_subject(outputs) == alerts
    assert {name: n for name, n in found.items() if name not in twice} == {
        name: n for name, n in counters.items() if name not in twice
    }
    assert found["records"] == len(log)


def test_what_a_silent_partition_forces_out_does_not_depend_on_batches() -> None:
    """Too many rows wait for a partition that says nothing: what goes, and in which windows, follows from the log."""
    large = monitor(
        features=[{"name": "x"}], detectors=[{"type": "ks", "params": {"window": 7_000}}],
        budget={"falseAlarms": 1, "per": "10000 observations"},
    )  # fmt: skip
    calls: list[tuple[int, bytes, bytes, dict[str, Any]]] = [(n, *_wide(n), {}) for n in range(15)]
    log = assembled(calls, 0, 2)
    whole, single = stage(watch(large)), stage(watch(large))
    at_once = taken(whole, log)
    one_by_one = [output for item in laid(log) for output in single.process(Batch(0, (item,))).outputs]

    assert whole.counters()["forced"] > 0
    assert by_subject(at_once) == by_subject(one_by_one) != {}
    assert whole.counters() == single.counters()


def _wide(number: int) -> tuple[bytes, bytes]:
    drawn = np.random.default_rng(number).normal(number % 4 == 3, 1.0, 20_000)
    return orjson.dumps({"instances": drawn.tolist()}), orjson.dumps({"predictions": [0.5] * len(drawn)})


@pytest.mark.parametrize("marked", [True, False])
def test_synthetic_rows_are_never_counted(*, marked: bool) -> None:
    """An explainer's wild questions make no rows and no alerts; the same rows from a client do."""
    extensions = {"synthetic": "true"} if marked else {}
    calls: list[tuple[int, bytes, bytes, dict[str, Any]]] = [
        (number, *call(number, odd=number % 2 == 1), extensions if number % 2 else {}) for number in range(40)
    ]  # fmt: skip
    under = stage()
    outputs = taken(under, assembled(calls))

    assert bool(outputs) is not marked
    assert under.counters()["rows"] == (20 if marked else 40) * ROWS


def good() -> Output:
    """Give a record with the rows of one call."""
    return next(output for output in assembled([(1, *call(1), {})]) if output.value is not None)


def with_header(name: str, value: bytes | None) -> Output:
    """Give a good record with a header changed, or left out."""
    kept = tuple((key, old) for key, old in good().headers if key != name)
    return good()._replace(headers=kept if value is None else (*kept, (name, value)))


def with_column(name: str, values_: pa.Array | None) -> Output:
    """Give a good record with a column changed, or twice."""
    found = decode_rows(good().value or b"")
    at = found.column_names.index(name)
    changed = found.append_column(name, found[name]) if values_ is None else found.set_column(at, name, values_)
    return good()._replace(value=stream(changed))


def nulls(kind: pa.DataType) -> pa.Array:
    """Give a column in which the last row is null."""
    return pa.array([0] * (ROWS - 1) + [None], kind)


@pytest.mark.parametrize(
    ("bad", "detail"),
    [
        (lambda: good()._replace(headers=()), "no ce_ headers"),
        (lambda: with_header("ce_type", b"x"), "type 'x': expected dev.sidelight.observations"),
        (lambda: with_header("ce_watermark", None), "extension 'watermark': expected a whole number, got ''"),
        (lambda: with_header("ce_partition", b"-1"), "extension 'partition': expected a whole number, got '-1'"),
        (lambda: with_header("ce_partitions", b"9" * 30), "extension 'partitions': expected a whole number"),
        (lambda: with_header("ce_partitions", b"0"), "extension 'partition': expected less than 0, got 0"),
        (lambda: good()._replace(key=None), "key: expected the service as namespace/name"),
        (lambda: good()._replace(key=b"\xff"), "expected UTF-8"),
        (lambda: good()._replace(value=b"hello"), "no Arrow IPC stream"),
        (lambda: good()._replace(value=(good().value or b"")[:-400]), "no Arrow IPC stream"),
        (lambda: with_column("_order", pa.array(["x"] * ROWS)), "column '_order': expected int64, got string"),
        (lambda: with_column("_order", nulls(pa.int64())), "column '_order': expected a value in every row, got null"),
        (lambda: with_column("_partition", pa.array([7] * ROWS, pa.int32())), "expected 0 as in the event, got 7"),
        (lambda: with_column("in.instances.0", None), "a column comes twice"),
    ],
)
def test_an_unreadable_record_is_a_dead_letter_that_says_why(bad: Callable[[], Output], detail: str) -> None:
    """Key and value stay, the reason names the field; none of it counts as rows, and what follows is not hurt."""
    broken, under = bad(), stage()
    (letter,) = taken(under, [broken])
    after = taken(under, [output for lane in lanes() for output in lane])

    assert (letter.topic, letter.key, letter.value) == ("d", broken.key, broken.value)
    assert dict(letter.headers)["sl_reason"] == b"unreadable"
    assert detail in (dict(letter.headers)["sl_detail"] or b"").decode()
    assert by_subject(after) == expected()[0]
    assert under.counters()["deadlettered"] == 1
    assert under.counters()["rows"] == expected()[1]["rows"]


@given(st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=6))
@settings(max_examples=200)
def test_no_broken_table_stops_the_stage(changes: list[tuple[int, int]]) -> None:
    """Any bytes of a record overwritten: rows or a dead letter, and the stage lives on to put its state away."""
    output = good()
    value = bytearray(output.value or b"")
    for at, byte in changes:
        value[at % len(value)] = byte
    under = _shared()
    before = under.counters()
    taken(under, [output._replace(value=bytes(value))])
    counters = under.counters()

    assert counters["records"] == before["records"] + 1
    assert json.loads(under.snapshot())["counts"]["records"] == counters["records"]


@functools.cache
def _shared() -> DetectorStage:
    return stage(watch(monitor()))


def test_a_service_without_monitor_is_counted_and_left_alone() -> None:
    """Its rows go through, without alerts or dead letters."""
    under = stage(watch(monitor(inferenceService="another")))
    outputs = taken(under, [output for lane in lanes() for output in lane])
    counters = under.counters()

    assert outputs == []
    assert counters["unmonitored"] == counters["released"] == expected()[1]["released"]


def test_two_monitors_of_a_service_do_not_meet() -> None:
    """Each raises its own alerts, with ids of its own, as it would alone."""
    log = [output for lane in lanes() for output in lane]
    both = by_subject(taken(stage(watch(monitor()), watch(monitor(name="other"))), log))
    alone = by_subject(taken(stage(watch(monitor(name="other"))), log))

    assert both == expected()[0] | alone
    assert not expected()[0].keys() & alone.keys()


def test_columns_that_a_monitor_cannot_find_are_named_once() -> None:
    """The first record goes to the dead letters with monitor and column; all rows count as unfit."""
    wrong = watch(monitor(name="wrong", features=[{"name": n} for n in ("x", "y", "z")], detectors=[{"type": "ks"}]))
    log = [output for lane in lanes() for output in lane]
    under = stage(watch(monitor()), _with(wrong, ("x", "y", "z")))
    half = len(log) // 2
    outputs = taken(under, log[:half])
    restarted = stage(watch(monitor()), _with(wrong, ("x", "y", "z")))
    restarted.restore(under.snapshot())
    outputs += restarted.process(Batch(0, tuple(laid(log)[half:]))).outputs
    letters = [output for output in outputs if output.topic == "d"]
    rows = next(output for output in log if output.value is not None)

    assert len(letters) == 1
    assert letters[0].value == rows.value
    assert dict(letters[0].headers)["sl_reason"] == b"unfit"
    assert dict(letters[0].headers)["sl_detail"] == (
        b"monitor 'wrong': column 'x': rows have 2 values in 'in.instances.0' on, the monitor names 3 columns; "
        b"expected all of them in the model's order, or a 'source' such as instances[0] for each"
    )
    assert restarted.counters()["unfit"] == expected()[1]["released"]
    assert by_subject([output for output in outputs if output.topic != "d"]) == expected()[0]


def _with(found: Watch, names: Sequence[str]) -> Watch:
    reference = {name: np.random.default_rng(0).normal(size=200) for name in (*names, "score")}
    return replace(found, build=lambda: build(found.monitor, reference))


def test_a_restart_says_at_once_what_is_open() -> None:
    """Open alerts are part of the state: the gauge does not fall to 0 until the next rows come."""
    under = stage()
    taken(under, [output for lane in lanes() for output in lane[: len(lane) // 2]])
    restarted = stage()
    restarted.restore(under.snapshot())

    assert under.counters()["open"] > 0
    assert restarted.counters() == under.counters()


def test_changed_settings_start_the_windows_anew() -> None:
    """State from other settings or another reference is not mixed with new; that is counted."""
    under = stage()
    taken(under, [output for lane in lanes() for output in lane[: len(lane) // 2]])
    changed = stage(watch(monitor(), fingerprint="2"))
    changed.restore(under.snapshot())
    benches = json.loads(changed.snapshot())["benches"]

    assert changed.counters()["restarted"] == 1
    assert changed.counters()["open"] == 0
    assert benches["n/s/m"]["fingerprint"] == "2"


@pytest.mark.parametrize(
    ("watches", "reason"),
    [
        ((watch(monitor(), fingerprint="2"),), "monitor changed"),
        ((watch(monitor(name="other")),), "monitor removed"),
    ],
)
def test_no_alert_outlives_its_monitor(watches: tuple[Watch, ...], reason: str) -> None:
    """What is open of a monitor that was changed or removed is resolved with the next batch, even an empty one, once.

    A worker that dies before its checkpoint says the same again, with the same ids.
    """
    under = stage()
    before = taken(under, [output for lane in lanes() for output in lane[: len(lane) // 2]])
    state = under.snapshot()
    first, again = stage(*watches), stage(*watches)
    first.restore(state)
    again.restore(first.snapshot())
    ends = list(first.process(Batch(0, ())).outputs)
    subjects = Counter(
        (dict(output.headers)["ce_subject"], output.topic) for output in before if b"resolved" not in _type(output)
    ) - Counter((dict(output.headers)["ce_subject"], output.topic) for output in before if b"resolved" in _type(output))
    bodies = [json.loads(output.value or b"") for output in ends]

    assert len(ends) == under.counters()["open"] > 0
    assert {(dict(output.headers)["ce_subject"], output.topic) for output in ends} <= set(subjects)
    assert {(body["state"], body["message"]) for body in bodies} == {("resolved", reason)}
    assert all(_type(output).endswith(b"resolved") and output.key == b"n/s" for output in ends)
    assert list(again.process(Batch(0, ())).outputs) == ends
    assert first.process(Batch(0, ())).outputs == ()
    counts = first.counters()
    assert counts["opened"] == counts["resolved"]
    third = stage(*watches)
    third.restore(first.snapshot())
    assert third.process(Batch(0, ())).outputs == ()


def _type(output: Output) -> bytes:
    return dict(output.headers)["ce_type"] or b""


def test_a_monitor_that_stays_keeps_its_alerts() -> None:
    """Another one beside it comes and goes: nothing is resolved for that."""
    under = stage(watch(monitor()), watch(monitor(name="other")))
    taken(under, [output for lane in lanes() for output in lane[: len(lane) // 2]])
    alone = stage()
    alone.restore(under.snapshot())
    ends = list(alone.process(Batch(0, ())).outputs)

    assert {json.loads(output.value or b"")["monitor"] for output in ends} == {"other"}
    assert alone.counters()["open"] == len(ends) == under.counters()["open"] / 2
