"""Arrays to a device and back, on the CPU; what a GPU adds stands in `tests/inference/runtimes/test_torch.py`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis.extra.numpy import array_shapes, arrays, floating_dtypes, integer_dtypes
from hypothesis.strategies import just
from numpy.typing import NDArray

from inference.pytorch.devices import Place, automatic, find, full, used

_DTYPES = integer_dtypes(endianness="<") | floating_dtypes(endianness="<", sizes=(16, 32, 64)) | just(np.dtype("?"))


@given(arrays(_DTYPES, array_shapes(min_side=0)))
def test_arrays_come_back_unchanged(array: NDArray[Any]) -> None:
    """Every number type and shape goes there and back, also from memory that must not be written."""
    array.flags.writeable = False
    place = Place(torch.device("cpu"))
    with place.turn():
        tensor = place.put(array, None)
        (back,) = place.get({"x": tensor}).values()

    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)


def test_views_of_any_order_are_taken() -> None:
    """A transposed or strided array is copied by its values, not by its memory."""
    place = Place(torch.device("cpu"))
    array = np.arange(24).reshape(2, 3, 4).transpose(2, 0, 1)[::2]

    assert place.put(array, torch.float32).tolist() == array.tolist()


def test_no_gradients_are_kept() -> None:
    """What is computed in a turn remembers nothing of how."""
    weight = torch.ones(2, requires_grad=True)
    with Place(torch.device("cpu")).turn():
        assert not (weight * 2).requires_grad


def test_the_full_device_is_the_one_that_the_error_names() -> None:
    """A model over several devices may find any of them full; an error that names none is of the model's own."""
    said = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 3 has a total capacity of 139.72 GiB."

    assert full(said, torch.device("cuda", 0)) == "cuda:3"
    assert full("CUDA error: out of memory", torch.device("cuda", 1)) == "cuda:1"


def test_a_model_on_the_cpu_uses_no_gpu() -> None:
    """Its weights are the process's."""
    assert used(torch.nn.Linear(2, 2)) == set()


def test_a_process_takes_the_gpu_of_its_number() -> None:
    """Counted among those that there are, however many; the CPU where there are none."""
    assert automatic(1, 4) == torch.device("cuda", 1)
    assert automatic(5, 4) == torch.device("cuda", 1)
    assert automatic(1, 0) == torch.device("cpu")
    assert find("cpu", 3) == torch.device("cpu")


def test_device_names() -> None:
    """`auto` is a GPU where there is one, else the CPU; a GPU that is not there is an error that counts them."""
    assert find("cpu") == torch.device("cpu")
    assert find("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    for name in ("cuda:99", "cuda:x", "tpu", "cpu:0", ""):
        with pytest.raises(ValueError, match=r"CUDA devices|expected auto, cpu or cuda:N"):
            find(name)
