"""Callers' arrays to a model's declared tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays, integer_dtypes
from numpy.typing import NDArray

from inference.errors import InvalidInput, ModelLoadFailed
from inference.runtime import ANY, TensorSpec
from inference.settings import ModelSettings
from inference.signature import Signature, Wanted, chosen

_MATRIX = Wanted("x", "FP32", (ANY, 2))
_PLAIN = ModelSettings()


def _fit(wanted: list[Wanted], inputs: dict[str, Any], settings: ModelSettings = _PLAIN) -> dict[str, NDArray[Any]]:
    return Signature(wanted, settings).fit({name: np.asarray(value) for name, value in inputs.items()})


def test_one_input_takes_any_name() -> None:
    """V1 calls its instances `instances`; a model of one input takes them whatever it calls its own."""
    fitted = _fit([_MATRIX], {"instances": [[1, 2], [3, 4]]})

    assert list(fitted) == ["x"]
    assert fitted["x"].dtype == np.float32
    assert fitted["x"].tolist() == [[1.0, 2.0], [3.0, 4.0]]


def test_columns_by_name_make_the_only_matrix() -> None:
    """With `features` in the settings, a model of one matrix takes columns by name, in any order."""
    settings = ModelSettings(features=("a", "b"))

    assert _fit([_MATRIX], {"b": [2, 4], "a": [1, 3]}, settings)["x"].tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert _fit([_MATRIX], {"instances": [[1, 2]]}, settings)["x"].tolist() == [[1.0, 2.0]]
    assert Signature([_MATRIX], settings).features() == ("a", "b")
    assert Signature([_MATRIX, Wanted("y")], settings).features() == ()
    with pytest.raises(InvalidInput, match=r"missing \['b'\], unknown \['c'\]"):
        _fit([_MATRIX], {"a": [1], "c": [2]}, settings)
    with pytest.raises(ModelLoadFailed, match="the model takes 2 columns, 3 are named"):
        Signature([_MATRIX], ModelSettings(features=("a", "b", "c")))


def test_several_inputs_come_by_name() -> None:
    """Several inputs are told apart by name alone, and given in the model's order."""
    wanted = [Wanted("a", "INT64", (ANY,)), Wanted("b", "FP64", (ANY, 1))]
    fitted = _fit(wanted, {"b": [0.5, 1.5], "a": [[1], [2]]})

    assert [(name, array.shape, str(array.dtype)) for name, array in fitted.items()] == [
        ("a", (2,), "int64"), ("b", (2, 1), "float64"),
    ]  # fmt: skip
    with pytest.raises(InvalidInput, match=r"missing \['a', 'b'\], unknown \['instances'\]; expected \['a', 'b'\]"):
        _fit(wanted, {"instances": [[1, 2]]})
    with pytest.raises(InvalidInput, match=r"as many rows in each, got {'a': 2, 'b': 1}"):
        _fit(wanted, {"a": [1, 2], "b": [0.5]})


@pytest.mark.parametrize(
    ("shape", "got", "says"),
    [
        ((ANY, 2), (3, 3), r"expected shape \[rows, 2\], got \[3, 3\]"),
        ((ANY, 2), (2,), r"expected shape \[rows, 2\], got \[2\]"),
        ((ANY, ANY, 4), (1, 4), r"expected shape \[rows, any, 4\], got \[1, 4\]"),
        ((1, 2), (2, 2), r"expected shape \[1, 2\], got \[2, 2\]"),
        ((ANY, 2), (0, 2), "expected at least one row"),
    ],
)
def test_wrong_shapes_are_refused(shape: tuple[int, ...], got: tuple[int, ...], says: str) -> None:
    """A shape that the model does not declare is refused, whatever the model would have done with it."""
    with pytest.raises(InvalidInput, match=says):
        _fit([Wanted("x", "FP32", shape)], {"x": np.zeros(got)})


