"""A call whose body travels as a CloudEvent: the endpoint gets what it carries, and the answer goes back as one."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import Response

from inference.protocol import cloudevents
from inference.protocol.cloudevents import EventSettings
from streams.events import Event, format_time

_OK = 200
_CONTENT_TYPE, _LENGTH = "content-type", "content-length"


class Exchange:
    """One call's events."""

    def __init__(self, request: Request, body: Callable[[], bytes], settings: EventSettings) -> None:
        self._request, self._body, self._settings = request, body, settings
        self._asked: Event | None = None
        self._structured = False

    def data(self) -> bytes:
        """Give what the event carries. Work for a thread, unless it is small; may be called again.

        Raises:
            InvalidEvent: no CloudEvent.
        """
        if self._asked is None:
            self._asked, self._structured = cloudevents.read(self._request.scope["headers"], self._body())
        return self._asked.data or b""

    def answered(self, answer: Response) -> Response:
        """Give an answer as an event; what was refused, and a stream, stay as they are, as on KServe's servers."""
        if self._asked is None or answer.status_code != _OK or _LENGTH not in answer.headers:
            return answer
        event = cloudevents.reply(
            self._asked,
            self._request.path_params["model"],
            bytes(answer.body),
            answer.headers[_CONTENT_TYPE],
            self._settings,
            str(uuid.uuid4()),
            format_time(time.time_ns() // 1_000),
        )
        headers, body = cloudevents.write(event, structured=self._structured)
        kept = {name: value for name, value in answer.headers.items() if name not in {_CONTENT_TYPE, _LENGTH}}
        return Response(body, answer.status_code, headers=kept | dict(headers))
