"""Features in the place of entities, from a scripted server; tests/examples/test_features.py has Feast's own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from inference.directory import open_model
from inference.errors import InvalidInput, PredictionFailed, PredictorUnavailable
from inference.featurestore import FeastServer
from inference.runtime import Runtime
from inference.settings import SETTINGS_FILE, Trust
from tests.inference.serving import ECHO
from tests.inference.upstream.scripted import HANG, Scripted, scripted

_FEATURES = ["trips:acceptance", "trips:daily"]


def _told(**values: list[Any]) -> Scripted:
    """Give an answer as Feast's feature server does."""
    results = [{"values": each, "statuses": ["PRESENT"] * len(each)} for each in values.values()]
    return 200, {}, orjson.dumps({"metadata": {"feature_names": list(values)}, "results": results})


_ANSWER = _told(driver_id=[1001, 7], acceptance=[0.5, None], daily=[10, None], name=["Ada", None])


@contextmanager
def _looking(directory: Path, store: str, **arguments: Any) -> Iterator[Runtime]:  # noqa: ANN401 - the class's
    """Load a model that echoes, behind a lookup."""
    given = {"store": store, "entities": ["driver_id"], "features": _FEATURES, **arguments}
    spec = {"class": "inference.featurestore:Lookup", "arguments": given}
    (directory / SETTINGS_FILE).write_text(json.dumps({"transformer": spec}))
    runtime = open_model(directory, Trust(code=True), ECHO)
    yield runtime
    runtime.unload()


def test_entities_become_features(tmp_path: Path) -> None:
    """The store is asked once for all rows; the model gets its features beside what else the caller sent."""
    inputs = {"driver_id": np.array([[1001], [7]]), "km": np.array([3.5, 4.0])}
    with scripted(_ANSWER) as script, _looking(tmp_path, f"http://127.0.0.1:{script.port}") as runtime:
        outputs = runtime.predict(inputs)
    (asked,) = [(path, orjson.loads(body)) for path, _, body in script.asked]

    assert asked == ("/get-online-features", {"features": _FEATURES, "entities": {"driver_id": [1001, 7]}})
    assert list(outputs) == ["km", "acceptance", "daily"]
    np.testing.assert_array_equal(outputs["acceptance"], [0.5, np.nan])
    np.testing.assert_array_equal(outputs["km"], [3.5, 4.0])


def test_settings_act(tmp_path: Path) -> None:
    """Entities can be kept, texts are texts, and gaps can be refused as the caller's mistake."""
    inputs = {"driver_id": np.array([1001, 7])}
    with scripted(_ANSWER) as script:
        store = f"http://127.0.0.1:{script.port}"
        with _looking(tmp_path, store, keep=True, features=["trips:name"]) as runtime:
            outputs = runtime.predict(inputs)
        with _looking(tmp_path, store, refuse_missing=True) as runtime, pytest.raises(InvalidInput) as gap:
            runtime.predict(inputs)

    assert (outputs["name"].tolist(), outputs["driver_id"].tolist()) == (["Ada", ""], [1001, 7])
    assert str(gap.value) == "inputs: row 1: the store has no 'acceptance' for it"


def test_whose_mistake_it_is(tmp_path: Path) -> None:
    """No entity: the caller's. No such feature: the operator's. No answer: come again."""
    rows = {"driver_id": np.array([1, 2])}
    with scripted(_told(other=[1, 2]), (500, {}, b"broken"), HANG) as script:
        with _looking(tmp_path, f"http://127.0.0.1:{script.port}") as runtime:
            with pytest.raises(InvalidInput, match=r"missing \['driver_id'\]"):
                runtime.predict({"driver": np.array([1])})
            with pytest.raises(PredictionFailed, match=r"gave no 'acceptance'; it gave \['other'\]"):
                runtime.predict(rows)
            with pytest.raises(PredictionFailed, match="answered 500: broken"):
                runtime.predict(rows)
        url = f"http://127.0.0.1:{script.port}"
        with closing(FeastServer(url, 0.05)) as store, pytest.raises(PredictorUnavailable, match=r"within 0\.05 s"):
            store.columns(rows, _FEATURES)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ((200, {}, b"<html>"), "gave no features"),
        ((200, {}, b"[]"), "gave no features"),
        ((200, {}, b'{"metadata": {"feature_names": ["acceptance", "daily"]}, "results": []}'), "gave no features"),
        (_told(acceptance=[0.5], daily=[10]), "gave 1 values of 'acceptance' for 2 rows"),
        (_told(acceptance=[[0.5], [0.5, 1.0]], daily=[1, 2]), "gave no features"),
    ],
)
def test_an_answer_that_is_none_is_the_stores(tmp_path: Path, answer: Scripted, says: str) -> None:
    """What cannot be read of the store's answer is never taken for the caller's mistake."""
    with (
        scripted(answer) as script,
        _looking(tmp_path, f"http://127.0.0.1:{script.port}") as runtime,
        pytest.raises(PredictionFailed, match=says),
    ):
        runtime.predict({"driver_id": np.array([1, 2])})


def test_entities_are_one_value_per_row(tmp_path: Path) -> None:
    """Other shapes, and columns of different lengths, are refused by name before the store is asked."""
    with scripted() as script:
        store = f"http://127.0.0.1:{script.port}"
        with _looking(tmp_path, store, entities=["driver_id", "town"]) as runtime:
            with pytest.raises(InvalidInput, match=r"driver_id: expected one value per row, got shape \[1, 2\]"):
                runtime.predict({"driver_id": np.array([[1, 2]]), "town": np.array([1])})
            with pytest.raises(InvalidInput, match=r"as many rows of each entity, got {'driver_id': 2, "):
                runtime.predict({"driver_id": np.array([1, 2]), "town": np.array([1])})
    assert script.asked == []
