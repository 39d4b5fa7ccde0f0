"""Asks a predictor over V2 gRPC, with raw tensors; for texts over Triton's ModelStreamInfer, one on each stream."""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping
from http import HTTPStatus
from typing import Any, Final

from google.protobuf.message import DecodeError

from inference.errors import DeadlineExceeded, PredictorFailed, PredictorRefused, PredictorUnavailable
from inference.protocol import grpc_streams, grpc_texts
from inference.protocol.errors import ProtocolError
from inference.protocol.grpc_codec import decode_response, encode_request
from inference.protocol.grpc_messages import MESSAGES, SERVICE
from inference.protocol.grpc_streams import STRICT
from inference.runtime import Answer, Arrays, library
from inference.upstream.description import NOTHING, Description, Descriptions
from inference.upstream.settings import UpstreamSettings
from inference.upstream.text import Said, Text
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
_STRICT: Final = (STRICT, "true")
"""What is wrong with a text is to be its stream's status: in a message it would be words alone."""


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
        self._infer, self._ready, self._metadata = (
            self._channel.unary_unary(f"/{SERVICE}/{name}") for name in ("ModelInfer", "ModelReady", "ModelMetadata")
        )
        self._stream = self._channel.stream_stream(f"/{SERVICE}/ModelStreamInfer")
        self.descriptions = Descriptions(self._describe)

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
        """Have a text made; see `Wire`."""
        until = time.monotonic() + left_s
        try:
            inputs = self.descriptions.of(model, head, left_s).inputs
        except PredictorRefused as exc:
            if exc.status != HTTPStatus.NOT_IMPLEMENTED:
                raise
            inputs = NOTHING.inputs
        message = encode_request(model, grpc_texts.encode(prompt, parameters, inputs), raw=True)
        left = until - time.monotonic()
        # The one message is all that is said: the end of the stream is that of the text.
        call = self._stream(iter((message,)), timeout=left, metadata=(*_metadata(head), _STRICT))
        return Text(self._said(call, left_s))

    def ready(self, model: str, left_s: float) -> bool:
        """Ask whether the model is ready."""
        asked = MESSAGES.of("ModelReadyRequest")(name=model).SerializeToString()
        answer = MESSAGES.of("ModelReadyResponse").FromString(self._call(self._ready, asked, {}, left_s))
        return bool(answer.ready)

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()

    def _call(self, method: Any, data: bytes, head: Mapping[str, str], left_s: float) -> bytes:  # noqa: ANN401 - grpc has no types
        try:
            answer: bytes = method(data, timeout=left_s, metadata=_metadata(head))
        except self._grpc.RpcError as exc:
            raise self._translated(exc) from exc
        return answer

    def _describe(self, model: str, head: Mapping[str, str], left_s: float) -> Description:
        asked = MESSAGES.of("ModelMetadataRequest")(name=model).SerializeToString()
        try:
            told = MESSAGES.of("ModelMetadataResponse").FromString(self._call(self._metadata, asked, head, left_s))
        except DecodeError as exc:
            raise PredictorFailed(f"{self._named()} gave no V2 metadata: {exc}") from exc
        inputs, outputs = (
            {each.name: (each.datatype, tuple(each.shape)) for each in tensors}
            for tensors in (told.inputs, told.outputs)
        )
        return Description(inputs, outputs)

    def _said(self, call: Any, seconds: float) -> Generator[Said, None, None]:  # noqa: ANN401 - grpc has no types
        begun = False
        try:
            for data in call:
                yield self._piece(data)
                begun = True
        except self._grpc.RpcError as exc:
            error = self._translated(exc)
            if isinstance(error, TimeoutError):
                raise DeadlineExceeded(seconds) from exc
            # A text that has begun is not made again.
            raise (error.error if begun and isinstance(error, Passing) else error) from exc
        except ProtocolError as exc:
            raise PredictorFailed(f"{self._named()} gave no piece of a text: {exc}") from exc
        finally:
            call.cancel()

    def _piece(self, data: bytes) -> Said:
        most = self._settings.max_piece
        if len(data) > most:
            text = f"{self._named()} gave a piece of a text of more than {most} bytes: --predictor_max_piece_bytes"
            raise PredictorFailed(text)
        response, wrong = grpc_streams.decode(data)
        if wrong:
            raise PredictorFailed(f"{self._named()} failed in mid-text: {wrong}")
        return Said(grpc_texts.piece_in(response), response.model_version or "")

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


def _metadata(head: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple((name, value) for name, value in head.items() if value.isascii() and value.isprintable())


def _retry_after(error: Any) -> float:  # noqa: ANN401 - grpc has no types
    told = dict(error.trailing_metadata() or ()).get("retry-after", "")
    return float(told) if isinstance(told, str) and told.isdecimal() else 0.0
