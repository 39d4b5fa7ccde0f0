"""What a call does on a worker thread: its request becomes arrays, and what the model gives becomes its response.

One class per protocol. Used by `inference/dataplane.py`; between reading and writing stands `inference/batching/`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference import classification, instances
from inference.batching.call import NOTHING_ASKED, Given
from inference.errors import InvalidInput, PredictionFailed, Unsupported
from inference.protocol import v1
from inference.protocol.errors import ProtocolError
from inference.protocol.tensors import Tensor
from inference.protocol.v1 import V1Request
from inference.protocol.v2 import InferRequest, InferResponse, RequestedOutput
from inference.repository import Loaded
from inference.runtime import Answer, Arrays, Asked
from inference.steps import arrays
from inference.texts import fitted

_SCALARS = (bool, int, float, str, np.generic)
_REGION = "shared_memory_region"
"""Triton's parameter for contents that stay on the client's machine."""


class V1Work:
    """The V1 side of one call."""

    __slots__ = ("_decode", "_encode")

    def __init__(self, decode: Callable[[], V1Request], encode: Callable[[Any, str], Any]) -> None:
        self._decode, self._encode = decode, encode

    def given(self) -> Given:
        """Read the request."""
        return instances.arrays(self._decode()), NOTHING_ASKED

    def finish(self, answer: Answer, loaded: Loaded) -> Any:  # noqa: ANN401 - whatever encode gives
        """Write the response."""
        return self._encode(instances.predictions(answer.outputs), answer.version or loaded.version)

    def explained(self, loaded: Loaded) -> Any:  # noqa: ANN401 - whatever encode gives
        """Have the model explain; write what it gives."""
        _check_explains(loaded)
        request = self._decode()
        found = _explanation(loaded, instances.arrays(request), request.extra)
        try:
            return self._encode(found, loaded.version)
        except ProtocolError as exc:
            raise PredictionFailed(f"the model's explanation: {exc}") from exc


class V2Work:
    """The V2 side of one call."""

    __slots__ = ("_decode", "_encode", "_model", "_request")

    def __init__(
        self, model: str, decode: Callable[[], InferRequest], encode: Callable[[InferResponse, InferRequest], Any]
    ) -> None:
        self._model, self._decode, self._encode = model, decode, encode

    def given(self) -> Given:
        """Read the request."""
        self._request = request = self._decode()
        return _arrays(request.inputs), _asked(request)

    def finish(self, answer: Answer, loaded: Loaded) -> Any:  # noqa: ANN401 - whatever encode gives
        """Write the response."""
        return self._encode(
            _response(self._model, answer.version or loaded.version, self._request, answer, loaded.settings.labels),
            self._request,
        )

    def streamed(self, loaded: Loaded) -> Iterator[Any]:
        """Have the model give its answers one by one; write each."""
        inputs, asked = self.given()
        for answer in loaded.runtime.stream(fitted(inputs, as_bytes=loaded.runtime.takes_bytes), asked):
            yield self.finish(answer, loaded)

    def explained(self, loaded: Loaded) -> Any:  # noqa: ANN401 - whatever encode gives
        """Have the model explain; write what it gives as tensors."""
        _check_explains(loaded)
        inputs, asked = self.given()
        found = _explanation(loaded, inputs, asked.parameters)
        return self.finish(
            Answer(outputs={str(name): _tensor(str(name), value) for name, value in found.items()}), loaded
        )


def _check_explains(loaded: Loaded) -> None:
    # Before anything about the body.
    if not loaded.runtime.explains():
        raise Unsupported("this model does not explain itself; the service's explainer does")


def _explanation(loaded: Loaded, inputs: Arrays, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
    runtime = loaded.runtime
    found = runtime.explain(fitted(inputs, as_bytes=runtime.takes_bytes), parameters)
    if not isinstance(found, Mapping):
        raise PredictionFailed(f"the model's explanation: expected an object, got {type(found).__name__}")
    return found


def _tensor(name: str, value: Any) -> NDArray[Any]:  # noqa: ANN401 - whatever the model gives
    """Give one part of an explanation as an array; what has no tensor form as the text of its JSON."""
    try:
        return arrays({name: [value] if isinstance(value, _SCALARS) else value}, name)[name]
    except PredictionFailed:
        pass
    try:
        return np.array([v1.encode_object(value)], object)
    except ProtocolError as exc:
        raise PredictionFailed(f"the model's explanation: {name!r}: {exc}") from exc


def _response(model: str, version: str, request: InferRequest, answer: Answer, labels: Sequence[str]) -> InferResponse:
    chosen = _chosen(answer.outputs, tuple(output.name for output in request.outputs))
    classes = {output.name: count for output in request.outputs if (count := classification.asked(*_words(output)))}
    if classes:
        chosen = {
            name: classification.classified(name, array, classes[name], labels) if name in classes else array
            for name, array in chosen.items()
        }
    return InferResponse(
        model_name=model,
        model_version=version,
        id=request.id,
        outputs=_tensors(chosen, answer.output_parameters),
        parameters=answer.parameters,
    )


def _words(output: RequestedOutput) -> tuple[str, Mapping[str, Any]]:
    if _REGION in output.parameters:
        # The caller would read what nobody has written.
        raise Unsupported(f"output {output.name!r}: shared memory is not offered; ask for its contents")
    return output.name, output.parameters


def _asked(request: InferRequest) -> Asked:
    inputs = {tensor.name: tensor.parameters for tensor in request.inputs if tensor.parameters}
    for output in request.outputs:
        classification.asked(*_words(output))
    if not (inputs or request.parameters or request.outputs):
        return NOTHING_ASKED
    outputs = {output.name: output.parameters for output in request.outputs}
    return Asked(parameters=request.parameters, inputs=inputs, outputs=outputs)


def _arrays(tensors: tuple[Tensor, ...]) -> dict[str, NDArray[Any]]:
    inputs: dict[str, NDArray[Any]] = {}
    for tensor in tensors:
        if tensor.name in inputs:
            raise InvalidInput(f"tensor {tensor.name!r}: is given twice")
        if not tensor.shape:
            raise InvalidInput(f"tensor {tensor.name!r}: expected at least one dimension, got a scalar")
        inputs[tensor.name] = tensor.data
    return inputs


def _chosen(outputs: Mapping[str, NDArray[Any]], wanted: tuple[str, ...]) -> Mapping[str, NDArray[Any]]:
    unknown = [name for name in wanted if name not in outputs]
    if unknown:
        raise InvalidInput(f"outputs: unknown {unknown}; the model gives {list(outputs)}")
    return {name: outputs[name] for name in wanted} if wanted else outputs


def _tensors(outputs: Mapping[str, NDArray[Any]], parameters: Mapping[str, Mapping[str, Any]]) -> tuple[Tensor, ...]:
    try:
        return tuple(Tensor.of(name, array, parameters.get(name, {})) for name, array in outputs.items())
    except (ProtocolError, TypeError) as exc:
        raise PredictionFailed(f"the model's output has no V2 form: {exc}") from exc
