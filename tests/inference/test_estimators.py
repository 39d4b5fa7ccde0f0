"""What is inside of fitted estimators, and which of them only compute."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor
from sklearn.ensemble import (
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
    StackingClassifier,
    VotingClassifier,
)
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.feature_selection import SelectKBest
from sklearn.gaussian_process import GaussianProcessClassifier
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import FunctionTransformer, SplineTransformer, StandardScaler
from sklearn.svm import SVC

from inference.estimators import objects, only_compute
from inference.runtime import iris


class _Own(TransformerMixin, BaseEstimator):  # type: ignore[misc] # the library has no types
    """Does whatever it likes."""

    def fit(self, rows: Any, labels: Any = None) -> _Own:  # noqa: ANN401 - whatever scikit-learn hands over
        """Learn nothing."""
        del rows, labels
        return self

    def transform(self, rows: Any) -> Any:  # noqa: ANN401 - whatever scikit-learn hands over
        """Give the rows back."""
        return rows


class _Logistic(LogisticRegression):  # type: ignore[misc] # the library has no types
    """One of the library's, changed."""


def _doubled(rows: Any, times: int = 2) -> Any:  # noqa: ANN401 - whatever scikit-learn hands over
    return rows * times


def _distance(one: Any, other: Any) -> float:  # noqa: ANN401 - whatever scikit-learn hands over
    return float(np.abs(one - other).sum())


def _end() -> LogisticRegression:
    return LogisticRegression(max_iter=10_000, random_state=0)


@pytest.mark.parametrize(
    "estimator",
    [
        make_pipeline(StandardScaler(), _end()),
        make_pipeline(ColumnTransformer([("a", SplineTransformer(), [0, 1]), ("b", "passthrough", [2])]), _end()),
        make_pipeline(FunctionTransformer(np.abs), FunctionTransformer(), _end()),
        make_pipeline(FeatureUnion([("a", StandardScaler()), ("b", SelectKBest(k=2))]), _end()),
        RandomForestClassifier(3, random_state=0),
        GradientBoostingClassifier(n_estimators=2, random_state=0),
        HistGradientBoostingClassifier(max_iter=2, random_state=0),
        StackingClassifier([("a", _end()), ("b", SVC())]),
        CalibratedClassifierCV(_end(), method="isotonic"),
        MLPClassifier((3,), tol=1.0, n_iter_no_change=1, random_state=0),
        GaussianProcessClassifier(),
        KNeighborsClassifier(metric="manhattan"),
    ],
    ids=lambda each: type(each).__name__,
)
def test_the_librarys_own_only_compute(estimator: Any) -> None:  # noqa: ANN401 - any estimator
    """Whatever is made of scikit-learn's own parts and NumPy's own functions of numbers."""
    assert only_compute(objects(estimator.fit(*iris())))


def test_a_regression_of_steps_only_computes() -> None:
    """It keeps a function of SciPy's."""
    assert only_compute(objects(IsotonicRegression().fit([1, 2, 3], [1, 2, 3])))


@pytest.mark.parametrize(
    "estimator",
    [
        make_pipeline(_Own(), _end()),
        make_pipeline(FunctionTransformer(_doubled), _end()),
        make_pipeline(FunctionTransformer(partial(_doubled, times=3)), _end()),
        make_pipeline(FunctionTransformer(_Own().transform), _end()),
        make_pipeline(FunctionTransformer(np.nan_to_num), _end()),
        make_pipeline(ColumnTransformer([("a", make_pipeline(_Own()), [0, 1])]), _end()),
        VotingClassifier([("a", _end()), ("b", make_pipeline(_Own(), _end()))]),
        TransformedTargetRegressor(LinearRegression(), func=_doubled, inverse_func=_doubled, check_inverse=False),
        KNeighborsClassifier(metric=_distance),
        _Logistic(max_iter=10_000),
    ],
    ids=lambda each: type(each).__name__,
)
def test_what_is_a_users_may_do_anything(estimator: Any) -> None:  # noqa: ANN401 - any estimator
    """A class, a function or a method of a user's, however deep; of NumPy's functions, some read files."""
    assert not only_compute(objects(estimator.fit(*iris())))


@pytest.mark.parametrize(("source", "computes"), [("content", True), ("file", False), ("filename", False)])
def test_vectorizers_may_read_files(source: str, computes: bool) -> None:  # noqa: FBT001 - a case
    """They do where they are given names or files in place of texts."""
    assert only_compute(objects(TfidfVectorizer(input=source))) is computes


def test_what_is_unknown_is_not_looked_into() -> None:
    """A module that a user's estimator keeps is no part of it: through one, everything would be."""
    one = _Own()
    one.libraries = [np]

    assert objects(one) == [one, np]
    assert not only_compute([np])


def test_objects_are_found_once() -> None:
    """One that holds itself is no endless walk."""
    one = StandardScaler()
    one.again = [one, {"here": (one, np.array([one, 1], object))}]

    assert objects(one) == [one]
