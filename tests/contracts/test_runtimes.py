"""What every runtime promises. A new file in `inference/runtimes/` is found and tested without a change here."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from inference.directory import open_model
from inference.errors import InvalidInput, ModelLoadFailed
from inference.protocol.tensors import Tensor
from inference.runtime import RUNTIMES, Runtime
from inference.settings import Trust

Example = tuple[Path, Runtime, dict[str, NDArray[Any]]]


@pytest.fixture(name="example", params=RUNTIMES.names(), scope="module")
def _example(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Example:
    directory = tmp_path_factory.mktemp(request.param)
    inputs = RUNTIMES.find(request.param).example(directory)
    for array in inputs.values():
        array.flags.writeable = False  # tensors from the wire are views of the body
    return directory, open_model(directory, Trust()), inputs


def _rows(inputs: dict[str, NDArray[Any]], rows: slice) -> dict[str, NDArray[Any]]:
    return {name: array[rows] for name, array in inputs.items()}


def test_example_loads_without_trust(example: Example) -> None:
    """A runtime's own example is saved in a format that cannot run code."""
    directory, runtime, _ = example

    assert len(list(directory.iterdir())) == 1
    assert runtime.platform


def test_one_prediction_per_row(example: Example) -> None:
    """Every output has as many rows as the input, and batches predict what their rows predict alone."""
    _, runtime, inputs = example
    count = len(next(iter(inputs.values())))
    whole = runtime.predict(inputs)
    single = [runtime.predict(_rows(inputs, slice(index, index + 1))) for index in range(0, count, 7)]

    for name, array in whole.items():
        assert len(array) == count
        np.testing.assert_array_equal(array[::7], np.concatenate([outputs[name] for outputs in single]))


def test_input_is_unchanged(example: Example) -> None:
    """Predicting does not write into the caller's arrays."""
    _, runtime, inputs = example
    writable = {name: array.copy() for name, array in inputs.items()}
    runtime.predict(writable)

    for name, array in inputs.items():
        np.testing.assert_array_equal(array, writable[name])


def test_metadata_matches_predictions(example: Example) -> None:
    """The described tensors are the ones that the model takes and gives."""
    _, runtime, inputs = example
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
    directory, runtime, inputs = example
    again = open_model(directory, Trust()).predict(inputs)

    for name, array in runtime.predict(inputs).items():
        np.testing.assert_array_equal(array, again[name])


def test_threads_get_their_own_answers(example: Example) -> None:
    """A runtime that calls itself thread-safe answers concurrent calls as it answers one after the other."""
    _, runtime, inputs = example
    if not runtime.thread_safe:
        pytest.skip("declares itself not thread-safe")
    slices = [slice(start, start + 1 + start % 5) for start in range(0, 60, 2)] * 5
    expected = [runtime.predict(_rows(inputs, rows)) for rows in slices]
    with ThreadPoolExecutor(8) as threads:
        got = list(threads.map(lambda rows: runtime.predict(_rows(inputs, rows)), slices))

    for one, other in zip(expected, got, strict=True):
        for name, array in one.items():
            np.testing.assert_array_equal(array, other[name])


@pytest.mark.parametrize("shape", [(3, 1), (3, 99), (3,), (2, 2, 2)])
def test_wrong_shapes_are_refused(example: Example, shape: tuple[int, ...]) -> None:
    """A shape that the model does not take is the caller's mistake, named with expected and got."""
    _, runtime, inputs = example

    with pytest.raises(InvalidInput, match="expected shape"):
        runtime.predict({next(iter(inputs)): np.zeros(shape)})


def test_no_rows_are_refused(example: Example) -> None:
    """An empty call is refused instead of predicting on nothing."""
    _, runtime, inputs = example

    with pytest.raises(InvalidInput, match="at least one row"):
        runtime.predict(_rows(inputs, slice(0, 0)))


def test_no_inputs_are_refused(example: Example) -> None:
    """A call without any tensor is refused."""
    _, runtime, _ = example

    with pytest.raises(InvalidInput, match="at least one"):
        runtime.predict({})


@pytest.mark.parametrize("damage", ["cut", "noise", "empty"])
def test_damaged_files_are_refused(example: Example, tmp_path: Path, damage: str) -> None:
    """A damaged model file is refused at load, with the file's name."""
    directory, _, _ = example
    (good,) = directory.iterdir()
    content = good.read_bytes()
    bad = {"cut": content[: len(content) // 3], "noise": b"\x93\x01\xfe" * 300, "empty": b""}[damage]
    (tmp_path / good.name).write_bytes(bad)

    with pytest.raises(ModelLoadFailed, match=good.name):
        open_model(tmp_path, Trust())
