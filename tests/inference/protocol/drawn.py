"""Hypothesis strategies for tensors of every datatype."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays, from_dtype

from inference.protocol.datatypes import NUMPY
from inference.protocol.tensors import Tensor

SHAPES = array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
NAMES = st.text(max_size=8)
PARAMETERS = st.dictionaries(
    st.text(max_size=4).filter(lambda key: key != "binary_data_size"),
    st.one_of(st.booleans(), st.integers(-(2**53), 2**53), st.text(max_size=4)),
    max_size=2,
)


@st.composite
def tensors(draw: st.DrawFn, *, json: bool = False) -> Tensor:
    """Draw a tensor; with `json`, one that has a JSON form."""
    datatype = draw(st.sampled_from([name for name in NUMPY if not (json and name in {"FP16", "BF16"})]))
    shape = draw(SHAPES)
    data = draw(_data(datatype, shape, json=json))
    return Tensor(name=draw(NAMES), datatype=datatype, shape=shape, data=data, parameters=draw(PARAMETERS))


def _data(datatype: str, shape: tuple[int, ...], *, json: bool) -> st.SearchStrategy[np.ndarray[Any, Any]]:
    if datatype == "BYTES":
        words = st.text(max_size=6).map(str.encode) if json else st.binary(max_size=6)
        return arrays(np.dtype(object), shape, elements=words)
    if datatype == "BF16":
        bits = arrays(np.dtype("<u2"), shape)
        return bits.map(lambda upper: (upper.ravel().astype("<u4") << 16).view("<f4").reshape(shape))
    dtype = NUMPY[datatype]
    elements = from_dtype(dtype, allow_nan=not json, allow_infinity=not json)
    return arrays(dtype, shape, elements=elements)
