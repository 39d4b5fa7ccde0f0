"""Texts in ModelStreamInfer: one message in, one out for each piece, as Triton's decoupled models answer. Pure.

Sources: Triton's decoupled models and parameters extension. Each answer says in `triton_final_response` whether it is
the last; the last has no outputs, and comes only where `triton_enable_empty_final_response` asked for it.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from inference.protocol.datatypes import BYTES
from inference.protocol.errors import BadTensor
from inference.protocol.generate import GenerateRequest
from inference.protocol.grpc_streams import FINAL
from inference.protocol.tensors import Tensor
from inference.protocol.v2 import InferRequest, InferResponse

PROMPT: Final = "text_input"
_ASKS_FINAL: Final = "triton_enable_empty_final_response"
_TEXT: Final = "text_output"
_TRITONS: Final = "triton_"


def wants_final(request: InferRequest) -> bool:
    """Say whether the client wants to be told that the last answer was the last."""
    return request.parameters.get(_ASKS_FINAL) is True


def decode(request: InferRequest) -> GenerateRequest:
    """Read a request for a text. Inputs beside the prompt are parameters, as are the request's own.

    Raises:
        BadTensor: an input of other than one element, or bytes that are no text.
    """
    values = {tensor.name: _only(tensor) for tensor in request.inputs}
    parameters = {name: value for name, value in request.parameters.items() if not name.startswith(_TRITONS)}
    prompt = values.pop(PROMPT)
    return GenerateRequest(prompt=prompt, parameters={**values, **parameters}, id=request.id)


def piece_of(asked: GenerateRequest, model: str, version: str, piece: str) -> InferResponse:
    """Give the answer that carries one piece."""
    text = Tensor(name=_TEXT, datatype=BYTES, shape=(1,), data=np.array([piece.encode()], object))
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
