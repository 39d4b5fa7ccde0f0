"""Columns of V1 rows and V2 tensors: which shapes of JSON become which columns, and what becomes none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.columns import Column, arrow, field_of, of_rows, of_tensors
from inference.protocol.errors import MalformedBody, ProtocolError
from inference.protocol.tensors import Tensor
from tests.inference.protocol.drawn import tensors

_SCALARS = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(max_size=3)
)
_JSON = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=10,
)


def listed(rows: list[Any]) -> dict[str, Any]:
    """Give the columns of V1 rows as Python values."""
    columns, count = of_rows("in.", "instances", rows)
    assert count == len(rows)
    return {name: arrow([column]).to_pylist() for name, column in columns.items()}


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([[1, 2.5], [3, 4]], {"in.instances": [[1.0, 2.5], [3.0, 4.0]]}),
        ([[1, None], [3, 4]], {"in.instances": [[1.0, None], [3.0, 4.0]]}),
        ([[[1, 2], [3, 4]]], {"in.instances": [[1.0, 2.0, 3.0, 4.0]]}),
        ([[True, False]], {"in.instances": [[True, False]]}),
        ([1, 2.5, None], {"in.instances": [1.0, 2.5, None]}),
        (["a", None], {"in.instances": ["a", None]}),
        ([True, False], {"in.instances": [True, False]}),
        ([None, None], {"in.instances": [None, None]}),
        ([[41, "nurse", True], [25.5, None, False]],
         {"in.instances.0": [41.0, 25.5], "in.instances.1": ["nurse", None], "in.instances.2": [True, False]}),
        ([["1.5", "2"]], {"in.instances.0": ["1.5"], "in.instances.1": ["2"]}),
        ([[1, True]], {"in.instances.0": [1.0], "in.instances.1": [True]}),
        ([["a", [1, 2]], ["b", [3, 4]]], {"in.instances.0": ["a", "b"], "in.instances.1": [[1.0, 2.0], [3.0, 4.0]]}),
        ([[[1, 2], [3]]], {"in.instances.0": [[1.0, 2.0]], "in.instances.1": [[3.0]]}),
        ([{"age": 41, "job": "nurse"}, {"job": None, "age": 25}], {"in.age": [41.0, 25.0], "in.job": ["nurse", None]}),
        ([{"image": [[1, 2], [3, 4]], "": 1}], {"in.image": [[1.0, 2.0, 3.0, 4.0]], "in.": [1.0]}),
        ([2**64 - 1, -(2**63)], {"in.instances": [1.8446744073709552e19, -9.223372036854775808e18]}),
    ],
)  # fmt: skip
def test_rows_become_columns(rows: list[Any], expected: dict[str, Any]) -> None:
    """Numbers as one vector, mixed lists by position, objects by key, null as missing; texts never become numbers."""
    assert listed(rows) == expected


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "instances: expected at least one row, got none"),
        ([[1, 2], [3]], r"instances: expected rows of one length above 0, got lengths \[1, 2\]"),
        ([[], []], r"got lengths \[0\]"),
        ([[1, 2], 3], "instances: expected numbers, texts, booleans or lists of one shape, got int, list"),
        (
            [{"a": 1}, {"b": 1}],
            r"instances\[1\]: expected the keys of the first row; only one of them has \['a', 'b'\]",
        ),
        ([{}, {}], "instances: expected objects with keys"),
        ([{"a": {"b": 1}}], "instances.a: expected numbers, texts, booleans or lists of one shape, got dict"),
        ([1, "a"], "instances: expected numbers.*got int, str"),
        ([[1, "a"], [True, "b"]], r"instances\[...\]\[0\]: expected numbers.*got bool, int"),
    ],
)
def test_rows_that_make_no_columns_are_refused(rows: list[Any], message: str) -> None:
    """The message says which rows, expected and got."""
    with pytest.raises(MalformedBody, match=message):
        listed(rows)


@given(st.lists(_JSON, max_size=4))
def test_any_rows_are_columns_or_our_error(rows: list[Any]) -> None:
    """Whatever JSON is sent: every column has a value for each row, or the rows are refused."""
    try:
        columns, count = of_rows("in.", "instances", rows)
    except ProtocolError:
        return

    assert columns
    assert {len(arrow([column])) for column in columns.values()} == {count}
    assert {arrow([column]).type == field_of(name, column).type for name, column in columns.items()} == {True}


def test_one_long_text_does_not_swell_the_others() -> None:
    """A text beside numbers is not padded into every cell: a small body must not become gigabytes."""
    rows: list[Any] = [["x" * 1_000_000, 1]] + [["y", 1]] * 10_000
    columns, _ = of_rows("in.", "instances", rows)

    assert sum(column.nbytes for column in columns.values()) < 1_300_000


@given(tensor=tensors(), again=st.integers(1, 3))
def test_tensors_become_columns(tensor: Tensor, again: int) -> None:
    """Every datatype and shape: one value or one flat list for each row, calls one after the other."""
    if not tensor.data.size:
        with pytest.raises(MalformedBody, match="no values"):
            of_tensors("in.", [tensor])
        return
    columns, rows = of_tensors("in.", [tensor])
    ((name, column),) = columns.items()
    array = arrow([column] * again)

    assert name == f"in.{tensor.name}"
    assert (len(array), rows) == (rows * again, tensor.shape[0] if tensor.shape else 1)
    assert array.type == field_of(name, column).type
    flat = array.flatten() if column.shape else array
    assert len(flat) == tensor.data.size * again
    if tensor.datatype not in {"BYTES", "BOOL"}:
        np.testing.assert_array_equal(flat.to_numpy()[: tensor.data.size], tensor.data.ravel().astype(column.kind))


def test_tensors_of_higher_rank_say_their_shape() -> None:
    """The values of a row are flat; the field's metadata has the shape. A column vector is one value for each row."""
    columns, _ = of_tensors("in.", [Tensor.of("image", np.zeros((2, 3, 4))), Tensor.of("age", np.zeros((2, 1)))])
    image = field_of("in.image", columns["in.image"])

    assert image.type == pa.list_(pa.float64(), 12)
    assert image.metadata == {b"shape": b"[3, 4]"}
    assert field_of("in.age", columns["in.age"]) == pa.field("in.age", pa.float64())


