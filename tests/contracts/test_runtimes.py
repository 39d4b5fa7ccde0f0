"""What every runtime promises. A new file in `inference/runtimes/` is found and tested without a change here."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from inference.directory import open_model
from inference.errors import InvalidInput, ModelLoadFailed, UnsafeFormat
from inference.protocol.tensors import Tensor
from inference.runtime import RUNTIMES, Runtime
from inference.settings import Trust
from streams.errors import MissingExtra


@dataclass(frozen=True, slots=True)
class Example:
    """A runtime's own example, loaded."""

    kind: type[Runtime]
    directory: Path
    runtime: Runtime
    inputs: dict[str, NDArray[Any]]


def _open(kind: type[Runtime], directory: Path, trust: Trust) -> Runtime:
    # A runtime without endings is never guessed from a file.
    return open_model(directory, trust, None if kind.suffixes else f"{kind.__module__}:{kind.__name__}")


@pytest.fixture(name="example", params=RUNTIMES.names(), scope="module")
def _example(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Example]:
    directory = tmp_path_factory.mktemp(request.param)
    try:
        kind = RUNTIMES.find(request.param)
        inputs = kind.example(directory)
    except MissingExtra as exc:
        pytest.skip(str(exc))
    for array in inputs.values():
        array.flags.writeable = False  # tensors from the wire are views of the body
    runtime = _open(kind, directory, Trust(code=kind.runs_code))
    yield Example(kind, directory, runtime, inputs)
    runtime.unload()


def _rows(inputs: dict[str, NDArray[Any]], rows: slice) -> dict[str, NDArray[Any]]:
    return {name: array[rows] for name, array in inputs.items()}


def _assert_close(one: NDArray[Any], other: NDArray[Any]) -> None:
    """Hold floats to their rounding: a matrix product may sum in another order when it has other rows."""
    if one.dtype.kind == "f":
        np.testing.assert_allclose(one, other, rtol=64 * float(np.finfo(one.dtype).eps))
    else:
        np.testing.assert_array_equal(one, other)


def test_code_runs_only_when_trusted(example: Example) -> None:
    """A runtime's own example is saved in a format that cannot run code; where there is none, it needs trust."""
    assert example.runtime.platform
    if not example.kind.runs_code:
        assert _open(example.kind, example.directory, Trust()).platform
        return
    with pytest.raises(UnsafeFormat, match="--trusted"):
        _open(example.kind, example.directory, Trust())


def test_one_prediction_per_row(example: Example) -> None:
    """Every output has as many rows as the input, and batches predict what their rows predict alone."""
    count = len(next(iter(example.inputs.values())))
    whole = example.runtime.predict(example.inputs)
    single = [example.runtime.predict(_rows(example.inputs, slice(at, at + 1))) for at in range(0, count, 7)]

    for name, array in whole.items():
        assert len(array) == count
        _assert_close(array[::7], np.concatenate([outputs[name] for outputs in single]))


def test_input_is_unchanged(example: Example) -> None:
    """Predicting does not write into the caller's arrays."""
    runtime, inputs = example.runtime, example.inputs
    writable = {name: array.copy() for name, array in inputs.items()}
    runtime.predict(writable)

    for name, array in inputs.items():
        np.testing.assert_array_equal(array, writable[name])


def test_metadata_matches_predictions(example: Example) -> None:
    """The described tensors are the ones that the model takes and gives."""
    runtime, inputs = example.runtime, example.inputs
    outputs = runtime.predict(inputs)

    assert {spec.name for spec in runtime.inputs} == set(inputs)
    assert {spec.name for spec in runtime.outputs} == set(outputs)
    for spec in runtime.inputs:
        assert inputs[spec.name].shape[1:] == spec.shape[1:]
    for spec in runtime.outputs:
        assert outputs[spec.name].shape[1:] == spec.shape[1:]
        assert Tensor.of(spec.name, outputs[spec.name]).datatype == spec.datatype


