"""Joining and splitting: what a model without memory answers to a batch is what it would answer to each call."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes

from inference.protocol import v2 as reference
from inference.protocol.datatypes import NUMPY
from inference.protocol.tensors import Tensor
from logger.batching.parts import Part
from logger.batching.v1 import V1
from logger.batching.v2 import V2
from tests.inference.protocol.drawn import _data

SCALARS = st.one_of(st.booleans(), st.integers(-(2**53), 2**53), st.floats(allow_nan=False), st.text(max_size=4))
COLUMNS = st.sampled_from([st.booleans(), st.integers(-9, 9), st.floats(-9, 9), st.text(max_size=3), st.none()])
V1_CALLS = st.lists(
    st.one_of(
        st.lists(st.lists(st.floats(-1, 1), min_size=2, max_size=2), min_size=1, max_size=3),
        st.lists(st.tuples(st.integers(-9, 9), st.text(max_size=3)).map(list), min_size=1, max_size=3),
        st.lists(st.fixed_dictionaries({"a": st.integers(0, 9), "b": SCALARS}), min_size=1, max_size=3),
        st.lists(SCALARS, min_size=1, max_size=3),
    ),
    min_size=1, max_size=6,
)  # fmt: skip


def typed(rows: list[Any]) -> list[Any]:
    """Be a model that makes a table of its rows: each column has one type, and the answer shows it."""
    return [repr(row) for row in _table(rows)]


def _table(rows: list[Any]) -> list[Any]:
    if all(isinstance(row, list) for row in rows) and len({len(row) for row in rows}) == 1:
        return [list(row) for row in zip(*(_table(list(column)) for column in zip(*rows, strict=True)), strict=True)]
    if all(isinstance(row, dict) for row in rows):
        columns = {name: _table([row[name] for row in rows]) for name in rows[0]}
        return [{name: column[index] for name, column in columns.items()} for index in range(len(rows))]
    kinds = {type(row) for row in rows}
    return [float(row) for row in rows] if kinds == {int, float} else rows


@given(V1_CALLS)
def test_v1_batches_answer_as_single_calls(calls: list[list[Any]]) -> None:
    """Whatever the rows: calls of equal keys, joined, get from a model that types its columns what each gets alone."""
    groups: dict[object, list[tuple[Part, list[Any]]]] = {}
    for rows in calls:
        part = V1().read(json.dumps({"instances": rows}).encode(), None)
        if part is not None:
            groups.setdefault(part.key, []).append((part, rows))
    for members in groups.values():
        parts = [part for part, _ in members]
        body, _ = V1().join(parts)
        answer = json.dumps({"predictions": typed(json.loads(body)["instances"])}).encode()
        found = V1().split(answer, None, parts)

        assert found is not None
        for (own, _), (_, rows) in zip(found, members, strict=True):
            assert json.loads(own) == {"predictions": typed(rows)}


def v1_key(body: str) -> object:
    """Give a V1 call's key; None when it goes by itself."""
    part = V1().read(body.encode(), None)
    return None if part is None else part.key


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ('{"instances": [[1, 2]]}', '{"instances": [[1, 2, 3]]}'),
        ('{"instances": [[1, 2]]}', '{"instances": [[1, 2.5]]}'),
        ('{"instances": [[1, 2]]}', '{"instances": [[1, "2"]]}'),
        ('{"instances": [[1, 2]]}', '{"instances": [[1, true]]}'),
        ('{"instances": [[[1], [2]]]}', '{"instances": [[[1, 2]]]}'),
        ('{"instances": [{"a": 1}]}', '{"instances": [{"b": 1}]}'),
        ('{"instances": [{"a": 1, "b": 2}]}', '{"instances": [{"b": 2, "a": 1}]}'),
        ('{"instances": [[1]]}', '{"instances": [[1]], "parameters": {"temperature": 1}}'),
    ],
)
def test_v1_calls_that_differ_stay_apart(one: str, other: str) -> None:
    """Other widths, types, names, parameters: no batch."""
    assert v1_key(one) is not None
    assert v1_key(other) is not None
    assert v1_key(one) != v1_key(other)


@pytest.mark.parametrize(
    "body",
    [
        "", "nonsense", "[]", "{}", '{"instances": []}', '{"instances": 3}', '{"inputs": [[1]]}',
        '{"instances": [[1], [1, 2]]}', '{"instances": [[1], 2]}', '{"instances": [{"a": 1}, {"b": 1}]}',
        '{"instances": [[NaN]]}', '{"instances": [[123456789012345678901]]}',
    ],
)  # fmt: skip
def test_v1_calls_that_go_by_themselves(body: str) -> None:
    """What is no V1 call, has rows of several shapes, or numbers that would not come out of JSON again."""
    assert V1().read(body.encode(), None) is None


