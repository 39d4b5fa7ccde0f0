"""HTTP answers: bytes in, `{"error": text}` for everything that goes wrong. The one table from errors to statuses."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

import orjson
from starlette.responses import Response

from inference import errors
from inference.protocol.errors import ProtocolError
from streams.errors import InvalidEvent, MissingExtra, UnknownPlugin
from streams.events import MODEL_VERSION_HEADER

STATUSES: Final[dict[type[Exception], int]] = {
    ProtocolError: 400,
    InvalidEvent: 400,
    errors.InvalidInput: 400,
    errors.ModelNotFound: 404,
    errors.BodyTooSlow: 408,
    errors.BodyTooLarge: 413,
    errors.ClientGone: 499,
    errors.PredictionFailed: 500,
    errors.PredictorRefused: 400,
    errors.PredictorUnavailable: 503,
    errors.PredictorFailed: 502,
    errors.ModelLoadFailed: 500,
    UnknownPlugin: 500,
    MissingExtra: 501,
    errors.Unsupported: 501,
    errors.ModelNotReady: 503,
    errors.Overloaded: 503,
    errors.Postponed: 429,
    errors.DeadlineExceeded: 503,
    errors.DeviceExhausted: 503,
    errors.DeviceLost: 503,
    errors.ProcessSilent: 503,
}
_RETRY_LATER: Final = (
    errors.ModelNotReady, errors.Overloaded, errors.DeadlineExceeded, errors.PredictorUnavailable,
    errors.DeviceExhausted, errors.DeviceLost, errors.ProcessSilent,
)  # fmt: skip
_CLOSE: Final = (errors.BodyTooLarge, errors.BodyTooSlow)
JSON: Final = "application/json"
_VERSION: Final = MODEL_VERSION_HEADER.encode()
_TOKEN: Final = re.compile(r"[!-~]+")


def status_of(error: Exception) -> int | None:
    """Give the status of an error; None for what is a bug."""
    if isinstance(error, errors.PredictorRefused):
        return error.status
    return next((STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES), None)


def json(content: Any, status: int = 200) -> Response:  # noqa: ANN401 - whatever JSON can hold
    """Answer with JSON."""
    return Response(orjson.dumps(content), status, media_type=JSON)


def plain(body: bytes, kind: str, *headers: tuple[bytes, bytes]) -> Response:
    """Answer 200 with a body as it is."""
    return _Plain(body, kind, headers)


class _Plain(Response):
    """What `Response` comes to, without looking for what is not there: half the time."""

    def __init__(self, body: bytes, kind: str, headers: Iterable[tuple[bytes, bytes]]) -> None:
        self.status_code, self.body, self.background = 200, body, None
        length = str(len(body)).encode()
        self.raw_headers = [*headers, (b"content-length", length), (b"content-type", kind.encode())]


def versioned(answer: Response, version: str) -> Response:
    """Name the model version that made an answer, for the logger, whose events carry it."""
    if version and _TOKEN.fullmatch(version):
        answer.raw_headers.append((_VERSION, version.encode()))
    return answer


def text_of(error: Exception, *, v2: bool = True) -> str:
    """Give the text for an error: the domain's own message, or type and text of what nobody expected."""
    text = str(error) if status_of(error) is not None else f"{type(error).__name__} : {error}"
    if v2 and isinstance(error, errors.ModelNotFound):
        text = error.in_v2
    # A model's error may hold half of a surrogate pair, which JSON cannot carry.
    return text.encode(errors="backslashreplace").decode()


def refusal(error: Exception, *, v2: bool = True) -> Response:
    """Answer with an error."""
    answer = json({"error": text_of(error, v2=v2)}, status_of(error) or 500)
    if isinstance(error, _RETRY_LATER) or (isinstance(error, errors.PredictorRefused) and error.retry_after_s):
        answer.headers["retry-after"] = str(getattr(error, "retry_after_s", 1))
    if isinstance(error, _CLOSE):
        # What is left of the body stays unread: the connection cannot be used again.
        answer.headers["connection"] = "close"
    return answer
