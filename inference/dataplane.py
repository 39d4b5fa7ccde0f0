"""The data plane: what every transport (REST now; gRPC, CloudEvents and Kafka) calls, and what knows none of them.

Synchronous and thread-safe: transports call it on worker threads. Next: `inference/repository.py`, then a runtime.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from inference import instances
from inference.batching.terms import USUAL, Terms
from inference.errors import InferenceError, InvalidInput, ModelNotReady, PredictionFailed
from inference.metrics import PredictorMetrics, Step
from inference.protocol import v1
from inference.protocol.datatypes import BYTES
from inference.protocol.errors import ProtocolError
from inference.protocol.tensors import Tensor
from inference.protocol.v1 import V1Request
from inference.protocol.v2 import InferRequest, InferResponse
from inference.repository import IndexEntry, Repository
from inference.runtime import Runtime, TensorSpec

log = logging.getLogger(__name__)

T = TypeVar("T")


class DataPlane:
    """Predicts, and describes the models."""

    def __init__(self, repository: Repository, metrics: PredictorMetrics) -> None:
        self._repository = repository
        self.metrics = metrics
        self.draining = False
        """Set when the process is about to end: nothing is ready any more, but requests are still answered."""

    def infer(
        self, model: str, request: InferRequest, version: str | None = None, terms: Terms = USUAL
    ) -> InferResponse:
        """Answer a V2 request; for callers with a thread of their own.

        Raises:
            ModelNotFound, ModelNotReady: see `inference/repository.py`.
            InvalidInput: tensors that do not fit the model, or an output that it does not have.
            PredictionFailed: the model itself failed.
        """
        del terms
        inputs = _arrays(request.inputs)
        with self._repository.using(model, version) as loaded:
            outputs = self._predict(model, "v2", loaded.runtime, inputs)
            answered = loaded.version
        chosen = _chosen(outputs, tuple(output.name for output in request.outputs))
        return InferResponse(model_name=model, model_version=answered, id=request.id, outputs=_tensors(chosen))

    async def infer_async(
        self, model: str, request: InferRequest, version: str | None = None, terms: Terms = USUAL
    ) -> InferResponse:
        """Answer a V2 request from an event loop; cancelled, the call leaves the queue. Raises what `infer` raises.

        Raises:
            Overloaded: too much is waiting; its `retry_after_s` says when to come again.
            DeadlineExceeded: not done in time.
        """
        return await self.answer_async(model, lambda: request, lambda response, _request: response, version, terms)

    async def answer_async(
        self,
        model: str,
        decode: Callable[[], InferRequest],
        encode: Callable[[InferResponse, InferRequest], T],
        version: str | None = None,
        terms: Terms = USUAL,
    ) -> T:
        """Do the same for a request that is yet to be read: `decode` and `encode` run on the worker thread."""

        def work() -> T:
            request = decode()
            return encode(self.infer(model, request, version, terms), request)

        return await asyncio.to_thread(work)

    def predict_v1(self, model: str, request: V1Request) -> list[Any]:
        """Answer a V1 request with one prediction per instance. Raises what `infer` raises."""
        inputs = instances.arrays(request)
        with self._repository.using(model) as loaded:
            outputs = self._predict(model, "v1", loaded.runtime, inputs)
        return instances.predictions(outputs)

    def explain_v1(self, model: str, body: bytes) -> Mapping[str, Any]:
        """Have a model that explains itself answer a V1 explain call. Raises what `infer` raises.

        Raises:
            Unsupported: the model does not explain itself.
        """
        with self._repository.using(model) as loaded:
            if type(loaded.runtime).explain is Runtime.explain:
                # The model's not being one that explains comes before anything about the body.
                return loaded.runtime.explain(V1Request(instances=[]))
            request = v1.decode_request(body)
            try:
                return loaded.runtime.explain(request)
            except InferenceError:
                raise
            except Exception as exc:
                log.exception("model %s failed to explain", model)
                raise PredictionFailed(f"{type(exc).__name__} : {exc}") from exc

    def ready(self) -> bool:
        """Say whether new clients should be sent here."""
        return not self.draining

    def model_ready(self, model: str, version: str | None = None) -> bool:
        """Say whether new clients of a model should be sent here.

        Raises:
            ModelNotFound: no such model, or a loaded one has another version.
        """
        try:
            self._repository.loaded(model, version)
        except ModelNotReady:
            return False
        return not self.draining

    def models(self) -> list[str]:
        """List the models, loaded or not."""
        return self._repository.names()

    def index(self) -> list[IndexEntry]:
        """Describe the models' states."""
        return self._repository.index()

    def model_metadata(self, model: str, version: str | None = None) -> dict[str, Any]:
        """Describe a loaded model, as V2's "Model Metadata Response"."""
        loaded = self._repository.loaded(model, version)
        return {
            "name": model,
            "versions": [loaded.version],
            "platform": loaded.runtime.platform,
            "inputs": [_described(spec) for spec in loaded.runtime.inputs],
            "outputs": [_described(spec) for spec in loaded.runtime.outputs],
        }

    def load(self, model: str) -> None:
        """Load a model, or load it anew; see `Repository.load`."""
        self._repository.load(model)

    def unload(self, model: str) -> None:
        """Unload a model; see `Repository.unload`."""
        self._repository.unload(model)

    def label(self, model: str) -> str:
        """Give the metrics label for a name that a client sent."""
        return model if model in self._repository else "unknown"

    def _predict(
        self, model: str, protocol: str, runtime: Runtime, inputs: Mapping[str, NDArray[Any]]
    ) -> dict[str, NDArray[Any]]:
        try:
            with self.metrics.timed(Step.PREDICT, model):
                outputs = runtime.predict(inputs)
        except InferenceError:
            raise
        except Exception as exc:
            log.exception("model %s failed to predict", model)
            raise PredictionFailed(f"{type(exc).__name__} : {exc}") from exc
        self.metrics.predicted(model, protocol, instances.row_count(outputs))
        return outputs


def _arrays(tensors: tuple[Tensor, ...]) -> dict[str, NDArray[Any]]:
    inputs: dict[str, NDArray[Any]] = {}
    for tensor in tensors:
        if tensor.name in inputs:
            raise InvalidInput(f"tensor {tensor.name!r}: is given twice")
        if not tensor.shape:
            raise InvalidInput(f"tensor {tensor.name!r}: expected at least one dimension, got a scalar")
        inputs[tensor.name] = _texts(tensor) if tensor.datatype == BYTES else tensor.data
    return inputs


def _texts(tensor: Tensor) -> NDArray[Any]:
    texts = np.empty(tensor.data.size, object)
    try:
        texts[:] = [item.decode() for item in tensor.data.flat]
    except UnicodeDecodeError as exc:
        raise InvalidInput(f"tensor {tensor.name!r}: expected UTF-8 text: {exc}") from exc
    return texts.reshape(tensor.shape)


def _chosen(outputs: dict[str, NDArray[Any]], wanted: tuple[str, ...]) -> dict[str, NDArray[Any]]:
    unknown = [name for name in wanted if name not in outputs]
    if unknown:
        raise InvalidInput(f"outputs: unknown {unknown}; the model gives {list(outputs)}")
    return {name: outputs[name] for name in wanted} if wanted else outputs


def _tensors(outputs: dict[str, NDArray[Any]]) -> tuple[Tensor, ...]:
    try:
        return tuple(Tensor.of(name, array) for name, array in outputs.items())
    except (ProtocolError, TypeError) as exc:
        raise PredictionFailed(f"the model's output has no V2 form: {exc}") from exc


def _described(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)}
