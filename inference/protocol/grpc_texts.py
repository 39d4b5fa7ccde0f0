"""Texts in ModelStreamInfer: one message in, one out for each piece, as Triton's decoupled models answer. Pure.

Sources: Triton's decoupled models and parameters extension. Each answer says in `triton_final_response` whether it is
the last; the last has no outputs, and comes only where `triton_enable_empty_final_response` asked for it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from inference.protocol.datatypes import BYTES, numpy_dtype
from inference.protocol.errors import BadTensor
from inference.protocol.generate import OUTPUT, PROMPT, Form, GenerateRequest
from inference.protocol.grpc_streams import FINAL
from inference.protocol.tensors import Tensor
from inference.protocol.v2 import InferRequest, InferResponse

_ASKS_FINAL: Final = "triton_enable_empty_final_response"
_TRITONS: Final = "triton_"
_TAKEN: Final[dict[str, Any]] = {"b": bool, "i": int, "u": int, "f": int | float}
"""By NumPy's letters for kinds of numbers."""


def wants_final(parameters: Mapping[str, Any]) -> bool:
    """Say whether a request's client wants to be told that the last answer was the last."""
    return parameters.get(_ASKS_FINAL) is True


def decode(request: InferRequest) -> GenerateRequest:
    """Read a request for a text. Inputs beside the prompt are parameters, as are the request's own.

    Raises:
        BadTensor: an input of other than one element, or bytes that are no text.
    """
    values = {tensor.name: _only(tensor) for tensor in request.inputs}
    parameters = {name: value for name, value in request.parameters.items() if not name.startswith(_TRITONS)}
    prompt = values.pop(PROMPT)
    return GenerateRequest(prompt=prompt, parameters={**values, **parameters}, id=request.id)


def encode(prompt: str, parameters: Mapping[str, Any], inputs: Mapping[str, Form]) -> InferRequest:
    """Write a request for a text. What the model has an input for goes as that, all else as a parameter.

    Args:
        prompt: the text's beginning.
        parameters: by name.
        inputs: the model's, as far as they are known.

    Raises:
        BadTensor: a value that does not fit its input.
    """
    forms = {PROMPT: (BYTES, (1,)), **inputs}
    values = {PROMPT: prompt, **parameters}
    given = {name for name, value in values.items() if name in forms and isinstance(value, str | int | float)}
    return InferRequest(
        inputs=tuple(_of_one(name, values[name], *forms[name]) for name in values if name in given),
        parameters={name: value for name, value in values.items() if name not in given},
    )


def piece_in(response: InferResponse) -> str:
    """Read an answer's piece; an empty one where it has no outputs.

    Raises:
        BadTensor: no text among the outputs.
    """
    if not response.outputs:
        return ""
    found = next((each for each in response.outputs if each.name == OUTPUT and each.datatype == BYTES), None)
    if found is None:
        raise BadTensor(OUTPUT, f"expected BYTES of this name, got {', '.join(each.name for each in response.outputs)}")
    try:
        return "".join(item.decode() for item in found.data.ravel())
    except UnicodeDecodeError as exc:
        raise BadTensor(OUTPUT, f"expected UTF-8 text: {exc}") from exc


def piece_of(asked: GenerateRequest, model: str, version: str, piece: str) -> InferResponse:
    """Give the answer that carries one piece."""
    text = Tensor(name=OUTPUT, datatype=BYTES, shape=(1,), data=np.array([piece.encode()], object))
    return _answer(asked, model, version, (text,), final=False)


def final_of(asked: GenerateRequest, model: str, version: str) -> InferResponse:
    """Give the answer that says that the text is over."""
    return _answer(asked, model, version, (), final=True)


def _answer(
    asked: GenerateRequest, model: str, version: str, outputs: tuple[Tensor, ...], *, final: bool
) -> InferResponse:
    return InferResponse(
        model_name=model, model_version=version, id=asked.id, outputs=outputs, parameters={FINAL: final}
    )


def _of_one(name: str, value: Any, datatype: str, shape: tuple[int, ...]) -> Tensor:  # noqa: ANN401 - whatever it holds
    where = f"tensor {name!r}"
    sizes = tuple(1 if size < 0 else size for size in shape)
    sizes = sizes if math.prod(sizes) == 1 else (1,)
    dtype = numpy_dtype(datatype, where)
    data = np.empty(sizes, dtype)
    if datatype == BYTES:
        data[...] = (value if isinstance(value, str) else json.dumps(value)).encode()
    elif not isinstance(value, _TAKEN[dtype.kind]) or (dtype.kind in "iu" and not _holds(dtype, value)):
        raise BadTensor(where, f"expected {datatype}, got {value!r}")
    else:
        with np.errstate(over="ignore"):
            data[...] = float(value) if dtype.kind == "f" else value
    return Tensor(name=name, datatype=datatype, shape=sizes, data=data)


def _holds(dtype: np.dtype[Any], value: int) -> bool:
    bounds = np.iinfo(dtype)
    return bool(bounds.min <= value <= bounds.max)


def _only(tensor: Tensor) -> Any:  # noqa: ANN401 - whatever it holds
    where = f"tensor {tensor.name!r}"
    if tensor.data.size != 1:
        raise BadTensor(where, f"expected one element for a text, got {tensor.data.size}")
    value = tensor.data.ravel()[0]
    if tensor.datatype != BYTES:
        return value.item()
    try:
        return value.decode()
    except UnicodeDecodeError as exc:
        raise BadTensor(where, f"expected UTF-8 text: {exc}") from exc
