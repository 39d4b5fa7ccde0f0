"""What a detector is: rows in, findings out, bounded state that can be put away. Pure.

`detectors/windows.py` holds the windowing that most share; a plug-in is one file in `detectors/library/`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np

from detectors.budget import Budget
from detectors.errors import InvalidRows
from detectors.settings import ColumnSettings

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Consecutive rows of one service, in the merged order. All arrays have one value per row.

    `columns` holds float64 for numeric columns (NaN where a value is missing) and text for categorical ones.
    """

    columns: Mapping[str, Array]
    ids: Array
    times_us: Array
    places: Array
    """Shape (rows, 3): payload partition, offset, and row within the exchange."""

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, part: slice) -> Rows:
        return Rows(
            columns={name: values[part] for name, values in self.columns.items()},
            ids=self.ids[part],
            times_us=self.times_us[part],
            places=self.places[part],
        )

    def followed_by(self, others: Sequence[Rows]) -> Rows:
        """Give these rows and then the others'."""
        parts = [self, *others]
        return Rows(
            columns={name: np.concatenate([part.columns[name] for part in parts]) for name in self.columns},
            ids=np.concatenate([part.ids for part in parts]),
            times_us=np.concatenate([part.times_us for part in parts]),
            places=np.concatenate([part.places for part in parts]),
        )

    def row_id(self, index: int) -> dict[str, Any]:
        """Give what finds a row again: its correlation id, place in the log and event time."""
        partition, offset, row = (int(value) for value in self.places[index])
        return {
            "id": str(self.ids[index]), "row": row, "partition": partition, "offset": offset,
            "time_us": int(self.times_us[index]),
        }  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """The outcome of one test, alarming or not."""

    key: str
    """What was tested within the detector: a feature's name, a group, or empty for everything together."""
    alarm: bool
    message: str
    """The outcome in plain words."""
    statistic: float
    threshold: float
    rows: int
    first: Mapping[str, Any]
    last: Mapping[str, Any]
    alpha: float
    """Probability with which this test may alarm though nothing is wrong: its share of the budget."""
    p_value: float | None = None
    evidence: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What every detector is built with, beside its own parameters."""

    columns: tuple[ColumnSettings, ...]
    """The columns it looks at."""
    reference: Mapping[str, Array]
    """Reference values of every column of the monitor, one array each."""
    budget: Budget
    """Its share of the monitor's budget."""


class Detector(ABC):
    """A detector over one service's rows. Called by one thread, in row order; no I/O, clock or global random state."""

    family: ClassVar[str]
    """Topic family of its alerts: drift, outlier, adversarial, bias or performance."""
    suits: ClassVar[tuple[str, ...]] = ("numeric", "categorical")
    """Kinds of column that it takes when the monitor names none."""
    watches: ClassVar[str] = "features"
    """Whether it takes features or outputs when the monitor names none."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup

    @classmethod
    @abstractmethod
    def example(cls) -> Self:
        """Build one for the contract tests: numeric column `x`, categorical `c`, output `score`."""

    @abstractmethod
    def observe(self, rows: Rows) -> list[Finding]:
        """Take rows; give the outcome of every test that they complete. Where rows are cut changes nothing.

        Raises:
            InvalidRows: a column is missing.
        """

    @abstractmethod
    def snapshot(self) -> bytes:
        """Give the complete state."""

    @abstractmethod
    def restore(self, state: bytes) -> None:
        """Take what `snapshot` gave."""

    def check(self, rows: Rows) -> None:
        """Refuse rows that lack a column."""
        missing = [column.name for column in self.setup.columns if column.name not in rows.columns]
        if missing:
            raise InvalidRows(f"expected the columns {[c.name for c in self.setup.columns]}, missing: {missing}")
