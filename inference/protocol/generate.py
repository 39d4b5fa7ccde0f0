"""Bodies of `generate` and `generate_stream`: a text in, a text out, whole or piece by piece. Pure.

Sources: Open Inference Protocol, "Open Inference API for text generation"; Triton's generate extension, whose extra
fields beside `parameters` are parameters, too. A stream is Server-Sent Events (WHATWG HTML, section 9.2).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import orjson

from inference.protocol import objects
from inference.protocol.errors import MalformedBody

PROMPT: Final = "text_input"
OUTPUT: Final = "text_output"
Form: TypeAlias = tuple[str, tuple[int, ...]]
"""Datatype and shape of a tensor, as metadata say them; -1 is any size."""
EVENT_STREAM: Final = "text/event-stream"
_FIELDS: Final = frozenset({"id", "parameters", "text_input"})


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateRequest:
    """What is asked."""

    prompt: str
    parameters: Mapping[str, Any]
    id: str | None = None


def decode_request(body: bytes) -> GenerateRequest:
    """Read a request.

    Raises:
        MalformedBody: no JSON object, no `text_input`, or parameters that are no object.
    """
    fields = objects.read(body)
    prompt, identity = fields.get("text_input"), fields.get("id")
    if not isinstance(prompt, str):
        raise MalformedBody("text_input", f"expected text, got {type(prompt).__name__}")
    if identity is not None and not isinstance(identity, str):
        raise MalformedBody("id", f"expected text, got {type(identity).__name__}")
    parameters = fields.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise MalformedBody("parameters", f"expected a JSON object, got {type(parameters).__name__}")
    others = {name: value for name, value in fields.items() if name not in _FIELDS}
    return GenerateRequest(prompt=prompt, parameters=others | parameters, id=identity)


def encode_response(request: GenerateRequest, model: str, version: str, text: str) -> bytes:
    """Write the whole text."""
    return orjson.dumps(_head(request, model, version) | {"text_output": text})


def encode_event(request: GenerateRequest, model: str, version: str, piece: str, *, done: bool) -> bytes:
    """Write one event of a stream; the last is done, and has no text."""
    return _event(_head(request, model, version) | {"text_output": piece, "done": done})


def encode_error(text: str) -> bytes:
    """Write the event that ends a stream in mid-text."""
    return _event({"error": text})


def _head(request: GenerateRequest, model: str, version: str) -> dict[str, Any]:
    head: dict[str, Any] = {} if request.id is None else {"id": request.id}
    return head | {"model_name": model, "model_version": version}


def _event(fields: Mapping[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(fields) + b"\n\n"
