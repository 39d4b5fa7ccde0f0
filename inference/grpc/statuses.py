"""The one table from errors to gRPC statuses, and the words that go with them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Final

from inference import errors
from inference.http2.status import Code
from inference.protocol.errors import ProtocolError
from inference.protocol.grpc_schema import Messages, Schema
from streams.errors import InvalidEvent, MissingExtra, UnknownPlugin

log = logging.getLogger(__name__)

STATUSES: Final[dict[type[Exception], Code]] = {
    ProtocolError: Code.INVALID_ARGUMENT,
    InvalidEvent: Code.INVALID_ARGUMENT,
    errors.InvalidInput: Code.INVALID_ARGUMENT,
    errors.ModelNotFound: Code.NOT_FOUND,
    errors.ModelNotReady: Code.UNAVAILABLE,
    errors.Overloaded: Code.UNAVAILABLE,
    errors.Postponed: Code.RESOURCE_EXHAUSTED,
    errors.BodyTooLarge: Code.RESOURCE_EXHAUSTED,
    errors.DeadlineExceeded: Code.DEADLINE_EXCEEDED,
    errors.DeviceExhausted: Code.UNAVAILABLE,
    errors.DeviceLost: Code.UNAVAILABLE,
    errors.ProcessSilent: Code.UNAVAILABLE,
    errors.BodyTooSlow: Code.DEADLINE_EXCEEDED,
    errors.ClientGone: Code.CANCELLED,
    errors.Unsupported: Code.UNIMPLEMENTED,
    MissingExtra: Code.UNIMPLEMENTED,
    # No repetition helps before somebody has changed the model's folder.
    errors.ModelLoadFailed: Code.FAILED_PRECONDITION,
    UnknownPlugin: Code.FAILED_PRECONDITION,
    errors.PredictionFailed: Code.INTERNAL,
    errors.PredictorRefused: Code.INVALID_ARGUMENT,
    errors.PredictorUnavailable: Code.UNAVAILABLE,
    errors.PredictorFailed: Code.INTERNAL,
}
_REFUSALS: Final = {
    401: Code.UNAUTHENTICATED,
    403: Code.PERMISSION_DENIED,
    404: Code.NOT_FOUND,
    409: Code.FAILED_PRECONDITION,
    413: Code.RESOURCE_EXHAUSTED,
    429: Code.RESOURCE_EXHAUSTED,
    501: Code.UNIMPLEMENTED,
}
"""What a refusal by the predictor behind a transformer means here; the others are INVALID_ARGUMENT."""
_RETRY_LATER: Final = (
    errors.ModelNotReady, errors.Overloaded, errors.PredictorUnavailable, errors.DeviceExhausted, errors.DeviceLost,
    errors.ProcessSilent,
)  # fmt: skip
_LONGEST: Final = 2_000
"""Characters of a text: by default a client takes 8 KiB of trailers, and one character may become nine bytes."""

# google.rpc's Status, RetryInfo and what they hold: what gRPC's clients read from `grpc-status-details-bin`.
_RPC: Final = Messages(
    Schema(
        file="rpc.proto",
        package="google.rpc",
        messages={
            "Any": ("1 type_url string", "2 value bytes"),
            "Status": ("1 code int32", "2 message string", "3 details *Any"),
            "Duration": ("1 seconds int64", "2 nanos int32"),
            "RetryInfo": ("1 retry_delay Duration",),
        },
    )
)
_Status, _RetryInfo, _Duration = _RPC.of("Status"), _RPC.of("RetryInfo"), _RPC.of("Duration")

Metadata = Mapping[str, str | bytes]
_NOTHING: Final[Metadata] = {}


class Refused(Exception):
    """A call that ends with a status of the transport's own."""

    def __init__(self, code: Code, text: str) -> None:
        super().__init__(text)
        self.code = code


def status_of(error: Exception) -> Code | None:
    """Give the status of an error; None for what is a bug."""
    if isinstance(error, Refused):
        return error.code
    if isinstance(error, errors.PredictorRefused):
        return _REFUSALS.get(error.status, Code.INVALID_ARGUMENT)
    return next((STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES), None)


def text_of(error: Exception) -> str:
    """Give the text for an error: the domain's own message, or type and text of what nobody expected."""
    text = str(error) if status_of(error) is not None else f"{type(error).__name__} : {error}"
    if isinstance(error, errors.ModelNotFound):
        text = error.in_v2
    # A model's error may hold half of a surrogate pair, which no protocol can carry.
    text = text.encode(errors="backslashreplace").decode()
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def details_of(error: Exception) -> Metadata:
    """Say when to come again, in the three ways that clients look for it: gRPC's own, google.rpc's and HTTP's."""
    if not isinstance(error, _RETRY_LATER):
        return _NOTHING
    seconds = error.retry_after_s
    retry = _RetryInfo(retry_delay=_Duration(seconds=int(seconds)))
    status = _Status(code=code_of(error), message=text_of(error))
    status.details.add(type_url="type.googleapis.com/google.rpc.RetryInfo", value=retry.SerializeToString())
    return {
        "grpc-retry-pushback-ms": str(int(seconds * 1_000)),
        "grpc-status-details-bin": status.SerializeToString(),
        "retry-after": str(int(seconds)),
    }


def note(method: str, error: Exception) -> None:
    """Log an error that nobody expected."""
    if status_of(error) is None:
        log.error("%s failed", method, exc_info=error)


def code_of(error: Exception) -> Code:
    """Give the status of any error: of a bug, too."""
    return status_of(error) or Code.INTERNAL
