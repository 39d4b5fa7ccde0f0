"""What a protocol is to `inference/upstream/link.py`: it sends one call once, and says what became of it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from inference.errors import InferenceError, PredictionFailed
from inference.protocol.datatypes import BYTES
from inference.protocol.errors import ProtocolError
from inference.protocol.tensors import Tensor
from inference.protocol.v2 import InferRequest, InferResponse
from inference.runtime import Answer, Arrays
from inference.upstream.description import Descriptions
from inference.upstream.text import Text

_OF_THIS_WAY: Final = frozenset({"binary_data_output"})
_NONE: Final[Mapping[str, Any]] = MappingProxyType({})


class Passing(Exception):
    """The call did not reach the predictor, or it was too busy: another attempt is safe, and may help."""

    def __init__(self, error: InferenceError, after_s: float = 0.0) -> None:
        super().__init__(str(error))
        self.error, self.after_s = error, after_s


class Wire(Protocol):
    """Asks one predictor. Thread-safe; blocks."""

    descriptions: Descriptions
    """What it says of its models. Raises what `infer` raises."""

    def infer(
        self, model: str, inputs: Arrays, parameters: Mapping[str, Any], head: Mapping[str, str], left_s: float
    ) -> Answer:
        """Send one call.

        Raises:
            Passing: another attempt may help.
            TimeoutError: no answer within `left_s`.
            InferenceError: anything else that is not an answer.
        """
        ...

    def generate(
        self, model: str, prompt: str, parameters: Mapping[str, Any], head: Mapping[str, str], left_s: float
    ) -> Text:
        """Begin a text; give it when its first piece has come. Raises what `infer` raises."""
        ...

    def ready(self, model: str, left_s: float) -> bool:
        """Ask whether the model is ready. Raises what `infer` raises."""
        ...

    def close(self) -> None:
        """Let go of the connections."""
        ...


def request_of(inputs: Arrays, parameters: Mapping[str, Any], own: Mapping[str, Any] = _NONE) -> InferRequest:
    """Make the V2 request; `own` are the parameters of this way, in place of those of the caller's.

    Raises:
        PredictionFailed: an array that V2 cannot say.
    """
    try:
        tensors = tuple(Tensor.of(name, array) for name, array in inputs.items())
    except (ProtocolError, TypeError) as exc:
        raise PredictionFailed(f"what is sent to the predictor has no V2 form: {exc}") from exc
    kept = {name: value for name, value in parameters.items() if name not in _OF_THIS_WAY}
    return InferRequest(inputs=tensors, parameters={**kept, **own})


def answer_of(
    model: str,
    response: InferResponse,
    parameters: Mapping[str, Any],
    output_parameters: Mapping[str, Mapping[str, Any]],
    version: str,
) -> Answer:
    """Make the runtime's answer of a V2 response, whose model may call itself otherwise than it was asked for."""
    named = {} if response.model_name in {model, ""} else {"predictor_model_name": response.model_name}
    return Answer(
        outputs=arrays_of(response.outputs),
        parameters={**parameters, **named},
        output_parameters=output_parameters,
        version=version,
    )


def arrays_of(tensors: tuple[Tensor, ...]) -> dict[str, NDArray[Any]]:
    """Give a V2 response's arrays: texts as str, what is no text as bytes."""
    return {tensor.name: _texts(tensor) if tensor.datatype == BYTES else tensor.data for tensor in tensors}


def _texts(tensor: Tensor) -> NDArray[Any]:
    texts = np.empty(tensor.data.size, object)
    try:
        texts[:] = [item.decode() for item in tensor.data.flat]
    except UnicodeDecodeError:
        return tensor.data
    return texts.reshape(tensor.shape)
