"""A JSON object, which most bodies are. V2's, which may be long, are read in `bodies.py`. Pure."""

from __future__ import annotations

from typing import Any

import orjson

from inference.protocol.errors import MalformedBody


def read(body: bytes) -> dict[str, Any]:
    """Read a body.

    Raises:
        MalformedBody: no JSON, or none of an object.
    """
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise MalformedBody("body", f"no JSON: {exc}") from exc
    if not isinstance(fields, dict):
        raise MalformedBody("body", f"expected a JSON object, got {type(fields).__name__}")
    return fields
