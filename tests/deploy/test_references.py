"""Reference data: what detectors compare with. The right types, or a sentence that says which column is wrong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from deploy import references
from deploy.errors import UserError
from detectors.budget import Budget
from detectors.settings import AlertSettings, ColumnSettings, DetectorSettings, MonitorSettings

FRAME = pd.DataFrame({
    "age": [30, 40, 50], "income": [1.5, None, 2.5], "city": ["Ulm", "Köln", "Ulm"], "sex": [1, 2, 1], "spare": [0] * 3,
})  # fmt: skip


def monitor(path: Path) -> MonitorSettings:
    """Make a monitor of two numbers, two categories and an output."""
    return MonitorSettings(
        name="m", namespace="default", service="credit", reference=path,
        features=(
            ColumnSettings(name="age"), ColumnSettings(name="city", kind="categorical"),
            ColumnSettings(name="sex", kind="categorical"),
        ),
        outputs=(ColumnSettings(name="income"),), detectors=(DetectorSettings(name="ks", type="ks"),),
        budget=Budget(false_alarms=1, rows=1000), alerts=AlertSettings(),
    )  # fmt: skip


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".pq"])
def test_either_format_gives_the_same_columns(tmp_path: Path, suffix: str) -> None:
    """Numbers as float64, categories spelt as payloads spell them, a missing number as NaN, and no other column."""
    path = tmp_path / f"reference{suffix}"
    FRAME.to_csv(path, index=False) if suffix == ".csv" else FRAME.to_parquet(path)
    found = references.load(monitor(path))

    assert list(found) == ["age", "city", "sex", "income"]
    assert found["age"].dtype == found["income"].dtype == np.float64
    np.testing.assert_array_equal(found["income"], [1.5, np.nan, 2.5])
    assert found["city"].tolist() == ["Ulm", "Köln", "Ulm"]
    assert found["sex"].tolist() == ["1", "2", "1"]


def test_what_is_wrong_with_a_column_is_named(tmp_path: Path) -> None:
    """A missing one with those that there are; text where numbers are wanted, by its name."""
    path = tmp_path / "reference.csv"
    FRAME.drop(columns="age").to_csv(path, index=False)
    with pytest.raises(UserError, match="has no column 'age'; it has income, city, sex, spare"):
        references.load(monitor(path))
    FRAME.assign(age=["old", "young", "old"]).to_csv(path, index=False)
    with pytest.raises(UserError, match=r"column 'age' is no numeric column: .*'old'"):
        references.load(monitor(path))


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("missing.csv", None, "missing.csv: cannot be read"),
        ("missing.parquet", None, "missing.parquet: cannot be read"),
        ("empty.csv", b"", "empty.csv: cannot be read"),
        ("latin.csv", b"age,city\n1,K\xf6ln\n", "latin.csv: cannot be read"),
        ("ragged.csv", b"age\n1,2\n1,2,3\n", "ragged.csv: cannot be read"),
        ("broken.parquet", b"PAR1 no", "broken.parquet: cannot be read"),
        ("table.xlsx", b"", "expected a .parquet or .csv file, got '.xlsx'"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(tmp_path: Path, name: str, content: bytes | None, problem: str) -> None:
    """One sentence with the file, whatever is in it; never a traceback out of a library."""
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=problem):
        references.load(monitor(path))


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    """A path that names a folder is refused in the same way."""
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(UserError, match=r"folder\.csv: cannot be read"):
        references.load(monitor(tmp_path / "folder.csv"))


def test_a_table_has_every_column_in_its_order(tmp_path: Path) -> None:
    """What an explainer's background is: all of the file, and only whole rows."""
    path = tmp_path / "rows.csv"
    FRAME[["city", "age"]].to_csv(path, index=False)
    found = references.table(path)

    assert {name: column.tolist() for name, column in found.items()} == {
        "city": ["Ulm", "Köln", "Ulm"],
        "age": [30, 40, 50],
    }
    assert list(found) == ["city", "age"]
    FRAME.to_csv(path, index=False)
    with pytest.raises(UserError, match="column 'income' has missing values"):
        references.table(path)
    path.write_text("city,age\n")
    with pytest.raises(UserError, match="expected rows, got none"):
        references.table(path)


def fingerprint(arrays: dict[str, list[Any]], **changes: object) -> str:
    """Give the fingerprint of a monitor with these columns."""
    made = replace(monitor(Path("a.csv")), **changes)  # type: ignore[arg-type] # any field may change
    return references.fingerprint(made, {name: np.array(values) for name, values in arrays.items()})


def test_a_fingerprint_tells_what_changes_a_detector() -> None:
    """Any value, type, name, place of a value, or setting; a state of another fingerprint is no longer of use."""
    base = fingerprint({"a": [1.0, 2.0], "b": ["x", "y"]})
    others = [
        fingerprint({"a": [1.0, 2.5], "b": ["x", "y"]}),
        fingerprint({"a": [2.0, 1.0], "b": ["x", "y"]}),
        fingerprint({"a": [1, 2], "b": ["x", "y"]}),
        fingerprint({"a": [1.0, 2.0], "c": ["x", "y"]}),
        fingerprint({"a": [1.0, 2.0], "b": ["xy"]}),
        fingerprint({"a": [1.0, 2.0], "b": ["x", "y"]}, budget=Budget(false_alarms=2, rows=1000)),
        fingerprint({"a": [1.0, 2.0], "b": ["x", "y"]}, alerts=AlertSettings(resolve_after=9)),
    ]

    assert base not in others
    assert len(set(others)) == len(others)


def test_a_fingerprint_tells_nothing_else() -> None:
    """The same reference elsewhere, or its columns in another order, is the same: a moved file resets no detector."""
    base = fingerprint({"a": [1.0], "b": ["x"]})

    assert fingerprint({"b": ["x"], "a": [1.0]}, reference=Path("elsewhere/b.parquet")) == base
