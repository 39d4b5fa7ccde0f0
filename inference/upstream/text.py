"""A text that the predictor makes: read piece by piece from its Server-Sent Events, as it makes them.

Sources: Open Inference Protocol's `generate_stream`, Triton's generate extension, which has no last event of its own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator
from typing import Any

import orjson

from inference.errors import DeadlineExceeded, PredictorFailed
from inference.upstream.http import Broken


class Text:
    """The pieces, to be read to their end or closed. Its first event has come when it is made.

    Args:
        body: of the answer, as it comes.
        version: that the answer's head names; its events may name another.
        named: the predictor, in messages.
        seconds: how long all of it may take.

    Raises:
        PredictorFailed: the predictor fails in mid-text, or what it sends is no text.
        DeadlineExceeded: the text is not over in time.
    """

    def __init__(self, body: Generator[bytes, None, None], version: str, named: str, seconds: float) -> None:
        self.version = version
        """Of the model that makes it; empty where the predictor does not say."""
        self._body, self._named, self._seconds = body, named, seconds
        self._events = _events(body)
        self._over = False
        self._first: str | None = None
        try:
            self._first = next(self, None)
        except BaseException:
            self.close()
            raise

    def __iter__(self) -> Text:
        return self

    def __next__(self) -> str:
        """Wait for a piece."""
        piece, self._first = self._first, None
        while piece is None:
            if self._over:
                raise StopIteration
            piece = self._read()
        return piece

    def close(self) -> None:
        """Let the predictor stop."""
        self._body.close()

    def _read(self) -> str | None:
        try:
            event = next(self._events, None)
        except TimeoutError as exc:
            raise DeadlineExceeded(self._seconds) from exc
        except Broken as exc:
            raise PredictorFailed(f"{self._named} broke a text off: {exc}") from exc
        if event is None:
            self._over = True
            return None
        fields = self._fields(event)
        self._over = fields.get("done") is True
        if self._over:
            # Read to its end, the connection can be used again; the text is whole in any case.
            with contextlib.suppress(TimeoutError, Broken):
                for _ in self._body:
                    pass
        self.version = str(fields.get("model_version") or self.version)
        piece: str = fields["text_output"]
        return piece or None

    def _fields(self, event: bytes) -> dict[str, Any]:
        try:
            fields = orjson.loads(event)
        except orjson.JSONDecodeError as exc:
            raise PredictorFailed(f"{self._named} gave an event that is no JSON: {exc}") from exc
        if not isinstance(fields, dict) or not isinstance(fields.get("text_output", fields.get("error")), str):
            raise PredictorFailed(f"{self._named} gave an event without text_output")
        if "text_output" not in fields:
            raise PredictorFailed(f"{self._named} failed in mid-text: {fields['error']}")
        return fields


def _events(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Give the data of each event (WHATWG HTML, section 9.2)."""
    rest, data = b"", list[bytes]()
    for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            field, _, value = line.rstrip(b"\r").partition(b":")
            if field == b"data":
                data.append(value.removeprefix(b" "))
            elif not field and not value and data:
                yield b"\n".join(data)
                data = []
