"""Reads a text from its Server-Sent Events, as they come.

Sources: Open Inference Protocol's `generate_stream`, Triton's generate extension, which has no last event of its own;
WHATWG HTML, section 9.2.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator
from typing import Any

import orjson

from inference.errors import DeadlineExceeded, PredictorFailed
from inference.upstream.http import Broken, Pieces
from inference.upstream.text import Said


class _Wrong(Exception):
    """What came is no text."""


def said(body: Pieces, named: str, seconds: float, most: int) -> Generator[Said, None, None]:
    """Give what the events say.

    Args:
        body: of the answer, as it comes; closed with this.
        named: the predictor, in messages.
        seconds: how long all of it may take.
        most: bytes of one event.

    Raises:
        PredictorFailed: it fails in mid-text, or what it sends is no text.
        DeadlineExceeded: the text is not over in time.
    """
    try:
        for event in _events(body, most):
            fields = _fields(event)
            over = fields.get("done") is True
            if over:
                # Whatever else may come is no part of the text; where it is the body's end, the connection is kept.
                with contextlib.suppress(StopIteration, TimeoutError, Broken):
                    body.send(True)  # noqa: FBT003 - generators take no names
            yield Said(fields["text_output"], str(fields.get("model_version") or ""))
            if over:
                return
    except TimeoutError as exc:
        raise DeadlineExceeded(seconds) from exc
    except Broken as exc:
        raise PredictorFailed(f"{named} broke a text off: {exc}") from exc
    except _Wrong as exc:
        raise PredictorFailed(f"{named} {exc}") from exc
    finally:
        body.close()


def _events(pieces: Iterator[bytes], most: int) -> Iterator[bytes]:
    """Give the data of each event."""
    buffer, data, size = bytearray(), list[bytes](), 0
    for piece in pieces:
        seen = len(buffer)
        buffer += piece
        begin = 0
        while (end := buffer.find(b"\n", max(seen, begin))) >= 0:
            field, _, value = bytes(buffer[begin:end]).rstrip(b"\r").partition(b":")
            begin = end + 1
            if field == b"data":
                data.append(value.removeprefix(b" "))
                # With the line's end, which is a part of it, and all that some lines have.
                size += len(value) + 1
            elif not field and not value and data:
                _check(size, most)
                yield b"\n".join(data)
                data, size = [], 0
        del buffer[:begin]
        _check(size + len(buffer), most)


def _check(size: int, most: int) -> None:
    if size > most:
        raise _Wrong(f"gave a piece of a text of more than {most} bytes: --predictor_max_piece_bytes")


def _fields(event: bytes) -> dict[str, Any]:
    try:
        fields = orjson.loads(event)
    except orjson.JSONDecodeError as exc:
        raise _Wrong(f"gave an event that is no JSON: {exc}") from exc
    if not isinstance(fields, dict) or not isinstance(fields.get("text_output", fields.get("error")), str):
        raise _Wrong("gave an event without text_output")
    if "text_output" not in fields:
        raise _Wrong(f"failed in mid-text: {fields['error']}")
    return fields
