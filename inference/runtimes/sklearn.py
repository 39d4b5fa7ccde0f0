"""scikit-learn estimators and pipelines.

Saved with skops, whose types are checked before anything is built; joblib and pickle only where the operator trusts
them, because loading those runs whatever code they hold.
"""

from __future__ import annotations

import pickle  # only behind Trust.code
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar, Final, Self

import numpy as np
from numpy.typing import NDArray

from inference.errors import InvalidInput, ModelLoadFailed, PredictionFailed, UnsafeFormat
from inference.estimators import objects, only_compute
from inference.runtime import Source, iris, library
from inference.tabular import TabularRuntime, chosen_output

_METHODS: Final = {"predict": "predict", "predict_proba": "predict_proba", "raw": "decision_function"}


class SKLearn(TabularRuntime):
    """One fitted estimator, one thread per prediction."""

    suffixes: ClassVar[tuple[str, ...]] = (".skops", ".joblib", ".pkl", ".pickle")
    platform: ClassVar[str] = "sklearn_estimator"
    text = True

    def __init__(self, estimator: Any, source: Source) -> None:  # noqa: ANN401 - any estimator
        known = tuple(output for output, method in _METHODS.items() if hasattr(estimator, method))
        if not known:
            raise ModelLoadFailed(f"{source.path}: expected an estimator that predicts, got {type(estimator).__name__}")
        self._predict = getattr(estimator, _METHODS[chosen_output(source.settings, known, source.path)])
        parts = objects(estimator)
        _one_thread(parts)
        self.computes = only_compute(parts)
        self._columns = [str(name) for name in getattr(estimator, "feature_names_in_", ())]
        super().__init__(
            source.settings, width=getattr(estimator, "n_features_in_", None), features=tuple(self._columns)
        )

    @classmethod
    def load(cls, source: Source) -> Self:
        """Read an estimator."""
        return cls(_skops(source) if source.path.suffix == ".skops" else _pickled(source), source)

    def predict_table(self, table: NDArray[Any]) -> NDArray[Any]:
        """Predict; what scikit-learn's own validation refuses is the caller's mistake."""
        # Fitted on a frame: needs its columns by name again, some steps choose by them.
        rows = library("pandas").DataFrame(table, columns=self._columns).infer_objects() if self._columns else table
        try:
            return _array(self._predict(rows))
        except (ValueError, TypeError) as exc:
            raise InvalidInput(f"inputs: {exc}") from exc

    @classmethod
    def example(cls, directory: Path) -> dict[str, NDArray[Any]]:
        """Save a scaled logistic regression of three classes."""
        rows, labels = iris()
        scaler = library("sklearn.preprocessing").StandardScaler()
        model = library("sklearn.linear_model").LogisticRegression(random_state=0)
        pipeline = library("sklearn.pipeline").make_pipeline(scaler, model).fit(rows, labels)
        library("skops.io").dump(pipeline, directory / "model.skops")
        return {"input-0": rows}


def _array(predicted: Any) -> NDArray[Any]:  # noqa: ANN401 - whatever the estimator gives
    if isinstance(predicted, list) and all(isinstance(each, np.ndarray) for each in predicted):
        # Probabilities of several targets: one array of [rows, classes] for each.
        if len({each.shape for each in predicted}) != 1:
            shapes = [list(each.shape) for each in predicted]
            raise PredictionFailed(
                f"predict_proba: targets of different numbers of classes have no one tensor: {shapes}"
            )
        return np.stack(predicted, axis=1)
    return np.asarray(predicted.toarray() if hasattr(predicted, "toarray") else predicted)


def _skops(source: Source) -> Any:  # noqa: ANN401 - any estimator
    skops = library("skops.io")
    trusted = list(source.trust.types)
    try:
        unknown = [name for name in skops.get_untrusted_types(file=source.path) if name not in trusted]
        if unknown:
            raise UnsafeFormat(
                f"{source.path}: holds types that nobody has trusted: {', '.join(unknown)}; "
                f"to allow exactly these: --trusted-types {','.join(unknown)}"
            )
        return skops.load(source.path, trusted=trusted)
    except (zipfile.BadZipFile, KeyError, ValueError, TypeError, ImportError, AttributeError) as exc:
        raise ModelLoadFailed(f"{source.path}: no skops model: {type(exc).__name__}: {exc}") from exc


def _pickled(source: Source) -> Any:  # noqa: ANN401 - any estimator
    if not source.trust.code:
        raise UnsafeFormat(
            f"{source.path}: loading {source.path.suffix} runs whatever code the file holds; save the model with skops "
            "(skops.io.dump), or allow it for a file whose author you trust: --trusted"
        )
    try:
        # joblib reads plain pickles, too.
        return library("joblib").load(source.path)
    except (pickle.UnpicklingError, EOFError, ImportError, AttributeError, ValueError, KeyError, IndexError) as exc:
        raise ModelLoadFailed(f"{source.path}: cannot be unpickled: {type(exc).__name__}: {exc}") from exc


def _one_thread(parts: Iterable[Any]) -> None:
    """Switch off parallelism inside a prediction: the server already runs one per core."""
    for part in parts:
        if hasattr(part, "get_params") and getattr(part, "n_jobs", None) is not None:
            part.n_jobs = 1
