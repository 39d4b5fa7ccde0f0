"""Keys by their ids. The text that they are read from has an id and a key in base64 on each line. Pure.

A key is in no repr and in no error text.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Final

from streams.errors import BadKeys

LEAST: Final = 32
"""Bytes of the shortest key."""
_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)


class Keyring:
    """Some keys. Old ones stay on the ring for as long as what they made is still read."""

    __slots__ = ("_keys",)

    def __init__(self, keys: Mapping[str, bytes] | None = None) -> None:
        self._keys = dict(keys or {})

    def __repr__(self) -> str:
        return f"Keyring({', '.join(self._keys) or 'empty'})"

    def get(self, key_id: str) -> bytes | None:
        """Give a key; None when it is not on the ring."""
        return self._keys.get(key_id)

    def ids(self) -> tuple[str, ...]:
        """Give the ids, in the order of the text."""
        return tuple(self._keys)

    @classmethod
    def parse(cls, text: str) -> Keyring:
        """Read keys: `id base64` on each line; empty lines and lines that begin with `#` say nothing.

        Raises:
            BadKeys: a line that is none, an id that comes twice, or a key below 32 bytes; the text names the line.
        """
        keys: dict[str, bytes] = {}
        for number, line in enumerate(text.splitlines(), 1):
            words = line.split()
            if not words or words[0].startswith("#"):
                continue
            # The line itself stays out of the text: whatever is wrong with it, it holds a key.
            if len(words) != 2 or not _ID.fullmatch(words[0]):  # noqa: PLR2004 - an id and a key
                raise BadKeys(f"line {number}: expected an id of letters, digits, '.', '_', '-', then a key in base64")
            key_id, coded = words
            if key_id in keys:
                raise BadKeys(f"line {number}: key {key_id!r} comes twice")
            # Whoever turned the two around has written a key where the id belongs.
            keys[key_id] = _decoded(coded, f"line {number}")
        if not keys:
            raise BadKeys("expected at least one line with an id and a key in base64")
        return cls(keys)


def _decoded(coded: str, where: str) -> bytes:
    try:
        key = base64.b64decode(coded, validate=True)
    except (binascii.Error, ValueError):
        raise BadKeys(
            f"{where}: expected a key in base64, after its id; one that is comes from `openssl rand -base64 32`"
        ) from None
    if len(key) < LEAST:
        raise BadKeys(f"{where}: expected a key of at least {LEAST} bytes, got {len(key)}")
    return key
