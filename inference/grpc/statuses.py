"""The one table from errors to gRPC statuses, and the words that go with them."""

from __future__ import annotations

import logging
from typing import Any, Final, NoReturn

from grpc import StatusCode

from inference import errors
from inference.protocol.errors import ProtocolError
from inference.protocol.grpc_schema import Messages, Schema
from streams.errors import InvalidEvent, MissingExtra, UnknownPlugin

log = logging.getLogger(__name__)

STATUSES: Final[dict[type[Exception], StatusCode]] = {
    ProtocolError: StatusCode.INVALID_ARGUMENT,
    InvalidEvent: StatusCode.INVALID_ARGUMENT,
    errors.InvalidInput: StatusCode.INVALID_ARGUMENT,
    errors.ModelNotFound: StatusCode.NOT_FOUND,
    errors.ModelNotReady: StatusCode.UNAVAILABLE,
    errors.Overloaded: StatusCode.UNAVAILABLE,
    errors.Postponed: StatusCode.RESOURCE_EXHAUSTED,
    errors.BodyTooLarge: StatusCode.RESOURCE_EXHAUSTED,
    errors.DeadlineExceeded: StatusCode.DEADLINE_EXCEEDED,
    errors.BodyTooSlow: StatusCode.DEADLINE_EXCEEDED,
    errors.ClientGone: StatusCode.CANCELLED,
    errors.Unsupported: StatusCode.UNIMPLEMENTED,
    MissingExtra: StatusCode.UNIMPLEMENTED,
    # No repetition helps before somebody has changed the model's folder.
    errors.ModelLoadFailed: StatusCode.FAILED_PRECONDITION,
    UnknownPlugin: StatusCode.FAILED_PRECONDITION,
    errors.PredictionFailed: StatusCode.INTERNAL,
    errors.PredictorRefused: StatusCode.INVALID_ARGUMENT,
    errors.PredictorUnavailable: StatusCode.UNAVAILABLE,
    errors.PredictorFailed: StatusCode.INTERNAL,
}
_REFUSALS: Final = {
    401: StatusCode.UNAUTHENTICATED,
    403: StatusCode.PERMISSION_DENIED,
    404: StatusCode.NOT_FOUND,
    409: StatusCode.FAILED_PRECONDITION,
    413: StatusCode.RESOURCE_EXHAUSTED,
    429: StatusCode.RESOURCE_EXHAUSTED,
    501: StatusCode.UNIMPLEMENTED,
}
"""What a refusal by the predictor behind a transformer means here; the others are INVALID_ARGUMENT."""
_RETRY_LATER: Final = (errors.ModelNotReady, errors.Overloaded, errors.PredictorUnavailable)
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

Metadata = tuple[tuple[str, str | bytes], ...]


def status_of(error: Exception) -> StatusCode | None:
    """Give the status of an error; None for what is a bug."""
    if isinstance(error, errors.PredictorRefused):
        return _REFUSALS.get(error.status, StatusCode.INVALID_ARGUMENT)
    return next((STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES), None)


def text_of(error: Exception) -> str:
    """Give the text for an error: the domain's own message, or type and text of what nobody expected."""
    text = str(error) if status_of(error) is not None else f"{type(error).__name__} : {error}"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def details_of(error: Exception) -> Metadata:
    """Say when to come again, in the three ways that clients look for it: gRPC's own, google.rpc's and HTTP's."""
    if not isinstance(error, _RETRY_LATER):
        return ()
    seconds = error.retry_after_s
    retry = _RetryInfo(retry_delay=_Duration(seconds=int(seconds)))
    status = _Status(code=_code(error).value[0], message=text_of(error))
    status.details.add(type_url="type.googleapis.com/google.rpc.RetryInfo", value=retry.SerializeToString())
    return (
        ("grpc-retry-pushback-ms", str(int(seconds * 1_000))),
        ("grpc-status-details-bin", status.SerializeToString()),
        ("retry-after", str(int(seconds))),
    )


def note(method: str, error: Exception) -> None:
    """Log an error that nobody expected."""
    if status_of(error) is None:
        log.error("%s failed", method, exc_info=error)


async def refuse(context: Any, method: str, error: Exception) -> NoReturn:  # noqa: ANN401 - grpc has no types
    """End a call with an error."""
    note(method, error)
    await context.abort(_code(error), text_of(error), details_of(error))
    raise AssertionError("abort returned")


def _code(error: Exception) -> StatusCode:
    return status_of(error) or StatusCode.INTERNAL
