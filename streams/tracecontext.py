"""W3C's `traceparent`: which trace, below which span, and whether anybody records it. Pure.

A span's id follows from its parent and from what it is about: whoever does a thing again after a crash names the same
span again, and two processes can name it without a word between them. `streams/traces.py` records them.
"""

from __future__ import annotations

import re
from hashlib import blake2b
from typing import Final, NamedTuple

# Version ff, and ids of zeros alone, are none; what a later version has behind the flags is not for us.
_FORM: Final = re.compile(r"(?!ff)[0-9a-f]{2}-((?!0{32})[0-9a-f]{32})-((?!0{16})[0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?")
_RECORDED: Final = 1
MOST_NAMED: Final = 16
"""Traces that a record of several calls names, each in 55 characters."""


class Place(NamedTuple):
    """A span in a trace."""

    trace: str
    span: str
    flags: str

    def __str__(self) -> str:
        return f"00-{self.trace}-{self.span}-{self.flags}"


def recorded(traceparent: str) -> Place | None:
    """Read it; None for one that is none, or that nobody records."""
    found = _FORM.fullmatch(traceparent)
    if found is None or not int(found[3], 16) & _RECORDED:
        return None
    return Place(*found.groups())


def below(parent: Place, *about: str | int) -> Place:
    """Give the span below another that is about this: the same for the same, always."""
    text = "\x1f".join((parent.trace, parent.span, *map(str, about)))
    digest = blake2b(text.encode(errors="surrogatepass"), digest_size=8).hexdigest()
    return parent._replace(span=digest)
