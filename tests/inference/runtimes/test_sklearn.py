"""What only the scikit-learn runtime promises: safe formats first, names and text kept, one thread."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import skops.io
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import RandomForestClassifier, VotingClassifier
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.naive_bayes import MultinomialNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder

from inference.directory import open_model
from inference.errors import InvalidInput, ModelLoadFailed, PredictionFailed, UnsafeFormat
from inference.runtime import iris
from inference.settings import SETTINGS_FILE, Trust


class _Planted:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self._path),)


def _doubled(rows: Any) -> Any:  # noqa: ANN401 - whatever scikit-learn hands over
    return rows * 2


@pytest.mark.parametrize("name", ["model.joblib", "model.pkl", "model.pickle"])
def test_pickles_are_refused_unloaded(tmp_path: Path, name: str) -> None:
    """Without trust a pickle is refused with the flag that allows it, and nothing in it has run."""
    planted = tmp_path / "planted"
    directory = tmp_path / "model"
    directory.mkdir()
    joblib.dump(_Planted(planted), directory / name)

    with pytest.raises(UnsafeFormat, match=rf"{name}: loading .* --trusted"):
        open_model(directory, Trust())
    assert not planted.exists()
    with pytest.raises(ModelLoadFailed, match="expected an estimator that predicts"):
        open_model(directory, Trust(code=True))
    assert planted.exists()


@pytest.mark.parametrize("name", ["model.joblib", "model.pkl"])
def test_pickles_load_when_trusted(tmp_path: Path, name: str) -> None:
    """With trust, joblib files and plain pickles serve."""
    rows, labels = iris()
    model = LogisticRegression().fit(rows, labels)
    if name.endswith("pkl"):
        (tmp_path / name).write_bytes(pickle.dumps(model))
    else:
        joblib.dump(model, tmp_path / name)
    outputs = open_model(tmp_path, Trust(code=True)).predict({"x": rows})

    np.testing.assert_array_equal(outputs["output-0"], model.predict(rows))


def test_skops_types_must_be_named(tmp_path: Path) -> None:
    """A type outside skops' own list is refused, and named so that it can be allowed; then it serves."""
    rows, labels = iris()
    skops.io.dump(
        make_pipeline(FunctionTransformer(_doubled), LogisticRegression(max_iter=1000)).fit(rows, labels),
        tmp_path / "model.skops",
    )
    name = f"{_doubled.__module__}._doubled"

    with pytest.raises(UnsafeFormat, match=f"--trusted-types {name}"):
        open_model(tmp_path, Trust())
    assert len(open_model(tmp_path, Trust(types=(name,))).predict({"x": rows})["output-0"]) == len(rows)


def test_frames_keep_their_names(tmp_path: Path) -> None:
    """A pipeline fitted on named columns of text and numbers predicts from columns in any order."""
    frame = pd.DataFrame({"colour": ["red", "blue"] * 20, "size": np.tile([1.0, 2.0, 3.0, 4.0], 10)})
    encode = ColumnTransformer([("colour", OneHotEncoder(), ["colour"])], remainder="passthrough")
    model = make_pipeline(encode, LogisticRegression()).fit(frame, ["warm", "cold"] * 20)
    skops.io.dump(model, tmp_path / "model.skops")
    runtime = open_model(tmp_path, Trust())
    inputs = {"size": np.array([2.0, 9.0]), "colour": np.array(["red", "blue"], object)}

    assert runtime.predict(inputs)["output-0"].tolist() == ["warm", "cold"]
    with pytest.raises(InvalidInput, match=r"missing \['colour'\], unknown \['color'\]"):
        runtime.predict({"size": np.ones(1), "color": np.array(["red"], object)})
    with pytest.raises(InvalidInput, match="unknown categories"):
        runtime.predict({"size": np.ones(1), "colour": np.array(["green"], object)})
    with pytest.raises(InvalidInput, match="as many rows in each"):
        runtime.predict({"size": np.ones(3), "colour": np.array(["red"], object)})


