"""The life cycle of alerts: one open alert per detector and key, few events about it, all the evidence in each."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors import examples
from detectors.alerts import AlertBook, Origin
from detectors.base import Finding
from detectors.registry import LIBRARY
from detectors.settings import AlertSettings
from streams.events import Event

ORIGIN = Origin(service="shop/iris", monitor="m", detector="d", type="ks", family="drift")
HIT, MISS = True, False


def finding(number: int, *, alarm: bool, key: str = "x", **changed: Any) -> Finding:  # noqa: ANN401 - any field
    """Give the outcome of window `number`, a hundred rows long."""
    at = number * 100
    place = {"row": 0, "partition": 0}
    fields: dict[str, Any] = {
        "message": "differs", "statistic": 0.5, "threshold": 0.01, "p_value": 0.001, "alpha": 0.01, "rows": 100,
        "first": {"id": f"c{at}", "offset": at, "time_us": at * 1_000} | place,
        "last": {"id": f"c{at + 99}", "offset": at + 99, "time_us": (at + 99) * 1_000} | place,
        "evidence": {"after": [0.1]},
    }  # fmt: skip
    return Finding(key=key, alarm=alarm, **fields | changed)


def told(outcomes: Sequence[bool], settings: AlertSettings | None = None) -> list[str]:
    """Give what a book says after each window: the event's state, or nothing."""
    book = AlertBook(settings or AlertSettings())
    events = [book.take(ORIGIN, finding(number, alarm=alarm)) for number, alarm in enumerate(outcomes)]
    return ["" if event is None else event.type.rpartition(".")[2] for event in events]


def body(event: Event | None) -> dict[str, Any]:
    """Give an event's data."""
    assert event is not None
    assert event.data is not None
    return json.loads(event.data)  # type: ignore[no-any-return]


def test_an_alert_opens_is_updated_and_resolves() -> None:
    """By default at the first alarming window, and after three quiet ones in a row."""
    outcomes = [MISS, HIT, HIT, MISS, MISS, HIT, MISS, MISS, MISS, MISS, HIT]

    assert told(outcomes) == ["", "opened", "updated", "", "", "", "", "", "resolved", "", "opened"]


def test_two_of_three_windows_open_an_alert() -> None:
    """One alarm that stays alone opens nothing; a second one among three does, neighbours or not."""
    settings = AlertSettings(open_n=2, open_of=3, resolve_after=1)
    outcomes = [HIT, MISS, MISS, HIT, MISS, HIT, MISS, HIT, MISS]

    assert told(outcomes, settings) == ["", "", "", "", "", "opened", "resolved", "", ""]


def test_what_stays_broken_sends_few_updates() -> None:
    """A thousand alarming windows: updates at the second, fourth, eighth … and the count in each."""
    book = AlertBook(AlertSettings())
    events = [book.take(ORIGIN, finding(number, alarm=True)) for number in range(1_000)]
    bodies = [body(event) for event in events if event is not None]

    assert [item["alarming_windows"] for item in bodies] == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]
    assert [item["sequence"] for item in bodies] == list(range(1, 11))
    assert [item["state"] for item in bodies] == ["opened"] + ["updated"] * 9


def test_keys_and_detectors_have_alerts_of_their_own() -> None:
    """Two features, or two detectors over one feature, open and resolve apart."""
    book = AlertBook(AlertSettings())
    other = Origin(service="shop/iris", monitor="m", detector="e", type="ks", family="drift")
    events = [
        book.take(ORIGIN, finding(0, alarm=True)),
        book.take(ORIGIN, finding(0, alarm=True, key="y")),
        book.take(other, finding(0, alarm=True)),
    ]

    assert len({event.subject for event in events if event is not None}) == 3
    assert book.open_alerts() == 3


def test_ids_follow_from_the_log_alone() -> None:
    """A second book gives the same bytes; an alert that comes back is another one, though a client repeats its ids."""
    runs = []
    for _ in range(2):
        book = AlertBook(AlertSettings(resolve_after=1))
        outcomes = [finding(n, alarm=n % 2 == 0, first=_repeated(n), last=_repeated(n)) for n in range(6)]
        runs.append([book.take(ORIGIN, item) for item in outcomes])
    opened = [event for event in runs[0] if event is not None and event.type.endswith("opened")]

    assert runs[0] == runs[1]
    assert len({event.id for event in runs[0] if event is not None}) == 6
    assert len({event.subject for event in opened}) == 3


def _repeated(number: int) -> dict[str, Any]:
    return {"id": "always-the-same", "row": 0, "partition": 0, "offset": number * 100, "time_us": number}


