"""ModelStreamInfer's answers: a ModelInferResponse each, or what is wrong with one request. Pure.

As on Triton's streams, each says in `triton_final_response` whether it is the last to its request. Texts, which have
several, are `grpc_texts.py`'s.
"""

from __future__ import annotations

from typing import Final

from inference.protocol.grpc_codec import decode_response
from inference.protocol.grpc_messages import ModelInferResponse, ModelStreamInferResponse
from inference.protocol.grpc_schema import parsed
from inference.protocol.grpc_wire import varint
from inference.protocol.v2 import InferResponse

FINAL: Final = "triton_final_response"
STRICT: Final = "triton_grpc_error"
"""Metadata of a stream: with `true`, what is wrong with one of its requests ends it, with the status for that."""
_RESPONSE: Final = b"\x12"
"""Field 2, of so many bytes as a number behind it says."""


def encode_streamed(answer: bytes) -> bytes:
    """Write the message around a written ModelInferResponse that says itself whether it is the last."""
    return b"".join((_RESPONSE, varint(len(answer)), answer))


def encode_only(answer: bytes) -> bytes:
    """Write the message around a written ModelInferResponse that is its request's only one."""
    # Behind a written message, a parameter is one more of its fields: the answer is not read again.
    return b"".join((_RESPONSE, varint(len(answer) + len(_IS_FINAL)), answer, _IS_FINAL))


def encode_error(text: str, model: str, identity: str) -> bytes:
    """Write the message that says what is wrong with the request of this id, and is its last."""
    response = ModelInferResponse(model_name=model, id=identity)
    response.parameters[FINAL].bool_param = True
    encoded: bytes = ModelStreamInferResponse(error_message=text, infer_response=response).SerializeToString()
    return encoded


def decode(data: bytes) -> tuple[InferResponse, str]:
    """Read a message: the response, and what is wrong, if anything.

    Raises:
        ProtocolError: no such message, or contents that do not fit their tensors.
    """
    message = parsed(ModelStreamInferResponse, data)
    return decode_response(message.infer_response.SerializeToString()), message.error_message


def _final() -> bytes:
    message = ModelInferResponse()
    message.parameters[FINAL].bool_param = True
    written: bytes = message.SerializeToString()
    return written


_IS_FINAL: Final = _final()
