"""What is done to one value: masked, put into a bucket, cut, or replaced by a pseudonym. Pure.

A key is in no repr.
"""

from __future__ import annotations

import hmac
import math
from bisect import bisect_right
from dataclasses import dataclass, field
from typing import Any, Final

DROP: Final = "drop"
MASK: Final = "mask"
PSEUDONYM: Final = "pseudonym"
BUCKET: Final = "bucket"
TRUNCATE: Final = "truncate"
ACTIONS: Final = (DROP, MASK, PSEUDONYM, BUCKET, TRUNCATE)
MASKED: Final = "***"
"""Stands for every masked text, whatever its length was."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """One action with its settings."""

    kind: str
    key_id: str = ""
    key: bytes = field(default=b"", repr=False)
    width: float = 0
    edges: tuple[float, ...] = ()
    length: int = 0

    def text(self, value: str) -> str:
        """Give what stands for a text."""
        if self.kind == PSEUDONYM:
            return self.pseudonym(value.encode())
        return value[: self.length] if self.kind == TRUNCATE else MASKED

    def raw(self, value: bytes) -> bytes:
        """Give what stands for bytes; as long as they are UTF-8 they are cut between characters."""
        if self.kind == PSEUDONYM:
            return self.pseudonym(value).encode()
        if self.kind != TRUNCATE:
            return MASKED.encode()
        try:
            return value.decode()[: self.length].encode()
        except UnicodeDecodeError:
            return value[: self.length]

    def number(self, value: float) -> float | None:
        """Give what stands for a number where a number has to stand; None is nothing."""
        return self._bucket(value) if self.kind == BUCKET else None

    def value(self, value: Any) -> Any:  # noqa: ANN401 - whatever JSON holds
        """Give what stands for any JSON value.

        Lists keep their length. Of an object, whose keys may tell as much as its values, nothing stays.
        """
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list):
            return [self.value(item) for item in value]
        if not isinstance(value, int | float):
            return None
        if self.kind == PSEUDONYM:
            return self.pseudonym(canonical(value))
        # A truth value is a whole number to Python, and none to a bucket.
        return None if isinstance(value, bool) else self.number(value)

    def pseudonym(self, value: bytes) -> str:
        """Give the key's id and HMAC-SHA-256 of a value: equal for equal values, and nothing without the key."""
        return f"{self.key_id}:{hmac.digest(self.key, value, 'sha256').hex()}"

    def _bucket(self, value: float) -> float | None:
        try:
            if not math.isfinite(value):
                return None
            if self.edges:
                # What lies below the first edge counts as in the first bucket: a number has to stand there.
                return self.edges[max(0, bisect_right(self.edges, value) - 1)]
            lowest = value // self.width * self.width
            return lowest if math.isfinite(lowest) else None
        except OverflowError:
            return None


def canonical(value: Any) -> bytes:  # noqa: ANN401 - a number or a truth value
    """Spell a number or a truth value for its pseudonym: 1, 1.0 and 1e0 are one number, and the text "1" is equal."""
    if isinstance(value, bool):
        return b"true" if value else b"false"
    if isinstance(value, float) and not value.is_integer():
        return repr(value).encode()
    return str(int(value)).encode()