@pytest.mark.parametrize(
    "answer",
    [
        b"", b"[]", b"{}", b'{"predictions": 3}', b'{"predictions": [1]}', b'{"predictions": [1, 2, 3]}',
        b'{"predictions": {"a": [1, 2]}}', b'{"predictions": [1, 2], "explanations": [1, 2]}',
        b'{"predictions": [NaN, 2]}', b'{"predictions": [1, 123456789012345678901]}',
    ],
)  # fmt: skip
def test_v1_answers_that_cannot_be_split(answer: bytes) -> None:
    """Not one prediction for each row, or something beside them that may belong to the rows."""
    part = V1().read(b'{"instances": [[1]]}', None)
    assert part is not None
    assert V1().split(answer, None, [part, part]) is None


def test_v1_words_beside_the_predictions_go_to_all() -> None:
    """A model's name or version stands in every answer."""
    part = V1().read(b'{"instances": [[1]]}', None)
    assert part is not None
    found = V1().split(b'{"model_version": "3", "predictions": [1, 2]}', None, [part, part])

    assert found == [
        (b'{"model_version":"3","predictions":[1]}', None), (b'{"model_version":"3","predictions":[2]}', None),
    ]  # fmt: skip


def turned(rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Turn the last axis round, but never the rows."""
    return rows[..., ::-1] if rows.ndim > 1 else rows


def reversed_rows(request: reference.InferRequest, *, binary: bool) -> tuple[bytes, int | None]:
    """Be a V2 model: give every input back with its last axis turned round, and the id that came."""
    outputs = tuple(
        Tensor(name=f"out-{item.name}", datatype=item.datatype, shape=item.shape, data=turned(item.data))
        for item in request.inputs
    )
    answer = reference.InferResponse(model_name="m", model_version="1", id=request.id, outputs=outputs)
    return reference.encode_response(answer, lambda _name: binary)


@st.composite
def similar(draw: st.DrawFn, *, json_only: bool) -> list[reference.InferRequest]:
    """Draw calls of one or two kinds: the same tensors, of different numbers of rows."""
    found = []
    for _ in range(draw(st.integers(1, 2))):
        types = [name for name in NUMPY if not (json_only and name in {"FP16", "BF16"})]
        heads = draw(
            st.lists(st.tuples(st.sampled_from(types), array_shapes(min_dims=0, max_dims=2)), min_size=1, max_size=2)
        )
        for _ in range(draw(st.integers(1, 4))):
            rows = draw(st.integers(1, 3))
            inputs = tuple(
                Tensor(
                    name=f"x{index}",
                    datatype=name,
                    shape=(rows, *tail),
                    data=draw(_data(name, (rows, *tail), json=json_only)),
                )
                for index, (name, tail) in enumerate(heads)
            )
            found.append(reference.InferRequest(inputs=inputs, id=draw(st.one_of(st.none(), st.text(max_size=3)))))
    return found


@given(st.data(), st.booleans(), st.booleans())
def test_v2_batches_answer_as_single_calls(data: st.DataObject, binary_in: bool, binary_out: bool) -> None:  # noqa: FBT001 - drawn
    """Every datatype and shape, JSON or binary on either side: each call gets its own rows and its own id."""
    calls = data.draw(similar(json_only=not (binary_in and binary_out)))
    groups: dict[object, list[tuple[Part, reference.InferRequest]]] = {}
    for call in calls:
        part = V2().read(*reference.encode_request(call, binary=binary_in))
        if part is not None:
            groups.setdefault(part.key, []).append((part, call))
    assert sum(map(len, groups.values())) == len(calls)
    for members in groups.values():
        parts = [part for part, _ in members]
        batch = reference.decode_request(*V2().join(parts))
        found = V2().split(*reversed_rows(batch, binary=binary_out), parts)

        assert found is not None
        for own, (_, call) in zip(found, members, strict=True):
            alone = reversed_rows(call, binary=binary_out)
            assert reference.decode_response(*own).id == call.id
            assert _plain(own) == _plain(alone)


def _plain(answer: tuple[bytes, int | None]) -> object:
    body, length = answer
    return json.loads(body[:length]), body[len(body) if length is None else length :]


def v2(*inputs: dict[str, Any], raw: bytes = b"", **fields: Any) -> tuple[bytes, int | None]:  # noqa: ANN401 - JSON
    """Write a V2 call."""
    head = json.dumps({**fields, "inputs": list(inputs)}).encode()
    return head + raw, len(head) if raw else None


def tensor(shape: list[int], data: list[Any] | None = None, **more: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON
    """Write a tensor."""
    found = {"name": "x", "shape": shape, "datatype": "FP32"} | more
    return found if data is None else found | {"data": data}


@pytest.mark.parametrize(
    "call",
    [
        v2(),
        v2(tensor([2, 1], [1.0])),
        v2(tensor([2, 1], [1.0, 2.0, 3.0])),
        v2(tensor([2, 2], [[1.0, 2.0], [3.0]])),
        v2(tensor([2, 2], [[1.0, 2.0], 3.0])),
        v2(tensor([0, 2], [])),
        v2(tensor([], [1.0])),
        v2(tensor([1], [1.0]), tensor([2], [1.0, 2.0], name="y")),
        v2(tensor([1], parameters={"shared_memory_region": "r"})),
        v2(tensor([1], parameters={"binary_data_size": 3}), raw=b"\0\0\0"),
        v2(tensor([1], parameters={"binary_data_size": 4}), raw=b"\0\0\0\0\0"),
        v2(tensor([1], datatype="BYTES", parameters={"binary_data_size": 6}), raw=struct.pack("<I", 3) + b"ab"),
        v2(tensor([1], datatype="WORDS", parameters={"binary_data_size": 4}), raw=b"\0\0\0\0"),
        v2(tensor([1], [1.0]), id=3),
        (b"nonsense", None),
        (b"{}", 99),
    ],
)  # fmt: skip
def test_v2_calls_that_go_by_themselves(call: tuple[bytes, int | None]) -> None:
    """A tensor whose data are not as its shape says would shift its neighbours' rows, so it never joins them."""
    assert V2().read(*call) is None


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (v2(tensor([1, 2], [1, 2])), v2(tensor([1, 3], [1, 2, 3]))),
        (v2(tensor([1, 2], [1, 2])), v2(tensor([1, 2], [1, 2], datatype="FP64"))),
        (v2(tensor([1, 2], [1, 2])), v2(tensor([1, 2], [1, 2], name="y"))),
        (v2(tensor([1, 2], [1, 2])), v2(tensor([1, 2], [[1, 2]]))),
        (v2(tensor([1, 2], [1, 2])), v2(tensor([1, 2], [1, 2]), parameters={"a": 1})),
        (v2(tensor([1, 2], [1, 2])), v2(tensor([1, 2], [1, 2], parameters={"a": 1}))),
        (v2(tensor([1, 2], [1, 2])), v2(tensor([1, 2], [1, 2]), outputs=[{"name": "y"}])),
        (v2(tensor([1], [1])), v2(tensor([1], parameters={"binary_data_size": 4}), raw=b"\0\0\0\0")),
    ],
)
def test_v2_calls_that_differ_stay_apart(one: tuple[bytes, int | None], other: tuple[bytes, int | None]) -> None:
    """Other shapes, datatypes, names, parameters, wanted outputs or encodings: no batch."""
    first, second = V2().read(*one), V2().read(*other)

    assert first is not None
    assert second is not None
    assert first.key != second.key


@pytest.mark.parametrize(
    "outputs",
    [
        [], [{"name": "y", "shape": [1], "datatype": "FP32", "data": [1]}],
        [{"name": "y", "shape": [2], "datatype": "FP32", "data": [1]}], [{"name": "y", "shape": [2]}], "nothing",
    ],
)  # fmt: skip
def test_v2_answers_that_cannot_be_split(outputs: object) -> None:
    """An output that has not one row for each row of the batch."""
    part = V2().read(*v2(tensor([1], [1])))
    assert part is not None
    assert V2().split(json.dumps({"model_name": "m", "outputs": outputs}).encode(), None, [part, part]) is None


def test_an_id_that_the_model_made_up_is_not_shared() -> None:
    """A batch has no id; when the model gives it one, each answer gets one of its own."""
    part = V2().read(*v2(tensor([1], [1])))
    assert part is not None
    output = {"name": "y", "shape": [2], "datatype": "FP32", "data": [1, 2]}
    found = V2().split(json.dumps({"id": "made-up", "outputs": [output]}).encode(), None, [part, part])

    assert found is not None
    assert [json.loads(body)["id"] for body, _ in found] == ["made-up-0", "made-up-1"]