def test_text_models_take_flat_text(tmp_path: Path) -> None:
    """A model on raw text predicts from a flat tensor of texts."""
    model = make_pipeline(CountVectorizer(), MultinomialNB()).fit(["good fine", "bad poor"] * 5, [1, 0] * 5)
    skops.io.dump(model, tmp_path / "model.skops")

    outputs = open_model(tmp_path, Trust()).predict({"instances": np.array(["fine", "poor"], object)})

    assert outputs["output-0"].tolist() == [1, 0]


def test_every_part_runs_on_one_thread(tmp_path: Path) -> None:
    """n_jobs is 1 in fitted parts too, so that a prediction never starts a pool of its own."""
    rows, labels = iris()
    forest = RandomForestClassifier(n_estimators=3, n_jobs=4, random_state=0)
    # Threads, not joblib's processes: those outlive the test.
    with joblib.parallel_config(backend="threading"):
        model = VotingClassifier([("forest", forest)], n_jobs=4).fit(rows, labels)
    joblib.dump(model, tmp_path / "model.joblib")
    runtime = open_model(tmp_path, Trust(code=True))
    served = runtime._predict.__self__  # type: ignore[attr-defined]

    assert (served.n_jobs, served.estimators_[0].n_jobs) == (1, 1)


def test_text_is_refused_by_numeric_models(tmp_path: Path) -> None:
    """Text where a model takes numbers is the caller's mistake, not a failure of the model."""
    rows, labels = iris()
    skops.io.dump(LogisticRegression().fit(rows, labels), tmp_path / "model.skops")

    with pytest.raises(InvalidInput, match="could not convert string"):
        open_model(tmp_path, Trust()).predict({"x": np.array([["a"] * 4], object)})


def test_several_targets_give_one_tensor(tmp_path: Path) -> None:
    """Probabilities of several targets come as [rows, targets, classes]; of unequal numbers of classes, not at all."""
    rows, labels = iris()
    for second, fits in ((labels[::-1], True), (labels > 0, False)):
        model = KNeighborsClassifier(3).fit(rows, np.column_stack([labels, second]))
        skops.io.dump(model, tmp_path / "model.skops")
        (tmp_path / SETTINGS_FILE).write_text('{"output": "predict_proba"}')
        types = tuple(skops.io.get_untrusted_types(file=tmp_path / "model.skops"))
        runtime = open_model(tmp_path, Trust(types=types))
        if fits:
            got = runtime.predict({"x": rows})["output-0"]
            np.testing.assert_array_equal(got, np.stack(model.predict_proba(rows), axis=1))
            assert runtime.outputs[0].shape == (-1, 2, 3)
        else:
            with pytest.raises(PredictionFailed, match=r"different numbers of classes .*\[1, 3\], \[1, 2\]"):
                runtime.predict({"x": rows[:1]})


def test_sparse_answers_are_filled(tmp_path: Path) -> None:
    """An estimator of several labels that answers with a sparse matrix is served its numbers."""
    rows, labels = iris()
    targets = scipy.sparse.csr_matrix(np.eye(3, dtype=int)[labels])
    model = OneVsRestClassifier(LogisticRegression()).fit(rows, targets)
    skops.io.dump(model, tmp_path / "model.skops")
    types = tuple(skops.io.get_untrusted_types(file=tmp_path / "model.skops"))

    np.testing.assert_array_equal(
        open_model(tmp_path, Trust(types=types)).predict({"x": rows})["output-0"], model.predict(rows).toarray()
    )


def test_only_what_is_known_runs_on_the_event_loop(tmp_path: Path) -> None:
    """A function of a user's may wait for a file or a network, however little it computes."""
    rows, labels = iris()
    found = {}
    for name, function in {"own": _doubled, "known": np.abs}.items():
        (tmp_path / name).mkdir()
        model = make_pipeline(FunctionTransformer(function), LogisticRegression(max_iter=1000)).fit(rows, labels)
        joblib.dump(model, tmp_path / name / "model.joblib")
        found[name] = open_model(tmp_path / name, Trust(code=True)).computes

    assert found == {"own": False, "known": True}
