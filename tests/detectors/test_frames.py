"""Observation columns to a monitor's columns: by source, by name, by place in the row; and values of every kind."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from detectors.base import Rows
from detectors.errors import InvalidRows
from detectors.frames import Framer, spelt
from detectors.settings import monitor_from_mapping
from inference.observations import ArrowCodec, decode_rows
from streams.pairing import Pairing
from streams.settings import PairingSettings
from tests.detectors.made import START_US, table
from tests.streams.payloads import event, record

Columns = list[dict[str, str]]
PEOPLE: Columns = [{"name": "age"}, {"name": "job", "type": "categorical"}, {"name": "rate"}]
SCORE: Columns = [{"name": "score"}]


def framer(features: Columns, outputs: Columns | None = None) -> Framer:
    """Give the framer of a monitor with these columns."""
    document = {
        "apiVersion": "sidelight.dev/v1alpha1", "kind": "InferenceMonitor", "metadata": {"name": "m"},
        "spec": {
            "inferenceService": "s", "reference": {"path": "r"}, "features": features, "outputs": outputs or [],
            "detectors": [{"type": "ks"}],
        },
    }  # fmt: skip
    return Framer(monitor_from_mapping(document, Path("/")))


def observed(instances: Any, predictions: Any, *, key: str = "instances") -> pa.Table:  # noqa: ANN401 - JSON
    """Give the table that the assembler makes of a V1 call."""
    pairing = Pairing(PairingSettings())
    pairing.take(record(event("a", "request", 0, json.dumps({key: instances}).encode()), 0))
    body = json.dumps({"predictions": predictions}).encode()
    exchange = pairing.take(record(event("a", "response", 4, body), 1)).exchange
    assert exchange is not None
    codec = ArrowCodec()
    return decode_rows(codec.encode([codec.decode(exchange)]))


def values(rows: Rows) -> dict[str, list[Any]]:
    """Give the columns as lists."""
    return {name: column.tolist() for name, column in rows.columns.items()}


MIXED = [[41, "nurse", 0.5], [25, "cook", None]]
NAMED = {"age": [41.0, 25.0], "job": ["nurse", "cook"], "rate": [0.5, None], "score": [0.25, 0.75]}


@pytest.mark.parametrize("key", ["instances", "inputs"])
@pytest.mark.parametrize("source", ["", "sources"])
def test_lists_of_mixed_kinds_are_read_by_place(key: str, source: str) -> None:
    """V1 rows as lists of numbers and texts: the monitor's columns, in the order in which it names them."""
    features = PEOPLE
    if source:
        features = [column | {"source": f"{key}[{at}]"} for at, column in enumerate(PEOPLE)]
    found = values(framer(features, SCORE)(observed(MIXED, [0.25, 0.75], key=key)))

    assert np.isnan(found["rate"].pop())
    assert found == NAMED | {"rate": [0.5]}


def test_objects_and_lists_of_one_service_meet() -> None:
    """Clients of one model may send lists, or objects in any order of keys; both are the same rows."""
    objects = [{"rate": r, "age": a, "job": j} for a, j, r in MIXED]
    by_key = framer(PEOPLE, SCORE)(observed(objects, [0.25, 0.75]))
    by_place = framer(PEOPLE, SCORE)(observed(MIXED, [[0.25], [0.75]]))

    np.testing.assert_equal(values(by_key), values(by_place))


def test_a_list_that_happens_to_hold_numbers_alone_is_the_same_row() -> None:
    """With the text missing in every row of a call, or a code in its stead, the row is one vector: places hold."""
    missing = framer(PEOPLE)(observed([[41, None, 1.5]], [0]))
    coded = framer(PEOPLE)(observed([[41, 7, 1.5]], [0]))

    assert values(missing) == {"age": [41.0], "job": [""], "rate": [1.5]}
    assert values(coded) == {"age": [41.0], "job": ["7"], "rate": [1.5]}


def test_more_than_ten_places_stay_in_order() -> None:
    """Place 10 comes after place 9 and not after place 1."""
    names: Columns = [{"name": f"f{at}", "type": "categorical"} for at in range(12)]
    found = framer(names)(observed([[f"v{at}" for at in range(12)]], [0]))

    assert values(found) == {f"f{at}": [f"v{at}"] for at in range(12)}


@pytest.mark.parametrize(
    ("instances", "said"),
    [
        ([[41, "nurse"]], "rows have 2 values in 'in.instances.0' on"),
        ([[41, "nurse", 0.5, "x"]], "rows have 4 values in 'in.instances.0' on"),
        ([[41, 1]], "'in.instances' has 2 values"),
        ([[41, 1, 2, 3]], "'in.instances' has 4 values"),
    ],
)
def test_rows_of_another_length_are_refused(instances: Any, said: str) -> None:  # noqa: ANN401 - JSON
    """Names by place are a guess when there are more or fewer values: the message gives both counts and the fix."""
    with pytest.raises(InvalidRows) as caught:
        framer(PEOPLE)(observed(instances, [0]))

    assert str(caught.value) == (
        f"column 'age': {said}, the monitor names 3 columns; expected all of them in the model's order, "
        "or a 'source' such as instances[0] for each"
    )


