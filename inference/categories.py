"""Turns the names of categories into the codes that boosters know them by, column by column. Pure.

A booster's file holds codes; which name has which comes from the file where it was trained on a frame, or from the
model's settings. Used by `inference/runtimes/lightgbm.py` and `xgboost.py`, by way of `inference/tabular.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference.errors import InvalidInput, ModelLoadFailed


class Categories:
    """The categories of some of a table's columns, each in the order of its codes."""

    def __init__(self, columns: Mapping[int, Sequence[Any]], features: Sequence[str]) -> None:
        self._codes = {at: {name: float(code) for code, name in enumerate(names)} for at, names in columns.items()}
        self._features = features
        self._numeric = [at for at, names in columns.items() if not any(isinstance(name, str) for name in names)]

    @classmethod
    def read(cls, given: Mapping[str, Any], features: Sequence[str], where: object) -> Categories:
        """Read the option `categories`: lists of names, by column.

        Raises:
            ModelLoadFailed: an unknown column, or no list of different texts.
        """
        for name, names in given.items():
            if name not in features:
                raise ModelLoadFailed(f"{where}: categories: {name!r} is none of the features {list(features)}")
            texts = isinstance(names, list) and all(isinstance(each, str) for each in names)
            if not texts or len(set(names)) != len(names):
                raise ModelLoadFailed(f"{where}: categories: {name}: expected a list of different texts, got {names!r}")
        return cls({features.index(name): names for name, names in given.items()}, features)

    def coded(self, table: NDArray[Any], dtype: Any) -> NDArray[Any]:  # noqa: ANN401 - a NumPy type
        """Give the table in numbers. A name that training did not see is a missing value; so is null.

        Raises:
            InvalidInput: text in a column without categories.
        """
        if table.dtype != object:
            return self._recoded(table)
        columns = [self._column(table[:, at], at, dtype) for at in range(table.shape[1])]
        return np.column_stack(columns)

    def _recoded(self, table: NDArray[Any]) -> NDArray[Any]:
        if not self._numeric:
            return table
        table = table.copy()
        for at in self._numeric:
            codes = self._codes[at]
            table[:, at] = [codes.get(value, np.nan) for value in table[:, at].tolist()]
        return table

    def _column(self, column: NDArray[Any], at: int, dtype: Any) -> NDArray[Any]:  # noqa: ANN401 - a NumPy type
        codes = self._codes.get(at, {})
        if at in self._numeric:
            return np.array([codes.get(value, np.nan) for value in column], dtype)
        # A number in a column of texts is a code already.
        values = [codes.get(value, np.nan) if codes and isinstance(value, str) else value for value in column]
        text = next((value for value in values if isinstance(value, str)), None)
        if text is not None:
            name = self._features[at] if at < len(self._features) else at
            raise InvalidInput(f"inputs: column {name!r}: expected numbers, got text {text!r}")
        return np.array([np.nan if value is None else value for value in values], dtype)
