"""A monitor's settings: what is read, what each setting does, and that whatever is wrong is named with its fix."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from detectors.budget import Budget
from detectors.errors import DetectorError, InvalidMonitor, InvalidReference
from detectors.registry import build
from detectors.settings import AlertSettings, ColumnSettings, DetectorSettings, monitor_from_mapping

TEXT = """\
apiVersion: sidelight.dev/v1alpha1
kind: InferenceMonitor
metadata: {name: credit, namespace: shop, labels: {team: risk}}
spec:
  inferenceService: credit
  reference: {path: data/reference.parquet}
  features:
    - {name: age}
    - {name: job, type: categorical, source: 'people[1]'}
  outputs:
    - {name: score, source: predictions}
  budget: {falseAlarms: 0.5, per: 12h}
  detectors:
    - {type: ks, params: {window: 100}}
    - {name: jobs, type: chi-square, features: [job]}
  alerts: {openAfter: {n: 2, of: 3}, resolveAfter: 4}
"""
REFERENCE = {
    "age": np.linspace(20.0, 80.0, 500), "job": np.array(["nurse", "cook"] * 250), "score": np.linspace(0.0, 1.0, 500)
}  # fmt: skip


def read(change: Callable[[dict[str, Any]], object] = lambda _document: None) -> Any:  # noqa: ANN401 - a monitor
    """Read the monitor with a change."""
    document = yaml.safe_load(TEXT)
    change(document)
    return monitor_from_mapping(document, Path("/base"))


def put(path: str, value: object) -> Callable[[dict[str, Any]], object]:
    """Give a change that sets a value deep inside; numbers in the path are places in lists."""

    def change(document: dict[str, Any]) -> None:
        inside: Any = document
        *way, last = path.split(".")
        for step in way:
            inside = inside[int(step)] if step.isdigit() else inside.setdefault(step, {})
        inside[last] = value

    return change


def refusal(change: Callable[[dict[str, Any]], object]) -> str:
    """Give the message with which a changed monitor is refused."""
    with pytest.raises(InvalidMonitor) as caught:
        read(change)
    return str(caught.value)


def test_a_monitor_is_read_whole() -> None:
    """Everything that the document says, paths relative to its folder."""
    found = read()

    assert (found.name, found.namespace, found.service, found.key) == ("credit", "shop", "credit", "shop/credit")
    assert found.reference == Path("/base/data/reference.parquet")
    assert found.features == (
        ColumnSettings(name="age"), ColumnSettings(name="job", kind="categorical", source="people[1]"),
    )  # fmt: skip
    assert found.outputs == (ColumnSettings(name="score", source="predictions"),)
    assert found.budget == Budget(false_alarms=0.5, period_us=12 * 3_600 * 1_000_000)
    assert found.alerts == AlertSettings(open_n=2, open_of=3, resolve_after=4)
    assert found.detectors == (
        DetectorSettings(name="ks", type="ks", params={"window": 100}),
        DetectorSettings(name="jobs", type="chi-square", features=("job",)),
    )


def test_what_is_left_out_has_its_default() -> None:
    """One false alarm in thirty days, alerts at the first window, the namespace `default`."""

    def bare(document: dict[str, Any]) -> None:
        del document["spec"]["budget"], document["spec"]["alerts"], document["metadata"]["namespace"]

    found = read(bare)

    assert found.budget == Budget(false_alarms=1, period_us=30 * 86_400 * 1_000_000)
    assert found.alerts == AlertSettings(open_n=1, open_of=1, resolve_after=3)
    assert found.namespace == "default"
    assert read(put("spec.alerts", {"openAfter": {"n": 2}})).alerts == AlertSettings(open_n=2, open_of=2)


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("90s", Budget(period_us=90_000_000)), ("5m", Budget(period_us=300_000_000)),
        ("1d", Budget(period_us=86_400_000_000)), ("1000000 observations", Budget(rows=1_000_000)),
        ("500observations", Budget(rows=500)),
    ],
)  # fmt: skip
def test_a_period_is_a_time_or_a_number_of_rows(text: str, budget: Budget) -> None:
    """Seconds, minutes, hours, days, or observations."""
    assert read(put("spec.budget", {"per": text})).budget == budget


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("spce", {}), "document: unknown key 'spce'; did you mean 'spec'? known: apiVersion, kind, metadata, spec"),
        (put("spec.featurs", []), "spec: unknown key 'featurs'; did you mean 'features'? known: inferenceService"),
        (put("spec.features.0.Type", "numeric"), "spec.features[0]: unknown key 'Type'; did you mean 'type'?"),
        (put("spec.budget.falsealarms", 1), "spec.budget: unknown key 'falsealarms'; did you mean 'falseAlarms'?"),
        (put("spec.alerts.openAfter.N", 1), "spec.alerts.openAfter: unknown key 'N'; did you mean 'n'? known: n, of"),
        (put("spec.alerts.zzz", 1), "spec.alerts: unknown key 'zzz'; known: openAfter, resolveAfter"),
        (put("spec.detectors.1.features", ["jobb"]),
         "spec.detectors[1].features: unknown column 'jobb'; did you mean 'job'? known: age, job, score"),
        (put("apiVersion", "v1"), "apiVersion: expected sidelight.dev/v1alpha1, got 'v1'"),
        (put("metadata.name", ""), "metadata.name: expected text, got ''"),
        (put("metadata", None), "metadata: expected a mapping, got NoneType"),
        (put("metadata", {}), "metadata.name: expected text, got nothing"),
        (put("spec.inferenceService", 1.5), "spec.inferenceService: expected text, got 1.5"),
        (put("spec.reference", "x.csv"), "spec.reference: expected a mapping, got str"),
        (put("spec.features", {"age": 1}), "spec.features: expected a list, got {'age': 1}"),
        (put("spec.features.0.type", "text"), "spec.features[0].type: expected numeric or categorical, got 'text'"),
        (put("spec.features.0.name", "score"), "the name 'score' is used twice"),
        (put("spec.detectors", []), "spec.detectors: expected at least one detector, got none"),
        (put("spec.detectors.1.name", "ks"), "spec.detectors: the name 'ks' is used twice"),
        (put("spec.detectors.0.params", [1]), "spec.detectors[0].params: expected a mapping, got [1]"),
        (put("spec.budget.falseAlarms", 0), "spec.budget.falseAlarms: expected a number above 0, got 0"),
        (put("spec.budget.falseAlarms", float("nan")), "spec.budget.falseAlarms: expected a number above 0, got nan"),
        (put("spec.budget.falseAlarms", float("inf")), "spec.budget.falseAlarms: expected a number above 0, got inf"),
        (put("spec.budget.falseAlarms", "1"), "spec.budget.falseAlarms: expected a number, got '1'"),
        (put("spec.budget.per", "0d"), "spec.budget.per: expected a time such as 30d or 12h, or '1000000 o"),
        (put("spec.budget.per", "fortnight"), "got 'fortnight'"),
        (put("spec.alerts.openAfter", {"n": 4, "of": 3}), "spec.alerts.openAfter.n: expected 1 to 3, got 4"),
        (put("spec.alerts.openAfter.n", 1.5), "spec.alerts.openAfter.n: expected a whole number from 1 up, got 1.5"),
        (put("spec.alerts.openAfter.of", float("nan")), "spec.alerts.openAfter.of: expected a whole number from 1 up"),
        (put("spec.alerts.resolveAfter", 0), "spec.alerts.resolveAfter: expected a whole number from 1 up, got 0"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_its_fix(change: Callable[[dict[str, Any]], object], message: str) -> None:
    """Where in the document, what was expected, what was found; near misses with the word that was meant."""
    assert message in refusal(change)


def test_a_document_that_is_no_mapping_is_refused() -> None:
    """A list of monitors, or an empty file."""
    with pytest.raises(InvalidMonitor, match="document: expected a mapping, got list"):
        monitor_from_mapping([], Path("/"))  # type: ignore[arg-type] # what YAML may hold


def test_every_part_of_the_settings_acts() -> None:
    """The built detectors look at the columns that were named, with their parameters and their share of the budget."""
    built = build(read(), REFERENCE)

    assert list(built) == ["ks", "jobs"]
    assert [[column.name for column in built[name].setup.columns] for name in built] == [["age"], ["job"]]
    assert built["ks"].window == 100  # type: ignore[attr-defined] # a windowed detector's
    assert built["ks"].setup.budget == Budget(false_alarms=0.25, period_us=12 * 3_600 * 1_000_000)


@pytest.mark.parametrize(
    ("detector", "message"),
    [
        ({"type": "kss"}, "spec.detectors[kss].type: unknown detector 'kss'; known: chi-square, ks"),
        ({"type": "ks", "params": {"windw": 1}},
         "spec.detectors[ks].params.windw: unknown parameter 'windw'; did you mean 'window'? known: window"),
        ({"type": "ks", "params": {"window": "big"}},
         "spec.detectors[ks].params.window: expected a whole number from 20 to 100000, got 'big'"),
        ({"type": "ks", "features": ["job"]}, "spec.detectors[ks].features: ks takes numeric, 'job' is categorical"),
        ({"type": "statistical-parity"}, "spec.detectors[statistical-parity].params: "),
        ({"type": "mahalanobis", "params": {"quantile": 1}},
         "spec.detectors[mahalanobis].params.quantile: expected a number from 0.5 to below 1, got 1"),
    ],
)  # fmt: skip
def test_a_detector_that_cannot_be_built_is_named(detector: dict[str, Any], message: str) -> None:
    """Unknown type, unknown or unusable parameter, columns that do not suit: which detector, and what it takes."""
    with pytest.raises(DetectorError) as caught:
        build(read(put("spec.detectors", [detector])), REFERENCE)

    assert str(caught.value).startswith(message)


def test_a_reference_that_does_not_fit_is_named() -> None:
    """A column that the file lacks, and one without values."""
    with pytest.raises(InvalidReference, match=r"reference\.parquet: has no column 'job'; it has age, score"):
        build(read(), {name: REFERENCE[name] for name in ("age", "score")})
    with pytest.raises(InvalidReference, match=r"spec\.detectors\[ks\]: a numeric column of the reference has fewer"):
        build(read(), REFERENCE | {"age": np.full(500, np.nan)})


def test_a_monitor_watches_the_predictor_unless_it_says_otherwise() -> None:
    """Its rows' key says whose they are: a transformer's are of another form, and of the same calls."""
    assert (read().key, read().target) == ("shop/credit", "shop/credit")
    other = read(put("spec.component", "transformer"))
    assert (other.key, other.target) == ("shop/credit/transformer", "shop/credit")
    with pytest.raises(InvalidMonitor, match="expected one of predictor, transformer, shadow, got 'explainer'"):
        read(put("spec.component", "explainer"))
