"""V1 calls as parts of a batch: `{"instances": [...]}` in, `{"predictions": [...]}` out. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any, Final

import orjson

from logger.batching.parts import Part, canonical, loads, shape

_ROWS: Final = "instances"
_ANSWERS: Final = "predictions"


class V1:
    """See `logger.batching.parts.Codec`."""

    def read(self, body: bytes, header_length: int | None) -> Part | None:
        """Read a call. What stands beside the instances has to be equal."""
        fields = loads(body) if header_length is None else None
        rows = fields.pop(_ROWS, None) if fields else None
        if fields is None or not isinstance(rows, list) or not rows:
            return None
        like = shape(rows)
        return None if like is None else Part((canonical(fields), like), len(rows), (fields, rows))

    def join(self, parts: Sequence[Part]) -> tuple[bytes, int | None]:
        """Put the instances of all parts into one call."""
        fields: dict[str, Any] = parts[0].content[0]
        rows = list(chain.from_iterable(part.content[1] for part in parts))
        return orjson.dumps({**fields, _ROWS: rows}), None

    def split(
        self, body: bytes, header_length: int | None, parts: Sequence[Part]
    ) -> list[tuple[bytes, int | None]] | None:
        """Give each part its predictions; a word or number that stands beside them goes to all."""
        fields = loads(body) if header_length is None else None
        rows = fields.get(_ANSWERS) if fields else None
        if fields is None or not isinstance(rows, list) or len(rows) != sum(part.rows for part in parts):
            return None
        if any(isinstance(value, list | dict) for name, value in fields.items() if name != _ANSWERS):
            # It may be about the rows, and nothing says which.
            return None
        found: list[tuple[bytes, int | None]] = []
        at = 0
        for part in parts:
            answer = orjson.dumps(fields | {_ANSWERS: rows[at : at + part.rows]})
            found.append((answer, None))
            at += part.rows
        return found