def test_text_tensors_are_text_where_they_can_be() -> None:
    """BYTES that are UTF-8 become text, others stay bytes."""
    columns, _ = of_tensors("in.", [Tensor.of("a", np.array(["é"])), Tensor.of("b", np.array([b"\xff"]))])

    assert [(column.kind, column.values) for column in columns.values()] == [("text", ["é"]), ("binary", [b"\xff"])]


def test_tensors_have_one_number_of_rows() -> None:
    """Tensors of different first dimensions are refused with their shapes; empty ones beside full ones do not count."""
    one, two = Tensor.of("a", np.zeros((1, 2))), Tensor.of("b", np.zeros((2, 2)))
    with pytest.raises(MalformedBody, match=r"tensors: expected one number of rows, got 'a' \[1, 2\], 'b' \[2, 2\]"):
        of_tensors("in.", [one, two])

    assert of_tensors("in.", [one, Tensor.of("none", np.zeros((9, 0)))])[1] == 1


def test_rows_without_values_are_no_rows() -> None:
    """A shape may promise two thousand million rows of nothing; nothing is built for them."""
    tensor = Tensor(name="a", datatype="FP32", shape=(1 << 31, 0), data=np.zeros((1 << 31, 0), "<f4"))
    with pytest.raises(MalformedBody, match="no values"):
        of_tensors("in.", [tensor])


def test_missing_numbers_are_null_and_nan_stays() -> None:
    """JSON's null is missing; a binary tensor's NaN is what the model was sent."""
    missing = Column("<f8", (), np.array([1.0, np.nan]), nullable=True)
    sent = Column("<f8", (), np.array([1.0, np.nan]))

    assert arrow([missing]).null_count == 1
    assert arrow([sent]).null_count == 0