def test_some_of_many_values_are_read_by_source() -> None:
    """With a source for each, a monitor may look at two of four places, and at one of three classes."""
    features: Columns = [{"name": "b", "source": "instances[3]"}, {"name": "a", "source": "instances[0]"}]
    outputs: Columns = [{"name": "third", "source": "predictions[2]"}]
    found = framer(features, outputs)(observed([[1, 2, 3, 4]], [[0.1, 0.2, 0.7]]))

    assert values(found) == {"b": [4.0], "a": [1.0], "third": [0.7]}


def test_a_name_is_looked_for_before_a_place() -> None:
    """A V2 tensor that is called as the column, brackets and dots included, is the column."""
    found = framer([{"name": "x[0]"}, {"name": "a.1"}])(table({"in.x[0]": [1.0], "in.a.1": [2.0], "in.a.0": [3.0]}))

    assert values(found) == {"x[0]": [1.0], "a.1": [2.0]}


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ({"name": "z"}, "column 'z': no source '' among in.t, in.v, in.w"),
        ({"name": "z", "source": "nope"}, "column 'z': no source 'nope' among in.t, in.v, in.w"),
        ({"name": "z", "source": "v[2]"}, "column 'z': expected position 2 in 'in.v', which has 2"),
        ({"name": "z", "source": "t[0]"}, "column 'z': expected position 0 in 'in.t', which has 1"),
        ({"name": "t"}, "column 't': expected numbers, got string"),
        ({"name": "v"}, "column 'v': expected numbers, got fixed_size_list"),
    ],
)
def test_what_is_not_there_is_named(column: dict[str, str], message: str) -> None:
    """The column, what was looked for, and what there is."""
    pair = pa.FixedSizeListArray.from_arrays(pa.array([1.0, 2.0]), 2)
    found = table({"in.t": ["text"], "in.v": pair, "in.w": pair})
    with pytest.raises(InvalidRows) as caught:
        framer([column, {"name": "w", "source": "w[0]"}])(found)

    assert str(caught.value).startswith(message)


def test_numbers_of_every_kind_become_floats() -> None:
    """Whole numbers beyond 2^53 lose digits and nothing else; null is NaN; infinities stay."""
    columns = {
        "in.a": pa.array([2**63 - 1, None], pa.int64()), "in.b": pa.array([2**64 - 1, 0], pa.uint64()),
        "in.c": pa.array([True, None]), "in.d": pa.array([float("inf"), float("nan")], pa.float32()),
    }  # fmt: skip
    found = framer([{"name": name} for name in "abcd"])(table(columns, 2)).columns

    assert all(column.dtype == np.float64 for column in found.values())
    np.testing.assert_equal(
        np.column_stack(list(found.values())), [[2.0**63, 2.0**64, 1, np.inf], [np.nan, 0, np.nan, np.nan]]
    )


def test_a_category_is_spelt_one_way() -> None:
    """JSON, Parquet, CSV and YAML disagree about codes and missing values; the same category must not look new."""
    frame = pd.read_csv(io.StringIO("code,n\n1,1\n,2\n2,3\n"))

    assert [spelt(value) for value in (1, 1.0, "1", np.float64(1.0), -0.0)] == ["1", "1", "1", "1", "0"]
    assert [spelt(value) for value in frame["code"].tolist()] == ["1", "", "2"]
    assert [spelt(value) for value in (None, float("nan"), "", 1.5, True)] == ["", "", "", "1.5", "True"]
    assert spelt(float("inf")) == "inf"


def test_a_text_of_any_length_takes_little_room() -> None:
    """One caller's book in a text column must not be multiplied by the number of rows."""
    found = framer([{"name": "c", "type": "categorical"}])(table({"in.c": ["x" * 1_000_000] + ["y"] * 99}, 100))

    assert found.columns["c"].nbytes < 100_000
    assert len(spelt(1e300)) <= 200


def test_a_clock_far_ahead_is_set_to_the_order() -> None:
    """A request from the year 3000 must not use up a budget that counts time; the log's own order is bounded."""
    ahead = table({"in.x": [1.0, 2.0]}, 2)
    at = ahead.column_names.index("_time")
    ahead = ahead.set_column(at, "_time", pa.array([START_US + 5, 32_503_680_000_000_000]))
    found = framer([{"name": "x"}])(ahead)

    assert found.times_us.tolist() == [START_US + 5, START_US + 999]
