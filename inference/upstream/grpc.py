"""Asks a predictor over V2 gRPC, with raw tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from inference.errors import PredictorFailed, PredictorRefused, PredictorUnavailable, Unsupported
from inference.protocol.errors import ProtocolError
from inference.protocol.grpc_codec import decode_response, encode_request
from inference.protocol.grpc_messages import MESSAGES, SERVICE
from inference.runtime import Answer, Arrays, library
from inference.upstream.settings import UpstreamSettings
from inference.upstream.text import Text
from inference.upstream.wire import Passing, answer_of, request_of

_REFUSALS: Final = {
    "INVALID_ARGUMENT": 400,
    "OUT_OF_RANGE": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "FAILED_PRECONDITION": 409,
    "RESOURCE_EXHAUSTED": 429,
    "UNIMPLEMENTED": 501,
}
"""gRPC's statuses for what the caller can change → HTTP's."""
_BUSY: Final = 429


class GrpcWire:
    """One channel, which is many calls wide."""

    def __init__(self, settings: UpstreamSettings) -> None:
        self._settings = settings
        self._grpc = library("grpc")
        # The predictor's own limits hold; a second set here would only differ from them.
        options = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))
        if settings.tls:
            credentials = self._grpc.ssl_channel_credentials()
            self._channel = self._grpc.secure_channel(settings.address, credentials, options)
        else:
            self._channel = self._grpc.insecure_channel(settings.address, options)
        self._infer = self._channel.unary_unary(f"/{SERVICE}/ModelInfer")
        self._ready = self._channel.unary_unary(f"/{SERVICE}/ModelReady")

    def infer(
        self, model: str, inputs: Arrays, parameters: Mapping[str, Any], head: Mapping[str, str], left_s: float
    ) -> Answer:
        """Send one call; see `Wire`."""
        data = encode_request(model, request_of(inputs, parameters), raw=True)
        try:
            response = decode_response(self._call(self._infer, data, head, left_s))
        except ProtocolError as exc:
            raise PredictorFailed(f"{self._named()} gave no V2 answer: {exc}") from exc
        described = {tensor.name: tensor.parameters for tensor in response.outputs if tensor.parameters}
        return answer_of(model, response, response.parameters, described, response.model_version or "")

    def generate(
        self, model: str, prompt: str, parameters: Mapping[str, Any], head: Mapping[str, str], left_s: float
    ) -> Text:
        """Refuse: texts come over REST."""
        del model, prompt, parameters, head, left_s
        raise Unsupported("a transformer passes texts on over REST alone: --predictor_protocol v2")

    def ready(self, model: str, left_s: float) -> bool:
        """Ask whether the model is ready."""
        asked = MESSAGES.of("ModelReadyRequest")(name=model).SerializeToString()
        answer = MESSAGES.of("ModelReadyResponse").FromString(self._call(self._ready, asked, {}, left_s))
        return bool(answer.ready)

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()

    def _call(self, method: Any, data: bytes, head: Mapping[str, str], left_s: float) -> bytes:  # noqa: ANN401 - grpc has no types
        metadata = tuple((name, value) for name, value in head.items() if value.isascii() and value.isprintable())
        try:
            answer: bytes = method(data, timeout=left_s, metadata=metadata)
        except self._grpc.RpcError as exc:
            raise self._translated(exc) from exc
        return answer

    def _translated(self, error: Any) -> Exception:  # noqa: ANN401 - grpc has no types
        code, text, after_s = error.code().name, error.details() or "", _retry_after(error)
        if code == "DEADLINE_EXCEEDED":
            return TimeoutError(text)
        if code == "UNAVAILABLE":
            problem = f"{self._named()} cannot be reached or is not ready: {text}"
            return Passing(PredictorUnavailable(problem, after_s), after_s)
        status = _REFUSALS.get(code)
        if status is None:
            return PredictorFailed(f"{self._named()} answered {code}: {text}")
        refusal = PredictorRefused(status, text, after_s)
        return Passing(refusal, after_s) if status == _BUSY and after_s else refusal

    def _named(self) -> str:
        return f"the predictor at {self._settings.address}"


def _retry_after(error: Any) -> float:  # noqa: ANN401 - grpc has no types
    told = dict(error.trailing_metadata() or ()).get("retry-after", "")
    return float(told) if isinstance(told, str) and told.isdecimal() else 0.0