@pytest.mark.parametrize(
    ("datatype", "values", "says"),
    [
        ("INT64", [1.5], "1.5 does not fit INT64"),
        ("INT8", [300], "300 does not fit INT8"),
        ("UINT8", [-1], "-1 does not fit UINT8"),
        ("INT64", [float("nan")], "nan does not fit INT64"),
        ("FP32", [1e300], r"1e\+300 does not fit FP32"),
        ("FP16", [70000], "70000 does not fit FP16"),
        ("BOOL", [2], "2 does not fit BOOL"),
        ("FP32", np.array(["a"], object), "expected FP32, got text"),
        ("BYTES", [1], r"expected text \(BYTES\), got int64"),
    ],
)
def test_values_that_would_change_are_refused(datatype: str, values: Any, says: str) -> None:  # noqa: ANN401 - any
    """A number that the model's type cannot hold is the caller's mistake, never silently another number."""
    with pytest.raises(InvalidInput, match=says):
        _fit([Wanted("x", datatype, (ANY,))], {"x": values})


@given(arrays(integer_dtypes(endianness="<") | st.just(np.dtype("<f8")), 3), st.sampled_from(["INT16", "UINT64"]))
def test_whole_numbers_keep_their_value(array: NDArray[Any], datatype: str) -> None:
    """Whatever is converted to whole numbers is the same number afterwards; anything else is refused."""
    try:
        fitted = _fit([Wanted("x", datatype, (ANY,))], {"x": array})["x"]
    except InvalidInput:
        bounds = np.iinfo(fitted_dtype(datatype))

        assert any(value != value or value % 1 or not bounds.min <= value <= bounds.max for value in array.tolist())  # noqa: PLR0124 - NaN
        return

    assert fitted.tolist() == [int(value) for value in array.tolist()]


def fitted_dtype(datatype: str) -> np.dtype[Any]:
    """Give the dtype that carries a datatype."""
    return np.dtype({"INT16": np.int16, "UINT64": np.uint64}[datatype])


def test_missing_values_stay_missing() -> None:
    """NaN and infinities are values of their own to a floating-point model."""
    fitted = _fit([Wanted("x", "FP32", (ANY,))], {"x": [float("nan"), float("inf"), 1.0]})["x"]

    np.testing.assert_array_equal(fitted, np.array([np.nan, np.inf, 1], np.float32))


def test_undeclared_inputs_pass() -> None:
    """What a model does not say about its inputs is not checked, nor described."""
    signature = Signature([Wanted("a"), Wanted("b")], _PLAIN)
    array = np.zeros((2, 3), np.int8)

    assert signature.fit({"b": array, "a": array})["b"] is array
    assert signature.specs() == ()
    assert Signature([_MATRIX], _PLAIN).specs() == (TensorSpec("x", "FP32", (ANY, 2)),)


@pytest.mark.parametrize(
    ("shapes", "joins"), [([(ANY, 2)], True), ([(1, 2)], False), ([(ANY,), (4,)], False), ([], False)]
)
def test_only_free_rows_are_joined(shapes: list[tuple[int, ...]], joins: bool) -> None:  # noqa: FBT001 - a parameter
    """Calls may be joined where the callers choose the number of rows of every input."""
    wanted = [Wanted(f"x{at}", "FP32", shape) for at, shape in enumerate(shapes)]

    assert Signature(wanted, _PLAIN).joins() is joins


def test_chosen_outputs() -> None:
    """All outputs are served under their own names, or the one that is named, under another name if wanted."""
    assert chosen(["a", "b"], _PLAIN, "m") == {"a": "a", "b": "b"}
    assert chosen(["a", "b"], ModelSettings(output="b"), "m") == {"b": "b"}
    assert chosen(["a", "b"], ModelSettings(output="b", output_name="score"), "m") == {"b": "score"}
    with pytest.raises(ModelLoadFailed, match="m: output: expected one of a, b, got 'c'"):
        chosen(["a", "b"], ModelSettings(output="c"), "m")
    with pytest.raises(ModelLoadFailed, match="output_name: the model has several: a, b"):
        chosen(["a", "b"], ModelSettings(output_name="score"), "m")
