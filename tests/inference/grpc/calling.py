"""A gRPC client of the inference service on grpcio alone: messages as tables say, no generated code."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import grpc

from inference.protocol.grpc_codec import decode_response, encode_request
from inference.protocol.grpc_messages import MESSAGES, SERVICE
from inference.protocol.tensors import Tensor
from inference.protocol.v2 import InferRequest, InferResponse

DEADLINE_S = 60.0
Metadata = Sequence[tuple[str, str]]


class Client:
    """Calls methods by name."""

    def __init__(self, channel: Any) -> None:  # noqa: ANN401 - grpc has no types
        self.channel = channel

    def raw(self, method: str, data: bytes, metadata: Metadata = (), timeout: float | None = DEADLINE_S) -> bytes:
        """Send a message as it is."""
        answer: bytes = self.channel.unary_unary(f"/{SERVICE}/{method}")(data, metadata=metadata, timeout=timeout)
        return answer

    def call(self, method: str, **fields: Any) -> Any:  # noqa: ANN401 - messages are made at run time
        """Send a message of these fields; give the answer's message."""
        data = MESSAGES.of(f"{method}Request")(**fields).SerializeToString()
        return MESSAGES.of(f"{method}Response").FromString(self.raw(method, data))

    def infer(self, request: InferRequest, model: str = "m", version: str = "", *, raw: bool = True) -> InferResponse:
        """Predict."""
        return decode_response(self.raw("ModelInfer", encode_request(model, request, version, raw=raw)))

    def future(self, data: bytes, metadata: Metadata = (), timeout: float | None = DEADLINE_S) -> Any:  # noqa: ANN401 - grpc has no types
        """Begin a prediction."""
        return self.channel.unary_unary(f"/{SERVICE}/ModelInfer").future(data, metadata=metadata, timeout=timeout)

    def stream(self, messages: Iterator[bytes], metadata: Metadata = ()) -> Any:  # noqa: ANN401 - grpc has no types
        """Begin a stream of predictions."""
        call = self.channel.stream_stream(f"/{SERVICE}/ModelStreamInfer")
        return call(messages, metadata=metadata, timeout=DEADLINE_S)


@contextmanager
def client(address: str, *options: tuple[str, int]) -> Iterator[Client]:
    """Connect; takes answers of any size."""
    with grpc.insecure_channel(address, (("grpc.max_receive_message_length", -1), *options)) as channel:
        yield Client(channel)


def request(*arrays: Any, **fields: Any) -> InferRequest:  # noqa: ANN401 - arrays, and whatever a request has
    """Make a request of arrays named input-0, input-1, ..."""
    tensors = tuple(Tensor.of(f"input-{index}", array) for index, array in enumerate(arrays))
    return InferRequest(inputs=tensors, **fields)


def code_of(call: Any) -> Any:  # noqa: ANN401 - grpc has no types
    """Wait for a call's end and give its status."""
    return call.code()