def test_loading_twice_gives_the_same_model(example: Example) -> None:
    """Two loads of one directory predict the same, bit by bit."""
    runtime, inputs = example.runtime, example.inputs
    second = _open(example.kind, example.directory, Trust(code=example.kind.runs_code))
    again = second.predict(inputs)
    second.unload()

    for name, array in runtime.predict(inputs).items():
        np.testing.assert_array_equal(array, again[name])


def test_threads_get_their_own_answers(example: Example) -> None:
    """A runtime that calls itself thread-safe answers concurrent calls as it answers one after the other."""
    runtime, inputs = example.runtime, example.inputs
    if not runtime.thread_safe:
        pytest.skip("declares itself not thread-safe")
    slices = [slice(start, start + 1 + start % 5) for start in range(0, 60, 2)] * 5
    expected = [runtime.predict(_rows(inputs, rows)) for rows in slices]
    with ThreadPoolExecutor(8) as threads:
        got = list(threads.map(lambda rows: runtime.predict(_rows(inputs, rows)), slices))

    for one, other in zip(expected, got, strict=True):
        for name, array in one.items():
            np.testing.assert_array_equal(array, other[name])


def test_unloaded_models_can_be_loaded_again(example: Example) -> None:
    """Unloading lets go of one load, not of the file or of others' loads."""
    trust = Trust(code=example.kind.runs_code)
    first = _open(example.kind, example.directory, trust)
    first.predict(example.inputs)
    first.unload()
    second = _open(example.kind, example.directory, trust)
    again = second.predict(example.inputs)
    second.unload()

    for name, array in example.runtime.predict(example.inputs).items():
        np.testing.assert_array_equal(array, again[name])


def test_joined_calls_get_what_they_get_alone(example: Example) -> None:
    """A runtime whose calls may be joined predicts the same for rows of one batch, wherever they lie in it."""
    runtime, inputs = example.runtime, example.inputs
    if runtime.max_batch == 1:
        pytest.skip("is never joined")
    turned = runtime.predict({name: np.concatenate([array[40:], array[:40]]) for name, array in inputs.items()})

    for name, array in runtime.predict(inputs).items():
        _assert_close(np.concatenate([turned[name][-40:], turned[name][:-40]]), array)


@pytest.mark.parametrize("shape", [(3, 1), (3, 99), (3,), (2, 2, 2)])
def test_wrong_shapes_are_refused(example: Example, shape: tuple[int, ...]) -> None:
    """A shape that the model does not take is the caller's mistake, named with expected and got."""
    runtime, inputs = example.runtime, example.inputs

    with pytest.raises(InvalidInput, match="expected shape"):
        runtime.predict({next(iter(inputs)): np.zeros(shape)})


def test_no_rows_are_refused(example: Example) -> None:
    """An empty call is refused instead of predicting on nothing."""
    runtime, inputs = example.runtime, example.inputs

    with pytest.raises(InvalidInput, match="at least one row"):
        runtime.predict(_rows(inputs, slice(0, 0)))


def test_no_inputs_are_refused(example: Example) -> None:
    """A call without any tensor is refused."""
    with pytest.raises(InvalidInput, match="at least one"):
        example.runtime.predict({})


@pytest.mark.parametrize("damage", ["cut", "noise", "empty"])
def test_damaged_files_are_refused(example: Example, tmp_path: Path, damage: str) -> None:
    """A damaged model file is refused at load, with the file's name."""
    folder = tmp_path / "model"
    shutil.copytree(example.directory, folder)
    good = max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    content = good.read_bytes()
    good.write_bytes({"cut": content[: len(content) // 3], "noise": b"\x93\x01\xfe" * 300, "empty": b""}[damage])

    with pytest.raises(ModelLoadFailed, match=good.name):
        _open(example.kind, folder, Trust(code=example.kind.runs_code))
