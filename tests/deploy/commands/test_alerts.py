"""`sidelight alerts` as people use it: the families in one order of time, and what is no alert told as such."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.commands import alerts
from deploy.listing import printable
from detectors.alerts import AlertBook, Origin
from detectors.base import Finding
from detectors.settings import AlertSettings
from streams.bindings import decode_event
from streams.errors import InvalidEvent
from streams.events import Event
from streams.topics import FAMILIES, Topics
from tests.deploy.commands.calling import Sidelight, lines_of
from tests.deploy.laying import NOW_MS, Laid, create, event, lay

AT_US = 1_767_323_045_000_006


def alert(family: str, service: str = "default/credit", p_value: float | None = 0.00123) -> Event:
    """Make an opened alert as the detectors do."""
    origin = Origin(service=service, monitor="credit", detector="shift", type="ks", family=family)
    place = {"id": "e1", "partition": 0, "offset": 7, "row": 0, "time_us": AT_US}
    finding = Finding(
        key="age", alarm=True, message=f"age {family}s", statistic=0.25, threshold=0.1, rows=500, first=place,
        last=place, alpha=0.01, p_value=p_value, evidence={"before": [1, 2]},
    )  # fmt: skip
    opened = AlertBook(AlertSettings()).take(origin, finding)

    assert opened is not None
    return opened


@pytest.mark.kafka
def test_all_families_in_one_order_of_time(sidelight: Sidelight, kafka: str, topics: Topics) -> None:
    """State, family, service, what was found where, the numbers, and the id by which an alert is known."""
    for at, family in enumerate(FAMILIES):
        create(kafka, topics.alerts(family), 2)
        lay(kafka, topics.alerts(family), [Laid(alert(family), at % 2, NOW_MS - at)])
    found = lines_of(sidelight("alerts", "--kafka", kafka, "--prefix", topics.prefix))

    assert [line.split()[2] for line in found] == list(reversed(FAMILIES))
    assert found[-1] == (
        "2026-01-02T03:04:05.000006Z  opened    drift        default/credit  credit/shift/age  age drifts  "
        f"(statistic 0.25, p 0.0012, alarm below 0.01, 500 rows)  [{alert('drift').subject}]"
    )


@pytest.mark.kafka
def test_families_services_and_counts_choose(sidelight: Sidelight, kafka: str, topics: Topics) -> None:
    """A family is read alone, so only its topic has to be there; naming it twice shows nothing twice."""
    for family in ("drift", "bias"):
        create(kafka, topics.alerts(family))
    lay(kafka, topics.alerts("drift"), [Laid(alert("drift", f"default/{name}")) for name in "abc"])
    lay(kafka, topics.alerts("bias"), [Laid(alert("bias", "default/b"), time_ms=NOW_MS + 1)])

    def services(*words: str) -> list[str]:
        run = sidelight("alerts", "--kafka", kafka, "--prefix", topics.prefix, "--json", *words)
        return [json.loads(line)["inferenceservicename"] for line in lines_of(run)]

    assert services("--family", "drift", "--family", "drift") == ["a", "b", "c"]
    assert services("--family", "drift", "--family", "bias", "--service", "default/b") == ["b", "b"]
    assert services("--family", "drift", "--count", "1") == ["a"]
    everything = sidelight("alerts", "--kafka", kafka, "--prefix", topics.prefix)
    assert everything.returncode == 2
    assert f"topic '{topics.alerts('outlier')}' does not exist" in everything.stderr


@pytest.mark.kafka
def test_json_is_the_whole_event(sidelight: Sidelight, kafka: str, topics: Topics) -> None:
    """With its evidence, as `jq .data.evidence` in the examples expects; what is no alert goes out as it is, too."""
    create(kafka, topics.alerts("drift"))
    lay(kafka, topics.alerts("drift"), [Laid(alert("drift")), Laid(event("other", b'"no alert"'))])
    run = sidelight("alerts", "--kafka", kafka, "--prefix", topics.prefix, "--family", "drift", "--json")
    found = [decode_event(line.encode()) for line in lines_of(run)]

    assert json.loads(lines_of(run)[0])["data"]["evidence"] == {"before": [1, 2]}
    assert [one.id for one in found] == [alert("drift").id, "other"]
    assert orjson.loads(found[0].data or b"") == orjson.loads(alert("drift").data or b"")


@pytest.mark.kafka
def test_what_is_no_alert_is_told_beside_the_output(sidelight: Sidelight, kafka: str, topics: Topics) -> None:
    """A stranger's events on an alert topic stop nobody from seeing the alerts."""
    create(kafka, topics.alerts("drift"))
    strange = [event("s1", b"{}"), event("s2", b"<xml/>"), event("s3", None)]
    lay(kafka, topics.alerts("drift"), [*map(Laid, strange), Laid(alert("drift"))])
    run = sidelight("alerts", "--kafka", kafka, "--prefix", topics.prefix, "--family", "drift")

    assert len(lines_of(run)) == 1
    assert run.stderr.count("unreadable: not-an-alert: event s") == 3
    assert run.stderr.endswith("\n3 records were unreadable\n")


def test_numbers_sum_the_evidence_up() -> None:
    """A p-value against its share of the budget, else a statistic against its threshold, and never a made-up one."""
    assert alerts.numbers({"p_value": 1e-9, "alpha": 0.001}) == "p 1e-09, alarm below 0.001"
    assert alerts.numbers({"statistic": 3.14159, "threshold": 2}) == "statistic 3.142, threshold 2"
    assert alerts.numbers({"statistic": True, "p_value": None, "window": None}) == "no numbers"
    assert "threshold 0.1" in alerts.shown(alert("outlier", p_value=None))


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
_BODIES = st.fixed_dictionaries(
    {
        "state": st.text(),
        "family": st.text(),
        "message": st.text(),
        "detector": st.dictionaries(st.just("name"), _JSON),
    },
    optional=dict.fromkeys(("statistic", "threshold", "p_value", "alpha", "window", "monitor"), _JSON),
)


@given(_BODIES)
def test_whatever_calls_itself_an_alert_is_one_line(body: dict[str, Any]) -> None:
    """Alerts of another version, or of somebody else: shown as far as it goes, and a terminal obeys none of it."""
    text = alerts.shown(replace(alert("drift"), data=orjson.dumps(body)))

    assert all(character.isprintable() or character == "\n" for character in printable(text))


@given(_JSON)
def test_other_data_are_no_alert(data: object) -> None:
    """A clear refusal, whatever they are."""
    with pytest.raises(InvalidEvent, match="not-an-alert: event a: expected an object"):
        alerts.shown(event("a", orjson.dumps(data)))
