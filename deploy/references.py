"""Reads a monitor's reference data: Parquet or CSV, one array per column."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from deploy.errors import UserError
from detectors.frames import spelt
from detectors.settings import MonitorSettings

Array = np.ndarray[Any, Any]


def load(monitor: MonitorSettings) -> Mapping[str, Array]:
    """Give the reference columns of a monitor: float64 for numbers, text for categories.

    Raises:
        UserError: no such file, another format, a column that is missing or holds no numbers.
    """
    frame = _frame(monitor.reference)
    arrays: dict[str, Array] = {}
    for column in (*monitor.features, *monitor.outputs):
        if column.name not in frame.columns:
            known = ", ".join(map(str, frame.columns))
            raise UserError(f"{monitor.reference}: has no column {column.name!r}; it has {known}")
        values = frame[column.name]
        try:
            arrays[column.name] = (
                values.to_numpy(dtype=np.float64)
                if column.kind == "numeric"
                else np.array([*map(spelt, values.tolist())])
            )
        except (TypeError, ValueError) as exc:
            raise UserError(f"{monitor.reference}: column {column.name!r} is no numeric column: {exc}") from exc
    return arrays


def table(path: Path) -> Mapping[str, Array]:
    """Give every column of a file, in its order, as numpy reads it.

    Raises:
        UserError: no such file, another format, no rows, or values that are missing.
    """
    frame = _frame(path)
    if frame.empty:
        raise UserError(f"{path}: expected rows, got none")
    for name in frame.columns[frame.isna().any()]:
        raise UserError(f"{path}: column {name!r} has missing values; leave those rows out")
    return {str(name): frame[name].to_numpy() for name in frame.columns}


def fingerprint(monitor: MonitorSettings, reference: Mapping[str, Array]) -> str:
    """Give a digest of everything that decides what a monitor's detectors do; where the reference lies does not."""
    digest = blake2b(repr(replace(monitor, reference=Path())).encode(), digest_size=16)
    for name in sorted(reference):
        # Type and shape, too: the bytes of one text of two letters are those of two texts of one.
        digest.update(repr((name, reference[name].dtype.str, reference[name].shape)).encode())
        digest.update(np.ascontiguousarray(reference[name]).tobytes())
    return digest.hexdigest()


def _frame(path: Path) -> pd.DataFrame:
    try:
        if path.suffix == ".csv":
            return pd.read_csv(path)
        if path.suffix in {".parquet", ".pq"}:
            return pd.read_parquet(path)
    except (OSError, ValueError) as exc:
        raise UserError(f"{path}: cannot be read: {exc}") from exc
    raise UserError(f"{path}: expected a .parquet or .csv file, got {path.suffix!r}")
