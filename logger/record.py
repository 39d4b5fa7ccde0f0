"""An exchange as one record in shared memory: what the proxy saw, and the bodies behind it.

`marshal` is Python's own and the quickest there is; both ends are processes of one program on one machine, and no byte
of a record ever comes from or goes to anywhere else.
"""

from __future__ import annotations

import marshal
import struct
from typing import Final

from logger.tap import Body, Seen

_LENGTH: Final = struct.Struct("<I")


def encode(seen: Seen) -> tuple[list[bytes], int]:
    """Give the pieces of a record and their size; bodies are not copied."""
    request, response = seen.request, seen.response
    facts = marshal.dumps((
        seen.correlation, seen.method, seen.path, seen.request_fields, seen.started_us, seen.response_fields,
        seen.status, seen.first_byte_us, seen.latency_us, seen.aborted, request.kept, request.size, response.size,
    ))  # fmt: skip
    pieces = [_LENGTH.pack(len(facts)), facts, *request.chunks, *response.chunks]
    return pieces, _LENGTH.size + len(facts) + request.kept + response.kept


def decode(record: bytes) -> Seen:
    """Give the exchange of a record."""
    (length,) = _LENGTH.unpack_from(record)
    at = _LENGTH.size + length
    facts = marshal.loads(record[_LENGTH.size : at])  # noqa: S302 - our own process wrote it, see above
    kept, request_size, response_size = facts[-3:]
    seen = Seen(*facts[:-3])
    seen.request = _body(record[at : at + kept], request_size)
    seen.response = _body(record[at + kept :], response_size)
    return seen


def _body(content: bytes, size: int) -> Body:
    return Body([content] if content else [], len(content), size)