def test_an_event_carries_all_the_evidence() -> None:
    """Window, row ids, statistic, threshold, p-value, alpha, sample size and the detector's own evidence."""
    book = AlertBook(AlertSettings())
    book.take(ORIGIN, finding(7, alarm=False))
    event = book.take(ORIGIN, finding(8, alarm=True))
    assert event is not None

    assert body(event) == {
        "alert": event.subject, "state": "opened", "sequence": 1, "alarming_windows": 1, "service": "shop/iris",
        "monitor": "m", "detector": {"name": "d", "type": "ks", "key": "x"}, "family": "drift", "message": "differs",
        "opened": "1970-01-01T00:00:00.899000Z", "statistic": 0.5, "threshold": 0.01, "p_value": 0.001, "alpha": 0.01,
        "window": {
            "rows": 100, "first": {"id": "c800", "offset": 800, "time_us": 800_000, "row": 0, "partition": 0},
            "last": {"id": "c899", "offset": 899, "time_us": 899_000, "row": 0, "partition": 0},
        },
        "evidence": {"after": [0.1]},
    }  # fmt: skip
    assert (event.source, event.time) == ("/sidelight/monitors/shop/m", "1970-01-01T00:00:00.899000Z")
    assert event.extensions == {
        "namespace": "shop", "inferenceservicename": "iris", "monitor": "m", "detector": "d",
    }  # fmt: skip


_EVIDENCE = {
    "ks": {"edges", "before", "after", "mean", "missing"},
    "chi-square": {"categories", "before", "after"},
    "prediction-drift": {"edges", "before", "after", "mean", "missing"},
    "mahalanobis": {"outliers", "rate"},
    "statistical-parity": {
        "attribute", "interval", "confidence", "disparate_impact", "unprivileged", "privileged", "unknown",
    },
}  # fmt: skip


@pytest.mark.parametrize("name", LIBRARY.names())
def test_every_detectors_evidence_is_json(name: str) -> None:
    """What a real alarm carries can be written and read: histograms, groups and intervals, or the outlying rows."""
    detector = LIBRARY.find(name).example()
    book = AlertBook(AlertSettings())
    found = [item for item in detector.observe(examples.rows(4, 4_000, 1.5)) if item.alarm]
    event = book.take(ORIGIN, found[0])
    evidence = body(event)["evidence"]

    assert evidence.keys() == _EVIDENCE[name]
    assert evidence == orjson.loads(orjson.dumps(dict(found[0].evidence)))
    assert body(event)["p_value"] == pytest.approx(found[0].p_value)
    assert 0 <= body(event)["p_value"] <= body(event)["alpha"]


@given(
    outcomes=st.lists(st.tuples(st.sampled_from("xyz"), st.booleans()), max_size=60),
    n=st.integers(1, 3),
    more=st.integers(0, 2),
    quiet=st.integers(1, 3),
    cut=st.integers(0, 60),
)
def test_any_life_is_in_order_and_survives_a_restart(
    outcomes: list[tuple[str, bool]], n: int, more: int, quiet: int, cut: int
) -> None:
    """Opened, then updates, then resolved, and never two open at once; state through JSON changes no event."""
    settings = AlertSettings(open_n=n, open_of=n + more, resolve_after=quiet)
    whole, first, second = (AlertBook(settings) for _ in range(3))
    findings = [finding(number, alarm=alarm, key=key) for number, (key, alarm) in enumerate(outcomes)]
    events = [whole.take(ORIGIN, item) for item in findings]
    before = [first.take(ORIGIN, item) for item in findings[:cut]]
    second.restore(json.loads(json.dumps(first.state())))
    after = [second.take(ORIGIN, item) for item in findings[cut:]]
    lives: dict[str, list[dict[str, Any]]] = {}
    for event in events:
        if event is not None:
            lives.setdefault(event.subject or "", []).append(body(event))

    assert before + after == events
    assert len({event.id for event in events if event is not None}) == sum(map(len, lives.values()))
    for life in lives.values():
        states = [item["state"] for item in life]
        assert states[0] == "opened"
        assert set(states[1:-1]) <= {"updated"}
        assert [item["sequence"] for item in life] == list(range(1, len(life) + 1))
    still = sum(life[-1]["state"] != "resolved" for life in lives.values())
    assert whole.open_alerts() == still <= 3


def test_state_is_bounded() -> None:
    """However many windows pass, a book holds one short entry for each detector and key."""
    book = AlertBook(AlertSettings(open_n=3, open_of=5))
    sizes = set()
    for number in range(2_000):
        book.take(ORIGIN, finding(number, alarm=number % 7 < 4))
        sizes.add(len(orjson.dumps(book.state())))

    assert list(book.state()) == ["d\x1fx"]
    assert max(sizes) < 150


def test_an_alert_says_which_component_it_is_about() -> None:
    """Alerts about a transformer are filed under its service, and say so; others stay as they are."""
    events = []
    for service in ("shop/iris", "shop/iris/transformer"):
        book = AlertBook(AlertSettings())
        events.append(book.take(replace(ORIGIN, service=service), finding(0, alarm=True)))
    predictor, transformer = (event for event in events if event is not None)

    assert transformer.text("component") == "transformer"
    assert predictor.text("component") == ""
    assert predictor.service() == transformer.service() == "shop/iris"
    assert body(predictor)["service"] == body(transformer)["service"] == "shop/iris"
    assert predictor.id != transformer.id
